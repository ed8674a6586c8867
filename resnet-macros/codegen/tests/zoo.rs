//! The zoo's specs against torchvision 0.29.2, timm 1.0.31 and the papers.

use resnet_codegen::Compiled;
use resnet_codegen::diagnostic::Sources;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../zoo")
}

fn compile(name: &str) -> Compiled {
    let mut sources = Sources::default();
    let load = |path: &str| std::fs::read_to_string(folder().join(path)).map_err(|error| error.to_string());
    let root = sources.add(format!("{name}.yaml"), load(&format!("{name}.yaml")).expect("a spec of the zoo"));
    resnet_codegen::compile(&mut sources, root, &load).unwrap_or_else(|errors| panic!("{}", errors.render(&sources)))
}

/// Parameters as the published models have them; the CIFAR networks as the paper's option A gives them.
const PARAMS: [(&str, u64); 21] = [
    ("cifar_resnet110", 1_727_962),
    ("cifar_resnet20", 269_722),
    ("cifar_resnet32", 464_154),
    ("cifar_resnet44", 658_586),
    ("cifar_resnet56", 853_018),
    ("ecaresnet50t", 25_573_814),
    ("mc3_18", 11_695_440),
    ("r2plus1d_18", 31_505_325),
    ("r3d_18", 33_371_472),
    ("resnet101", 44_549_160),
    ("resnet152", 60_192_808),
    ("resnet18", 11_689_512),
    ("resnet26t", 16_011_872),
    ("resnet34", 21_797_672),
    ("resnet50", 25_557_032),
    ("resnet50_fpn", 26_852_416),
    ("resnet50d", 25_576_264),
    ("resnext101_32x8d", 88_791_336),
    ("resnext50_32x4d", 25_028_904),
    ("seresnet50", 28_088_024),
    ("wide_resnet50_2", 68_883_240),
];

#[test]
fn every_spec_has_its_published_parameter_count() {
    let mut specs: Vec<String> = std::fs::read_dir(folder())
        .expect("the zoo")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    specs.sort();
    let counted: Vec<(String, u64)> = specs.iter().map(|name| (name.clone(), compile(name).summary.params)).collect();
    let expected: Vec<(String, u64)> = PARAMS.iter().map(|(name, params)| ((*name).to_owned(), *params)).collect();
    assert_eq!(counted, expected);
}

/// torchvision's metadata says 1.814, 3.664, 4.089, 7.801 and 11.514 billion.
#[test]
fn multiply_accumulates_are_torchvisions() {
    let macs =
        ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "r3d_18", "r2plus1d_18"]
            .map(|name| (compile(name).summary.macs as f64 / 1e6).round() / 1e3);
    assert_eq!(macs, [1.814, 3.664, 4.089, 7.801, 11.514, 4.230, 40.697, 40.519]);
}

#[test]
fn keys_are_the_checkpoints() {
    let has = |model: &str, name: &str, shape: &[usize]| {
        let compiled = compile(model);
        let found = compiled.summary.parameters.iter().find(|parameter| parameter.name == name);
        assert_eq!(found.unwrap_or_else(|| panic!("{model} has no {name}")).shape, shape, "{model}: {name}");
    };
    has("resnet34", "layer2.0.downsample.0.weight", &[128, 64, 1, 1]);
    has("resnet50", "layer4.2.bn3.running_var", &[2048]);
    has("resnext50_32x4d", "layer1.0.conv2.weight", &[128, 4, 3, 3]);
    has("resnet50d", "layer1.0.downsample.1.weight", &[256, 64, 1, 1]);
    has("resnet26t", "conv1.6.weight", &[64, 32, 3, 3]);
    has("seresnet50", "layer1.0.se.fc1.weight", &[16, 256, 1, 1]);
    has("ecaresnet50t", "layer4.0.se.conv.weight", &[1, 1, 7]);
    has("r2plus1d_18", "layer2.0.conv1.0.3.weight", &[128, 230, 3, 1, 1]);
    has("mc3_18", "layer2.0.conv1.0.weight", &[128, 64, 1, 3, 3]);
    has("resnet50_fpn", "fpn.inner_blocks.3.0.weight", &[256, 2048, 1, 1]);
    has("cifar_resnet20", "layer2.0.conv1.weight", &[32, 16, 3, 3]);
}

#[test]
fn feature_maps_have_their_shapes_and_strides() {
    let features = |model| {
        let features = compile(model).summary.features;
        features.into_iter().map(|map| (map.name, map.shape, map.stride)).collect::<Vec<_>>()
    };
    let map = |name: &str, shape: &[usize], stride| (name.to_owned(), shape.to_vec(), stride);
    assert_eq!(features("resnet50")[3], map("c5", &[2048, 7, 7], 32));
    assert_eq!(features("r3d_18")[3], map("c5", &[512, 2, 7, 7], 16));
    assert_eq!(features("mc3_18")[3], map("c5", &[512, 16, 7, 7], 16));
    assert_eq!(features("cifar_resnet20")[2], map("c4", &[64, 8, 8], 4));
    let pyramid = features("resnet50_fpn");
    assert_eq!(pyramid[0], map("p2", &[256, 56, 56], 4));
    assert_eq!(pyramid[4], map("p6", &[256, 4, 4], 64));
}

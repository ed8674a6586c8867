//! Golden expansions: what `show --expand` prints, as files that are compiled and run. `UPDATE_GOLDEN=1` rewrites them.

use super::models::{Recorder, recompile};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use resnet_codegen::diagnostic::Sources;
use resnet_codegen::{Compiled, pretty};
use std::path::{Path, PathBuf};
use zoo::models::{self, Entry};

macro_rules! golden {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(
            #[rustfmt::skip]
            #[allow(dead_code)]
            #[path = $file]
            mod $name;
        )*

        /// The entry of each compiled golden file.
        const GOLDEN: &[Entry] = &[$($name::ENTRY),*];
    };
}

golden! {
    resnet34 = "../expansions/resnet34.rs",
    resnet50d = "../expansions/resnet50d.rs",
    resnet50_fpn = "../expansions/resnet50_fpn.rs",
    r2plus1d_18 = "../expansions/r2plus1d_18.rs",
    inverted_residual = "../expansions/inverted_residual.rs",
    mixed_blocks = "../expansions/mixed_blocks.rs",
    preactivation = "../expansions/preactivation.rs",
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expansions")
}

/// The spec as it is now: of the zoo, or beside the golden file.
fn compile(name: &str) -> Compiled {
    if let Some(entry) = models::find(name) {
        return recompile(entry);
    }
    let mut sources = Sources::default();
    let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).expect("a spec beside its golden file");
    let root = sources.add(format!("{name}.yaml"), text);
    let compiled = resnet_codegen::compile(&mut sources, root, &|path| Err(format!("`{path}` is not looked for")));
    compiled.unwrap_or_else(|errors| panic!("{}", errors.render(&sources)))
}

#[test]
fn expansions_are_the_golden_files() {
    for entry in GOLDEN {
        let name = entry.card.name;
        let path = folder().join(format!("{name}.rs"));
        let expansion = pretty(&compile(name));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &expansion).expect("writable");
        }
        let golden = std::fs::read_to_string(&path).expect("a golden file");
        assert!(golden == expansion, "the expansion of {name} changed; UPDATE_GOLDEN=1 rewrites it");
    }
}

/// The golden files are not only text: they build, with the names and shapes of their specs, and run.
#[test]
fn golden_networks_run() -> Result<()> {
    for entry in GOLDEN {
        let (card, compiled) = (entry.card, compile(entry.card.name));
        let recorder = Recorder::default();
        let vb = VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu);
        let network = (entry.build)(card.classes, vb)?;
        assert_eq!(recorder.sorted(), super::models::inferred(&compiled), "{}", card.name);
        let input: &[usize] = if card.dims == 2 { &[2, 3, 64, 64] } else { &[2, 3, 4, 32, 32] };
        let x = Tensor::zeros(input, DType::F32, &Device::Cpu)?;
        for train in [false, true] {
            let y = network.forward_t(&x, train)?;
            let maps = network.forward_features(&x, train)?;
            assert_eq!(maps.0.len(), card.features.len(), "{}", card.name);
            assert!(y.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()), "{}", card.name);
        }
    }
    Ok(())
}

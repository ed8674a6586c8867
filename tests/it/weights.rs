//! Weights of one network of the zoo in another, through files.

use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use zoo::model::Entry;
use zoo::params::{NormPolicy, Params, Reshape, is_running_statistic};
use zoo::weights::{self, Adapt, Inflate, Target, WeightsError};
use zoo::{Model, models};

fn network(name: &str) -> &'static Entry {
    models::find(name).expect("the zoo has it")
}

fn target(entry: &Entry, classes: usize) -> Target {
    Target::of(entry.card, |vb| (entry.build)(classes, vb)).unwrap()
}

fn build(entry: &Entry, classes: usize, params: &Params) -> Box<dyn Model> {
    (entry.build)(classes, params.var_builder(DType::F32, &Device::Cpu)).unwrap()
}

/// The parameters of a seed in a file, under other names.
fn save(params: &Params, path: &Path, dtype: DType, rename: impl Fn(&str) -> String) {
    let state = params.state_dict().into_iter();
    let tensors: HashMap<String, Tensor> =
        state.map(|(name, tensor)| (rename(&name), tensor.to_dtype(dtype).unwrap())).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn what_a_network_asks_for_is_known_without_building_it() {
    for entry in models::all() {
        let target = target(entry, entry.card.classes);
        let parameters = target.shapes.iter().filter(|(name, _)| !is_running_statistic(name));
        let count: usize = parameters.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(count, entry.card.params, "{}", entry.card.name);
        let first = format!("{}.weight", target.first_conv);
        assert!(target.shapes.contains_key(&first), "{} lacks {first}", entry.card.name);
    }
}

#[test]
fn a_network_comes_back_from_a_file_bit_for_bit() {
    let entry = network("cifar_resnet20");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let trained = Params::new(1);
    let original = build(entry, 10, &trained);
    save(&trained, &path, DType::F32, |name| format!("module.{}", name.replace("fc.", "linear.")));

    let params = Params::new(2);
    params.load(weights::load(&path, &target(entry, 10), &Adapt::default()).unwrap()).unwrap();
    params.freeze(|name| !name.starts_with("fc."), NormPolicy::Frozen).unwrap();
    let copy = build(entry, 10, &params);
    let same: BTreeMap<_, _> = params.state_dict();
    for (name, tensor) in trained.state_dict() {
        assert_eq!(values(&tensor), values(&same[&name]), "{name}");
    }
    assert_eq!(params.report().loaded.len(), same.len());
    let trainable: Vec<String> = params.trainable().into_iter().map(|(name, _)| name).collect();
    assert_eq!(trainable, ["fc.bias", "fc.weight"]);
    assert!(params.buffers().is_empty());

    let images = Tensor::arange(0f32, (2 * 3 * 32 * 32) as f32, &Device::Cpu).unwrap();
    let images = (images.reshape((2, 3, 32, 32)).unwrap().sin()).unwrap();
    let logits = |model: &dyn Model| values(&model.forward_t(&images, false).unwrap());
    // The copy's norms are folded into its convolutions, which rounds otherwise.
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 * b.abs().max(1.);
    assert!(logits(&*original).iter().zip(&logits(&*copy)).all(close));
}

#[test]
fn a_half_precision_file_gives_another_head_and_other_channels() {
    let entry = network("cifar_resnet20");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    let trained = Params::new(1);
    build(entry, 10, &trained);
    save(&trained, &path, DType::BF16, str::to_string);

    let refused = weights::load(&path, &target(entry, 7), &Adapt::default()).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = refused else { panic!("{refused}") };
    assert_eq!(mismatch.reshaped.len(), 2);
    let loaded = weights::load(&path, &target(entry, 7), &Adapt { head: true, ..Adapt::default() }).unwrap();
    assert_eq!(loaded.report.initialised, ["fc.bias", "fc.weight"]);

    let mut grey = target(entry, 10);
    let first = format!("{}.weight", grey.first_conv);
    grey.shapes.get_mut(&first).unwrap()[1] = 1;
    let loaded = weights::load(&path, &grey, &Adapt { first_conv: true, ..Adapt::default() }).unwrap();
    assert_eq!(loaded.report.reshaped[0].how, Reshape::Channels);
    let summed = trained.state_dict()[&first].to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    assert_eq!(values(&loaded.tensors[&first]), values(&summed.sum_keepdim(1).unwrap()));
}

#[test]
fn a_2d_network_becomes_a_video_network() {
    let (image, video) = (network("resnet18"), network("r3d_18"));
    let params = Params::new(1);
    build(image, 3, &params);
    let allowed = Adapt { head: true, inflate: Some(Inflate::Centre), ..Adapt::default() };
    let loaded = weights::adapt(params.state_dict(), &target(video, 5), &allowed).unwrap();
    assert_eq!(loaded.report.initialised, ["fc.bias", "fc.weight"]);
    assert!(loaded.report.unused.is_empty());
    let kernels = loaded.report.reshaped.iter().filter(|reshaped| reshaped.how == Reshape::Inflated).count();
    assert_eq!(kernels, 20);
    let params = Params::new(2);
    params.load(loaded).unwrap();
    build(video, 5, &params);
}

//! Every model of the zoo against torchvision, timm, or for the CIFAR nets a PyTorch definition after the
//! paper: the number of parameters, every stage's output and the logits in evaluation, and after one
//! training step on the smoothed cross-entropy the loss, each parameter's gradient and the running
//! statistics. tests/golden/generate.py made the references, in float64, and says why they are comparable.

use crate::it::formula::{Formula, input, labels, summary};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use zoo::Model;
use zoo::models;
use zoo::ops::loss::{Target, cross_entropy};

/// What an output may differ from float64, relative. PyTorch's own float32 uses less than a hundredth of it.
const FORWARD: f64 = 1e-4;
/// What a gradient or a running statistic may differ, relative.
const GRADIENT: f64 = 1e-3;
const SMOOTHING: f64 = 0.1;

macro_rules! parity {
    ($($model:ident = $params:literal,)*) => {
        $(#[test] fn $model() { assert_parity(stringify!($model), $params); })*

        #[test]
        fn every_model_of_the_zoo_is_compared() {
            let compared = [$(stringify!($model)),*];
            let missing: Vec<_> = models::all().iter().map(|m| m.card.name).filter(|m| !compared.contains(m)).collect();
            assert!(missing.is_empty(), "no golden file for {missing:?}: add them to generate.py and to this test");
        }
    };
}

// Parameters as torchvision 0.29 and timm 1.0 count them.
parity! {
    resnet18 = 11_689_512,
    resnet34 = 21_797_672,
    resnet50 = 25_557_032,
    resnet101 = 44_549_160,
    resnet152 = 60_192_808,
    resnext50_32x4d = 25_028_904,
    resnext101_32x8d = 88_791_336,
    wide_resnet50_2 = 68_883_240,
    resnet26t = 16_011_872,
    resnet50d = 25_576_264,
    seresnet50 = 28_088_024,
    ecaresnet50t = 25_573_814,
    r3d_18 = 33_371_472,
    mc3_18 = 11_695_440,
    r2plus1d_18 = 31_505_325,
    resnet50_fpn = 26_852_416,
    cifar_resnet20 = 269_722,
    cifar_resnet32 = 464_154,
    cifar_resnet44 = 658_586,
    cifar_resnet56 = 853_018,
    cifar_resnet110 = 1_727_962,
}

/// A golden file of one model.
struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn read(model: &str) -> Self {
        let path = format!("{}/tests/golden/{model}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Golden(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn integers(&self, key: &str) -> Vec<usize> {
        self.0[key].to_vec1::<i64>().unwrap().into_iter().map(|value| value as usize).collect()
    }

    /// The keys below `kind`, sorted.
    fn names(&self, kind: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().filter_map(|key| key.strip_prefix(kind)).collect();
        names.sort_unstable();
        names
    }

    /// How far `found` is from the reference, in units of what is allowed; more than 1 is wrong.
    ///
    /// Norm and projections must be within `tolerance` of the norm: a projection differs by about a
    /// 1/sqrt(3) of the difference's norm, wherever that is. Single values must be within `tolerance` of
    /// themselves plus the tensor's rms.
    fn distance(&self, key: &str, found: &Tensor, tolerance: f64) -> f64 {
        let Some(expected) = self.0.get(key) else { return f64::INFINITY };
        let expected: Vec<f64> = expected.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        let found_values = summary(key, found, expected.len() - 3);
        if found_values.len() != expected.len() || found_values.iter().any(|value| !value.is_finite()) {
            return f64::INFINITY;
        }
        let norm = expected[0];
        let rms = norm / (found.elem_count() as f64).sqrt();
        let allowed = |at: usize| tolerance * if at < 3 { norm } else { expected[at].abs() + rms };
        (0..expected.len()).map(|at| (found_values[at] - expected[at]).abs() / allowed(at)).fold(0., f64::max)
    }
}

/// Everything that is too far from its reference.
#[derive(Default)]
struct Mismatches(Vec<(f64, String)>);

impl Mismatches {
    fn compare(&mut self, golden: &Golden, key: String, found: &Tensor, tolerance: f64) {
        let distance = golden.distance(&key, found, tolerance);
        if distance > 1. {
            self.0.push((distance, key));
        }
    }

    fn assert_none(self, model: &str) {
        let lines: Vec<String> = self.0.iter().map(|(distance, key)| format!("{key}: {distance:.2} times")).collect();
        assert!(lines.is_empty(), "{model} is farther from PyTorch than allowed:\n  {}", lines.join("\n  "));
    }
}

fn assert_parity(name: &str, params: usize) {
    let entry = models::find(name).unwrap_or_else(|| panic!("the zoo has no {name}"));
    let golden = Golden::read(name);
    let formula = Formula::default();
    let model = (entry.build)(entry.card.classes, formula.var_builder()).unwrap();

    let counted: usize = formula.parameters().iter().map(|(_, var)| var.elem_count()).sum();
    assert_eq!((counted, entry.card.params, golden.integers("params")[0]), (params, params, params));
    let names: Vec<String> = formula.parameters().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, golden.names("grad/"), "the names of parameters");
    let names: Vec<String> = formula.statistics().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, golden.names("running/"), "the names of running statistics");

    let salt = golden.integers("salt")[0];
    let x = input(&format!("{name}/input{salt}"), &golden.integers("input"));
    let mut mismatches = Mismatches::default();
    evaluate(&*model, &golden, &x, &mut mismatches);

    let loss = training_loss(&*model, name, &x, salt);
    mismatches.compare(&golden, "train/loss".to_owned(), &loss, FORWARD);
    let gradients = loss.backward().unwrap();
    for (parameter, var) in formula.parameters() {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}: {parameter} receives no gradient"));
        mismatches.compare(&golden, format!("grad/{parameter}"), gradient, GRADIENT);
    }
    for (statistic, var) in formula.statistics() {
        mismatches.compare(&golden, format!("running/{statistic}"), &var, GRADIENT);
    }
    mismatches.assert_none(name);
}

/// Features and logits, with parameters that record no graph.
fn evaluate(model: &dyn Model, golden: &Golden, x: &Tensor, mismatches: &mut Mismatches) {
    let features = zoo::no_grad(|| model.forward_features(x, false)).unwrap();
    let names: Vec<&str> = features.0.iter().map(|(name, _)| *name).collect();
    let promised: Vec<&str> = model.card().features.iter().map(|feature| feature.name).collect();
    assert_eq!(names, promised, "the features that the card promises");
    for (feature, map) in &features.0 {
        assert!(!map.track_op(), "no_grad recorded a graph for {feature}");
        mismatches.compare(golden, format!("eval/{feature}"), map, FORWARD);
    }
    if model.card().classifier.is_some() {
        let logits = zoo::no_grad(|| model.forward_t(x, false)).unwrap();
        mismatches.compare(golden, "eval/logits".to_owned(), &logits, FORWARD);
    }
}

/// The smoothed cross-entropy; for a backbone the squares of the neck's maps.
pub fn training_loss(model: &dyn Model, name: &str, x: &Tensor, salt: usize) -> Tensor {
    if model.card().classifier.is_some() {
        let logits = model.forward_t(x, true).unwrap();
        let (samples, classes) = logits.dims2().unwrap();
        let labels = labels(&format!("{name}/labels{salt}"), samples, classes);
        return cross_entropy(&logits, Target::Classes(&labels), SMOOTHING).unwrap();
    }
    let features = model.forward_features(x, true).unwrap();
    let maps = features.0.iter().filter(|(name, _)| name.starts_with('p'));
    maps.map(|(_, map)| map.sqr().unwrap().mean_all().unwrap()).reduce(|a, b| (a + b).unwrap()).unwrap()
}

/// Loss, gradients and running statistics of a training step, bit by bit, whatever the number of threads.
#[test]
fn threads_change_no_bit() {
    for name in ["cifar_resnet20", "seresnet50", "resnext50_32x4d", "r2plus1d_18"] {
        let [one, two, three] = [1, 2, 3].map(|threads| training_step_bits(name, threads));
        assert!(one == two && one == three, "{name} depends on the number of threads");
    }
}

fn training_step_bits(name: &str, threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(64 << 20).build().unwrap();
    pool.install(|| {
        let entry = models::find(name).unwrap();
        let formula = Formula::default();
        let model = (entry.build)(10, formula.var_builder()).unwrap();
        let x = input(&format!("{name}/input0"), &Golden::read(name).integers("input"));
        let loss = training_loss(&*model, name, &x, 0);
        let gradients: GradStore = loss.backward().unwrap();
        let parameters = formula.parameters();
        let gradients = parameters.iter().map(|(_, var)| gradients.get(var).unwrap());
        let statistics = formula.statistics();
        let tensors = gradients.chain(statistics.iter().map(|(_, var)| var.as_tensor())).chain([&loss]);
        let bits = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        tensors.map(|tensor| bits(tensor).into_iter().map(f32::to_bits).collect()).collect()
    })
}

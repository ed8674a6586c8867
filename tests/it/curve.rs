//! Twenty training steps follow PyTorch's: from the same start, on the same batches, with the same
//! optimizer, weight decay, schedule and smoothing. tests/golden/generate.py made the curves, in float64.

use crate::it::formula::{Formula, input, labels};
use candle_core::{Device, Tensor};
use resnet_zoo::experiment::{AdamWOptions, Length, OptimizerOptions, ScheduleOptions, ScheduleShape};
use resnet_zoo::experiment::{SgdOptions, WarmupOptions};
use resnet_zoo::train::optimizer::{Optimizer, Parameter, decays};
use resnet_zoo::train::schedule::{Course, learning_rate};
use resnet_zoo::train::step::{StepOptions, train_step};
use resnet_zoo::train::task::Loss;
use zoo::models;
use zoo::ops::loss::{Target, cross_entropy};
use zoo::random::ForwardKey;

const STEPS: usize = 20;
/// The batches repeat, so that there is something to learn.
const BATCHES: usize = 4;
const CLASSES: usize = 10;
const SMOOTHING: f64 = 0.1;
/// What a loss may differ from float64, relative.
const TOLERANCE: f64 = 1e-3;

#[test]
fn cifar_resnet20_with_sgd() {
    assert_curve("cifar_resnet20/sgd", 8, sgd(0.01, false, 5e-4, true), 0);
}

#[test]
fn cifar_resnet20_with_nesterov_warm_up_and_groups() {
    assert_curve("cifar_resnet20/nesterov", 8, sgd(0.01, true, 5e-4, false), 4);
}

#[test]
fn cifar_resnet20_with_adamw() {
    assert_curve("cifar_resnet20/adamw", 8, adamw(1e-3, [0.9, 0.99], 1e-6, true), 0);
}

#[test]
fn resnet18_with_sgd_and_groups() {
    assert_curve("resnet18/sgd", 16, sgd(0.005, false, 1e-4, false), 0);
}

#[test]
fn resnet18_with_adamw_warm_up_and_groups() {
    assert_curve("resnet18/adamw", 16, adamw(2e-4, [0.9, 0.999], 1e-6, false), 4);
}

fn sgd(lr: f64, nesterov: bool, weight_decay: f64, decay_norm_and_bias: bool) -> OptimizerOptions {
    OptimizerOptions::Sgd(SgdOptions { lr, momentum: 0.9, nesterov, weight_decay, decay_norm_and_bias })
}

fn adamw(lr: f64, betas: [f64; 2], eps: f64, decay_norm_and_bias: bool) -> OptimizerOptions {
    OptimizerOptions::AdamW(AdamWOptions { lr, betas, eps, weight_decay: 0.05, decay_norm_and_bias })
}

/// The losses of the steps, then the loss of the first batch in evaluation, against the golden ones.
fn assert_curve(case: &str, batch: usize, options: OptimizerOptions, warmup: u64) {
    let path = format!("{}/tests/golden/curves.safetensors", env!("CARGO_MANIFEST_DIR"));
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let expected = golden[case].to_vec1::<f64>().unwrap();
    let found = train(case.split('/').next().unwrap(), batch, options, warmup);
    assert_eq!(found.len(), expected.len());
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = (found - expected).abs() / expected;
        // Not `>`: NaN is too far.
        // Not `>`: NaN is too far.
        assert!(difference <= TOLERANCE, "{case}, loss {step}: {found} instead of {expected}, {difference:.1e}");
    }
    assert!(expected[STEPS - 1] < expected[0] - 0.3, "{case}: the reference learns nothing: {expected:?}");
}

fn train(model: &str, batch: usize, options: OptimizerOptions, warmup: u64) -> Vec<f64> {
    let formula = Formula::default();
    let model = (models::find(model).unwrap().build)(CLASSES, formula.var_builder()).unwrap();
    let parameter = |(name, var): (String, _)| {
        let decays = options.decay_norm_and_bias() || decays(&name, &var);
        Parameter { name, var, lr_scale: 1., decays }
    };
    let parameters = formula.parameters().into_iter().map(parameter).collect();
    let schedule = ScheduleOptions {
        shape: ScheduleShape::Cosine { min_lr: 0. },
        warmup: (warmup > 0).then_some(WarmupOptions { length: Length::Steps(warmup), start_factor: 0.1 }),
    };
    let course = Course { steps: STEPS as u64, steps_per_epoch: BATCHES as u64 };
    let lr = options.lr();
    let mut optimizer = Optimizer::new(options, parameters);

    let loss_of = |index: usize, train: bool| -> candle_core::Result<Tensor> {
        let x = input(&format!("curve/input{index}"), &[batch, 3, 32, 32]);
        let labels = labels(&format!("curve/labels{index}"), batch, CLASSES);
        cross_entropy(&model.forward_t(&x, train)?, Target::Classes(&labels), SMOOTHING)
    };
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let options = StepOptions {
            lr: learning_rate(&schedule, lr, step as u64, course),
            clip_norm: None,
            forward_key: ForwardKey { seed: 0, step: step as u64 },
        };
        let loss = |index: &usize| Ok(Loss { value: loss_of(*index, true)?, samples: batch, metrics: Vec::new() });
        losses.push(train_step(&mut optimizer, &[step % BATCHES], loss, &options, None).unwrap().loss);
    }
    let evaluated = zoo::no_grad(|| loss_of(0, false)).unwrap();
    losses.push(f64::from(evaluated.to_scalar::<f32>().unwrap()));
    losses
}

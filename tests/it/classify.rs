//! A real network on real images: a 20-layer CIFAR ResNet on a few Fashion-MNIST garments.

use super::toy::{Memory, checkpoint, failure, run};
use candle_core::{Device, Tensor};
use rayon::ThreadPoolBuilder;
use resnet_zoo::error::{Error, Result};
use resnet_zoo::experiment::{Experiment, OptimizerOptions, load};
use resnet_zoo::task::{Classify, Fetched, NotFetched, evaluate};
use resnet_zoo::train::event::Role;
use resnet_zoo::train::optimizer::{Optimizer, Parameter};
use resnet_zoo::train::step::StepOptions;
use resnet_zoo::train::task::Task;
use resnet_zoo::train::train_step;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use zoo::WeightCard;
use zoo::ops::Isa;
use zoo::random::ForwardKey;

const TEXT: &str = "
name: tiny
model: cifar_resnet20
data: {source: {embedded: {train: 40, val: 20}}}
input: 16
augment:
  train: [random_resized_crop: {scale: [0.5, 1]}, random_horizontal_flip, normalize: {mean: 0.286, std: 0.353}, random_erasing]
  eval: [resize, normalize: {mean: 0.286, std: 0.353}]
batch_size: 8
eval_batch_size: 20
label_smoothing: 0.1
optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 1e-4}}
schedule: cosine
epochs: 2
";

fn experiment(overrides: &[&str]) -> Experiment {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tiny.yaml");
    std::fs::write(&path, TEXT).expect("a temporary file");
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    load(&path, &overrides).unwrap_or_else(|error| panic!("{error}")).experiment
}

fn task(experiment: &Experiment) -> Classify {
    Classify::new(experiment, &Device::Cpu, Some(&mut no_hub)).unwrap_or_else(|error| panic!("{error}"))
}

fn no_hub(card: &WeightCard) -> Result<Fetched, NotFetched> {
    Err(NotFetched::Unavailable(Error::failed(format!("{} cannot be reached", card.repository))))
}

fn values(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<f32>> {
    let values = |tensor: &Tensor| tensor.flatten_all().expect("dense").to_vec1().expect("f32");
    tensors.iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

/// Losses and final weights of an epoch, on the threads of the calling pool.
fn epoch(experiment: &Experiment) -> (Vec<u64>, BTreeMap<String, Vec<f32>>) {
    let task = task(experiment);
    let parameter = |(name, var): (String, candle_core::Var)| Parameter { name, var, lr_scale: 1., decays: true };
    let parameters = task.params.trainable().into_iter().map(parameter).collect();
    let mut optimizer = Optimizer::new(experiment.optimizer.clone(), parameters);
    let mut losses = Vec::new();
    for (step, batch) in task.batches(0, 0).expect("data").enumerate() {
        let forward_key = ForwardKey { seed: 0, step: step as u64 };
        let options = StepOptions { lr: 0.05, clip_norm: Some(1.), forward_key };
        let batch = batch.expect("data");
        let report = train_step(&mut optimizer, &[batch], |batch| task.loss(batch), &options, None).expect("a step");
        losses.extend([report.loss.to_bits(), report.grad_norm.to_bits()]);
    }
    let metrics = task.evaluate(&mut |_| Ok(true)).expect("data").expect("not stopped");
    losses.extend(metrics.iter().map(|(_, value)| value.to_bits()));
    (losses, values(&task.params.state_dict()))
}

#[test]
fn threads_and_workers_change_no_bit() {
    for precision in ["precision=f32", "precision=bf16"] {
        let on = |threads: usize, workers: usize| {
            let experiment = experiment(&[&format!("workers={workers}"), "augment.mixup=0.2", precision]);
            let pool = ThreadPoolBuilder::new().num_threads(threads).stack_size(64 << 20).build().expect("threads");
            pool.install(|| epoch(&experiment))
        };
        let expected = on(1, 0);
        assert_eq!(expected.0.len(), 5 * 2 + 3);
        for (threads, workers) in [(1, 2), (2, 0), (2, 1), (3, 3)] {
            assert_eq!(on(threads, workers), expected, "{precision}, {threads} threads, {workers} workers");
        }
    }
}

/// Numbers of f32 are multiplied in two parts then, and in five steps differences of 1e-5 become some per cent.
fn has_amx() -> bool {
    Isa::chosen().expect("the variable is right") == Isa::Amx
}

/// Half-precision activations round each value to 8 bits; what is learned stays f32 and moves as it does in f32.
#[test]
fn bf16_learns_as_f32_does() {
    let [(wide, _), (half, weights)] =
        ["precision=f32", "precision=bf16"].map(|precision| epoch(&experiment(&[precision])));
    let losses = |bits: &[u64]| bits[..10].iter().step_by(2).map(|&bits| f64::from_bits(bits)).collect::<Vec<_>>();
    let (wide, half) = (losses(&wide), losses(&half));
    assert_ne!(wide, half, "bf16 rounds");
    for (wide, half) in wide.iter().zip(&half) {
        assert!((wide - half).abs() < if has_amx() { 0.04 } else { 0.02 } * wide, "{half} instead of {wide}");
    }
    let rounded = |value: &f32| value.to_bits() & 0xffff == 0;
    assert!(!weights["conv1.weight"].iter().all(rounded), "the parameters are f32");
}

/// Winograd's method, products in parts and the direct sum round differently, and learn the same. A step makes a hundred times
/// as much of a difference, since ReLUs let other gradients through: what the first ones say is close, the last ones similar.
#[test]
fn exact_convolutions_change_bits_alone() {
    let (fast, exact) = (epoch(&experiment(&["exact=false"])), epoch(&experiment(&["exact=true"])));
    assert_eq!(exact, epoch(&experiment(&["exact=true", "grad_checkpointing=true"])));
    assert_ne!(fast, exact);
    // The loss and the gradient's norm of each step, then the metrics.
    for (i, (fast, exact)) in fast.0.iter().zip(&exact.0).enumerate() {
        let bound = match i / 2 {
            0 if !has_amx() => 1e-5,
            1 if !has_amx() => 1e-3,
            _ => 4e-2,
        };
        let (fast, exact) = (f64::from_bits(*fast), f64::from_bits(*exact));
        assert!((fast - exact).abs() <= bound * exact.abs(), "value {i}: {fast} is far from {exact}");
    }
}

/// In losses, weights and running statistics.
#[test]
fn grad_checkpointing_changes_no_bit() {
    for more in [&[][..], &["freeze={stages: 1, batch_norm: frozen}"]] {
        let of = |checkpointing: &str| epoch(&experiment(&[more, &[checkpointing]].concat()));
        assert_eq!(of("grad_checkpointing=false"), of("grad_checkpointing=true"), "{more:?}");
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let experiment = experiment(&[
        "accumulate=2",
        "augment.mixup=0.4",
        "augment.cutmix=1.0",
        "ema={decay: 0.8}",
        "evaluate.every={steps: 2}",
        "schedule.warmup.steps=2",
        "workers=2",
    ]);
    let mut whole = Memory::default();
    let outcome = run(&task(&experiment), &experiment, None, &mut whole).expect("a run");
    assert_eq!(outcome.steps, 6, "two epochs of five batches, two a step and one left over");
    for (stop_at, in_evaluation) in [(0, false), (3, false), (3, true), (4, false)] {
        let mut parts = Memory { stop_at: Some((stop_at, in_evaluation)), ..Memory::default() };
        let stopped = failure(run(&task(&experiment), &experiment, None, &mut parts));
        assert_eq!(stopped.exit_code(), 130);
        parts.stop_at = None;
        parts.stop.store(0, Ordering::Relaxed);
        let resumed = Classify::new(&experiment, &Device::Cpu, None).expect("the same data");
        let from = checkpoint(&parts, &experiment, &resumed.data_sha256).expect("the same experiment");
        assert_eq!(run(&resumed, &experiment, Some(from), &mut parts).expect("the rest"), outcome);
        assert_eq!(parts.metrics, whole.metrics, "stopped at {stop_at}");
        assert!(parts.newest(Role::Last) == whole.newest(Role::Last), "stopped at {stop_at}");
        assert!(parts.newest(Role::Best) == whole.newest(Role::Best), "stopped at {stop_at}");
    }
}

#[test]
fn a_frozen_stage_keeps_its_weights_and_its_statistics_by_policy() {
    for (policy, updates) in [("frozen", false), ("update", true)] {
        let experiment = experiment(&[&format!("freeze={{stages: 1, batch_norm: {policy}}}"), "steps=2"]);
        let task = task(&experiment);
        let before = values(&task.params.state_dict());
        run(&task, &experiment, None, &mut Memory::default()).expect("a run");
        let after = values(&task.params.state_dict());
        for (name, value) in &before {
            let frozen = name.starts_with("conv1") || name.starts_with("bn1") || name.starts_with("layer1");
            let expected = !frozen || (updates && name.contains("running_"));
            assert_eq!(value != &after[name], expected, "{name} under {policy}");
        }
    }
}

#[test]
fn what_to_freeze_must_be_there() {
    let wrong = |freeze: &str| {
        let experiment = experiment(&[&format!("freeze={freeze}")]);
        let task = Classify::new(&experiment, &Device::Cpu, Some(&mut no_hub));
        task.map(|_| ()).expect_err("wrong").to_string()
    };
    let message = wrong("{names: ['layr1.*'], batch_norm: frozen}");
    assert!(message.starts_with("`freeze.names`: `layr1.*` matches no parameter; names look like"), "{message}");
    let message = wrong("{names: ['*'], batch_norm: frozen}");
    assert_eq!(message, "`freeze` leaves nothing to train: freeze less");
}

#[test]
fn options_of_the_loss_and_the_data_count() {
    let digest = |overrides: &[&str]| {
        let experiment = experiment(&[&["steps=1"], overrides].concat());
        let mut memory = Memory::default();
        run(&task(&experiment), &experiment, None, &mut memory).expect("a run");
        memory.newest(Role::Last).2.clone()
    };
    let mut seen = vec![digest(&[])];
    for overrides in [
        ["label_smoothing=0"],
        ["augment.mixup=0.5"],
        ["augment.cutmix=0.5"],
        ["augment.train=[resize, normalize]"],
        ["input=20"],
        ["optimizer.sgd.decay_norm_and_bias=true"],
        ["seed=1"],
        ["freeze={backbone: true, batch_norm: update}"],
    ] {
        let found = digest(&overrides);
        assert!(!seen.contains(&found), "{overrides:?} changes nothing");
        seen.push(found);
    }
    let mixed = |probability: &str| digest(&["augment.mixup=0.5", probability]);
    assert_eq!(mixed("augment.mix_probability=1"), seen[2]);
    assert_ne!(mixed("augment.mix_probability=0.01"), seen[2]);
}

#[test]
fn a_file_of_weights_is_measured_and_continued() {
    let base = experiment(&[]);
    let mut memory = Memory::default();
    let outcome = run(&task(&base), &base, None, &mut memory).expect("a run");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("trained.safetensors");
    std::fs::write(&path, &memory.newest(Role::Last).2).expect("a temporary file");
    let metrics = evaluate(&base, &path, &Device::Cpu, &mut |_| Ok(true)).expect("it fits").expect("not stopped");
    for (name, value) in metrics {
        assert_eq!(value, outcome.metrics[&format!("val.{name}")], "{name}");
    }
    assert!(evaluate(&base, &path, &Device::Cpu, &mut |_| Ok(false)).expect("it fits").is_none(), "stopped");

    let continued = experiment(&[&format!("weights={{file: {}}}", path.display())]);
    let task = task(&continued);
    let report = &task.weights.report;
    assert!(report.initialised.is_empty() && report.unused.is_empty() && !report.loaded.is_empty(), "{report}");
    assert_eq!(task.weights.sha256.as_ref().map(String::len), Some(64));
    let trained = checkpoint(&memory, &base, &task.data_sha256).expect("the same experiment").weights;
    assert_eq!(values(&task.params.state_dict()), values(&trained));

    let other = experiment(&[&format!("weights={{file: {}}}", path.display()), "model=cifar_resnet32"]);
    let refused = Classify::new(&other, &Device::Cpu, Some(&mut no_hub)).map(|_| ()).expect_err("another model");
    assert!(matches!(refused, Error::Input(_)), "{refused}");
    let missing = experiment(&["weights={file: no/such.pth}"]);
    let refused = Classify::new(&missing, &Device::Cpu, Some(&mut no_hub)).map(|_| ()).expect_err("no file");
    assert!(refused.to_string().starts_with("cannot read no/such.pth: "), "{refused}");
}

#[test]
fn unavailable_weights_fail_or_are_told_loudly() {
    let tag = ["model=resnet18", "weights.tag=a1_in1k", "steps=1", "batch_size=2"];
    let strict = experiment(&tag);
    let refused = Classify::new(&strict, &Device::Cpu, Some(&mut no_hub)).map(|_| ()).expect_err("no hub");
    let message = refused.to_string();
    assert!(message.starts_with("timm/resnet18.a1_in1k cannot be reached\nto train from scratch"), "{message}");
    let lenient = experiment(&[&tag[..], &["weights.if_unavailable=scratch"]].concat());
    let task = task(&lenient);
    assert_eq!(task.weights.from, "scratch");
    let mut memory = Memory::default();
    run(&task, &lenient, None, &mut memory).expect("a run");
    let warning = "warning: TRAINING FROM SCRATCH, because the pretrained weights are unavailable: \
                   timm/resnet18.a1_in1k cannot be reached";
    assert!(memory.log.iter().any(|line| line == warning), "{:?}", memory.log);

    // A file that is not what it should be is no reason to go on.
    let mut tampered = |_: &WeightCard| Err(NotFetched::Refused(Error::failed("its sha256 is another")));
    let refused = Classify::new(&lenient, &Device::Cpu, Some(&mut tampered)).map(|_| ()).expect_err("tampered");
    assert_eq!(refused.to_string(), "its sha256 is another");
}

#[test]
fn it_learns() {
    let overrides = ["data.source={embedded: {train: 200, val: 100}}", "epochs=6", "batch_size=20"];
    let experiment = experiment(&overrides);
    assert!(matches!(experiment.optimizer, OptimizerOptions::Sgd(_)));
    let outcome = run(&task(&experiment), &experiment, None, &mut Memory::default()).expect("a run");
    assert!(outcome.metrics["val.top1"] > 0.35, "{outcome:?}");
    assert!(outcome.metrics["val.top5"] > outcome.metrics["val.top1"]);
}

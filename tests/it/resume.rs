//! A run that was interrupted and resumed equals one that was not, bit for bit.

use super::toy::{Memory, Toy, checkpoint, experiment, failure, run};
use resnet_zoo::error::Error;
use resnet_zoo::experiment::*;
use resnet_zoo::train::event::Role;

/// Everything that a resume has to restore: accumulation, averages, plateau, early stopping, clipping, dropout.
fn demanding() -> Experiment {
    let mut experiment = experiment();
    experiment.batch_size = 4;
    experiment.accumulate = 2;
    experiment.length = Length::Epochs(4);
    experiment.clip_norm = Some(1.);
    experiment.layer_decay = 0.7;
    experiment.ema = Some(EmaOptions { decay: 0.9, warmup: true });
    experiment.evaluate.every = Length::Steps(2);
    experiment.checkpoint.best = BestOptions { metric: "val_ema.loss".to_owned(), mode: Mode::Min };
    let plateau = PlateauOptions {
        metric: "val.top1".to_owned(),
        mode: Mode::Max,
        factor: 1. / 3.,
        patience: 1,
        threshold: 0.01,
        cooldown: 1,
        min_lr: 1e-4,
    };
    let warmup = Some(WarmupOptions { length: Length::Steps(2), start_factor: 0.1 });
    experiment.schedule = ScheduleOptions { shape: ScheduleShape::Plateau(plateau), warmup };
    let metric = "val.top5".to_owned();
    experiment.early_stopping = Some(EarlyStoppingOptions { metric, mode: Mode::Max, patience: 5, min_delta: 0. });
    experiment
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let sgd = demanding();
    let mut adamw = demanding();
    let (lr, betas) = (0.02, [0.9, 0.99]);
    adamw.optimizer =
        OptimizerOptions::AdamW(AdamWOptions { lr, betas, eps: 1e-8, weight_decay: 0.1, decay_norm_and_bias: true });
    for experiment in [sgd, adamw] {
        let mut whole = Memory::default();
        let outcome = run(&Toy::new(&experiment), &experiment, None, &mut whole).expect("a run");
        for stop_at in 0..outcome.steps {
            for in_evaluation in [false, true] {
                let mut parts = Memory { stop_at: Some((stop_at, in_evaluation)), ..Memory::default() };
                match run(&Toy::new(&experiment), &experiment, None, &mut parts) {
                    Err(Error::Interrupted { signal: 2 }) => {}
                    // No evaluation follows this step, so nobody asked for a stop.
                    Ok(_) if in_evaluation => continue,
                    other => panic!("stopped at {stop_at}: {other:?}"),
                }
                assert_eq!(parts.newest(Role::Last).0, stop_at, "the step is finished, and no more");
                parts.stop_at = None;
                parts.stop.store(0, std::sync::atomic::Ordering::Relaxed);
                let from = checkpoint(&parts, &experiment, "toy").expect("the same experiment");
                let resumed = run(&Toy::new(&experiment), &experiment, Some(from), &mut parts).expect("the rest");
                assert_eq!(resumed, outcome, "stopped at {stop_at}");
                assert_eq!(parts.metrics, whole.metrics, "stopped at {stop_at}");
                assert_eq!(parts.newest(Role::Best), whole.newest(Role::Best), "stopped at {stop_at}");
                let (step, _, weights, _) = parts.newest(Role::Last);
                if *step == whole.newest(Role::Last).0 {
                    assert_eq!(weights, &whole.newest(Role::Last).2, "stopped at {stop_at}");
                }
            }
        }
    }
}

#[test]
fn a_finished_run_resumes_to_its_outcome() {
    let experiment = experiment();
    let mut memory = Memory::default();
    let outcome = run(&Toy::new(&experiment), &experiment, None, &mut memory).expect("a run");
    let from = checkpoint(&memory, &experiment, "toy").expect("the same experiment");
    let again = run(&Toy::new(&experiment), &experiment, Some(from), &mut Memory::default()).expect("nothing to do");
    assert_eq!(again, outcome);
}

#[test]
fn the_best_checkpoint_resumes_too() {
    let experiment = demanding();
    let mut whole = Memory::default();
    run(&Toy::new(&experiment), &experiment, None, &mut whole).expect("a run");
    let best = whole.checkpoints.iter().find(|checkpoint| checkpoint.1 == Role::Best).expect("one").clone();
    let mut rest = Memory { checkpoints: vec![(best.0, Role::Last, best.2, best.3)], ..Memory::default() };
    let from = checkpoint(&rest, &experiment, "toy").expect("the same experiment");
    run(&Toy::new(&experiment), &experiment, Some(from), &mut rest).expect("the rest");
    for (key, bits) in &rest.metrics {
        assert_eq!(whole.metrics[key], *bits, "{key:?}");
    }
    assert_eq!(rest.newest(Role::Last), whole.newest(Role::Last));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let experiment = experiment();
    let mut memory = Memory::default();
    run(&Toy::new(&experiment), &experiment, None, &mut memory).expect("a run");
    let mut other = experiment.clone();
    other.seed = 9;
    let error = checkpoint(&memory, &other, "toy").expect_err("another seed");
    assert_eq!(error.to_string(), "the checkpoint is of another experiment: resume the run that it belongs to");
    assert!(matches!(error, Error::Input(_)));
    let error = checkpoint(&memory, &experiment, "others").expect_err("other data").to_string();
    assert!(error.contains("the data have changed since"), "{error}");
    let from = checkpoint(&memory, &experiment, "toy").expect("the same");
    let mut stranger = from.clone();
    stranger.weights.remove("fc.weight");
    let error = failure(run(&Toy::new(&experiment), &experiment, Some(stranger), &mut Memory::default())).to_string();
    assert!(error.contains("the checkpoint has no parameter `fc.weight`"), "{error}");
}

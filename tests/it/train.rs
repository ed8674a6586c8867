//! The loop: what it does when, and that each option changes something.

use super::toy::{Memory, Toy, experiment, failure, run};
use resnet_zoo::error::Error;
use resnet_zoo::experiment::*;
use resnet_zoo::train::event::Role;
use std::collections::BTreeMap;
use zoo::params::{NormPolicy, Params};

fn trained(experiment: &Experiment) -> Memory {
    let mut memory = Memory::default();
    run(&Toy::new(experiment), experiment, None, &mut memory).expect("a run");
    memory
}

#[test]
fn events_come_in_order() {
    let mut experiment = experiment();
    experiment.length = Length::Steps(7);
    experiment.evaluate.every = Length::Steps(2);
    experiment.checkpoint.every = Length::Epochs(1);
    let memory = trained(&experiment);
    let log: Vec<&str> = memory.log.iter().map(String::as_str).filter(|line| !line.starts_with("Best")).collect();
    assert_eq!(
        log,
        [
            "started 0 7 3",
            "step 0 of epoch 0",
            "step 1 of epoch 0",
            "evaluated 1",
            "step 2 of epoch 0",
            "Last 2",
            "step 3 of epoch 1",
            "evaluated 3",
            "step 4 of epoch 1",
            "step 5 of epoch 1",
            "evaluated 5",
            "Last 5",
            "step 6 of epoch 2",
            "evaluated 6",
            "Last 6",
        ]
    );
    assert!(memory.log.contains(&"Best 1".to_owned()));
    assert_eq!(memory.value(3, "optim.lr"), 0.05);
    assert_eq!(memory.value(0, "train.ones"), 1.);
}

#[test]
fn it_learns_and_tells_the_best() {
    let mut experiment = experiment();
    experiment.length = Length::Epochs(40);
    let mut memory = Memory::default();
    let outcome = run(&Toy::new(&experiment), &experiment, None, &mut memory).expect("a run");
    assert!(outcome.metrics["val.top1"] > 0.6, "{outcome:?}");
    assert!(outcome.metrics["val.loss"] < memory.value(2, "val.loss"));
    let (best, step) = outcome.best.expect("evaluated");
    assert_eq!(best, memory.curve("val.top1").into_iter().fold(0., f64::max));
    assert_eq!(step, memory.newest(Role::Best).0);
    assert_eq!((outcome.steps, outcome.stopped_early), (120, false));
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_names_the_step() {
    let mut experiment = experiment();
    experiment.checkpoint.every = Length::Steps(1);
    let mut toy = Toy::new(&experiment);
    toy.poisoned = Some(5);
    let mut memory = Memory::default();
    let error = failure(run(&toy, &experiment, None, &mut memory));
    let step = memory.metrics.keys().map(|(step, _)| *step).max().expect("a step was told");
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("the loss is NaN at step {step} (epoch 0): earlier checkpoints")),
        "{message}"
    );
    assert!(matches!(error, Error::Failed(_)));
    assert!(memory.value(step, "train.loss").is_nan(), "the value itself is kept");
    assert!(memory.checkpoints.iter().all(|checkpoint| checkpoint.0 < step));
    assert!(!String::from_utf8_lossy(&memory.log.join(" ").into_bytes()).contains(&format!("Last {step}")));
}

#[test]
fn a_gradient_that_explodes_ends_the_run() {
    let mut experiment = experiment();
    let OptimizerOptions::Sgd(options) = &mut experiment.optimizer else { panic!("the toy takes SGD") };
    options.lr = 1e30;
    let mut memory = Memory::default();
    let message = failure(run(&Toy::new(&experiment), &experiment, None, &mut memory)).to_string();
    assert!(message.contains(" at step ") && message.contains("lower the learning rate"), "{message}");
}

#[test]
fn early_stopping_gives_up() {
    let mut experiment = experiment();
    let OptimizerOptions::Sgd(options) = &mut experiment.optimizer else { panic!("the toy takes SGD") };
    options.lr = 0.;
    options.momentum = 0.;
    experiment.length = Length::Epochs(50);
    let metric = "val.loss".to_owned();
    experiment.early_stopping = Some(EarlyStoppingOptions { metric, mode: Mode::Min, patience: 3, min_delta: 10. });
    let mut memory = Memory::default();
    let outcome = run(&Toy::new(&experiment), &experiment, None, &mut memory).expect("a run");
    assert!(outcome.stopped_early);
    assert_eq!(outcome.steps, 4 * 3, "one evaluation sets the mark, three are borne");
    assert_eq!(memory.newest(Role::Last).0, 11);
}

#[test]
fn a_plateau_lowers_the_rate() {
    let mut experiment = experiment();
    let metric = "val.top5".to_owned();
    let plateau =
        PlateauOptions { metric, mode: Mode::Max, factor: 0.5, patience: 0, threshold: 0., cooldown: 0, min_lr: 0.01 };
    experiment.schedule = ScheduleOptions { shape: ScheduleShape::Plateau(plateau), warmup: None };
    experiment.length = Length::Epochs(6);
    let memory = trained(&experiment);
    let rates: Vec<f64> = memory.curve("optim.lr").into_iter().step_by(3).collect();
    assert_eq!(rates, [0.05, 0.05, 0.025, 0.0125, 0.01, 0.01]);
}

#[test]
fn a_frozen_parameter_never_moves() {
    let experiment = experiment();
    for (policy, moves) in [(NormPolicy::Frozen, false), (NormPolicy::Update, true)] {
        let params = Params::new(experiment.seed);
        params.freeze(|name| !name.starts_with("fc."), policy).expect("before the model");
        let toy = Toy::with_params(&experiment, params.clone());
        let values = || -> BTreeMap<String, Vec<f32>> {
            let value = |tensor: &candle_core::Tensor| tensor.flatten_all().expect("dense").to_vec1().expect("f32");
            params.state_dict().iter().map(|(name, tensor)| (name.clone(), value(tensor))).collect()
        };
        let before = values();
        run(&toy, &experiment, None, &mut Memory::default()).expect("a run");
        let after = values();
        assert_eq!(before["layer1.0.weight"], after["layer1.0.weight"]);
        assert_ne!(before["fc.weight"], after["fc.weight"]);
        assert_eq!(before["bn1.running_mean"] != after["bn1.running_mean"], moves);
    }
}

#[test]
fn the_best_by_an_average_holds_the_average() {
    let mut experiment = experiment();
    experiment.ema = Some(EmaOptions { decay: 0.9, warmup: false });
    let live = trained(&experiment);
    experiment.checkpoint.best = BestOptions { metric: "val_ema.loss".to_owned(), mode: Mode::Min };
    let averaged = trained(&experiment);
    let first = |memory: &Memory, role| memory.checkpoints.iter().find(|c| c.1 == role).expect("one").2.clone();
    assert_eq!(first(&live, Role::Last), first(&averaged, Role::Last));
    assert_ne!(first(&live, Role::Best), first(&averaged, Role::Best));
    assert_ne!(live.curve("val_ema.loss"), live.curve("val.loss"));
}

/// Each option makes the run another one.
#[test]
fn every_option_counts() {
    let base = experiment();
    let bits = |experiment: &Experiment| {
        let memory = trained(experiment);
        (memory.metrics.clone(), memory.newest(Role::Last).2.clone(), memory.log)
    };
    let expected = bits(&base);
    assert_eq!(bits(&base), expected);
    let sgd = |change: &dyn Fn(&mut SgdOptions)| {
        let mut experiment = base.clone();
        let OptimizerOptions::Sgd(options) = &mut experiment.optimizer else { panic!("the toy takes SGD") };
        change(options);
        experiment
    };
    let with = |change: &dyn Fn(&mut Experiment)| {
        let mut experiment = base.clone();
        change(&mut experiment);
        experiment
    };
    let shape = |shape: ScheduleShape| with(&move |e| e.schedule.shape = shape.clone());
    let warmup = |start_factor| {
        with(&move |e| e.schedule.warmup = Some(WarmupOptions { length: Length::Steps(2), start_factor }))
    };
    let one_cycle = |pct_start, div_factor, final_div_factor, anneal| {
        shape(ScheduleShape::OneCycle { pct_start, div_factor, final_div_factor, anneal })
    };
    let adamw = |betas, eps, weight_decay, decay_norm_and_bias| {
        with(&move |e| {
            let lr = 0.05;
            e.optimizer = OptimizerOptions::AdamW(AdamWOptions { lr, betas, eps, weight_decay, decay_norm_and_bias });
        })
    };
    let ema = |decay, warmup| with(&move |e| e.ema = Some(EmaOptions { decay, warmup }));
    let runs = [
        with(&|e| e.seed = 1),
        with(&|e| e.batch_size = 4),
        with(&|e| e.accumulate = 2),
        with(&|e| e.length = Length::Epochs(3)),
        with(&|e| e.length = Length::Steps(5)),
        with(&|e| e.layer_decay = 0.5),
        with(&|e| e.clip_norm = Some(0.1)),
        with(&|e| e.evaluate.every = Length::Steps(1)),
        with(&|e| e.checkpoint.every = Length::Steps(1)),
        with(&|e| e.checkpoint.best = BestOptions { metric: "val.loss".to_owned(), mode: Mode::Max }),
        sgd(&|o| o.lr = 0.04),
        sgd(&|o| o.momentum = 0.),
        sgd(&|o| o.nesterov = true),
        sgd(&|o| o.weight_decay = 0.2),
        adamw([0.9, 0.999], 1e-8, 0.01, false),
        adamw([0.8, 0.999], 1e-8, 0.01, false),
        adamw([0.9, 0.9], 1e-8, 0.01, false),
        adamw([0.9, 0.999], 1e-3, 0.01, false),
        adamw([0.9, 0.999], 1e-8, 0.1, false),
        ema(0.5, false),
        ema(0.9, false),
        ema(0.9, true),
        shape(ScheduleShape::Cosine { min_lr: 0. }),
        shape(ScheduleShape::Cosine { min_lr: 0.01 }),
        shape(ScheduleShape::Step { every: Length::Epochs(1), gamma: 0.5 }),
        shape(ScheduleShape::Step { every: Length::Steps(2), gamma: 0.5 }),
        shape(ScheduleShape::Step { every: Length::Epochs(1), gamma: 0.1 }),
        one_cycle(0.3, 25., 1e4, Anneal::Cosine),
        one_cycle(0.6, 25., 1e4, Anneal::Cosine),
        one_cycle(0.3, 5., 1e4, Anneal::Cosine),
        one_cycle(0.3, 25., 10., Anneal::Cosine),
        one_cycle(0.3, 25., 1e4, Anneal::Linear),
        warmup(0.01),
        warmup(0.5),
    ];
    let mut seen = vec![expected];
    for experiment in runs {
        let found = bits(&experiment);
        assert!(!seen.contains(&found), "an option without effect: {}", experiment.canonical());
        seen.push(found);
    }
}

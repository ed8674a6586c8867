//! A sweep: an experiment run again and again with other values, as a YAML file says. What comes out is a list of
//! trials that depends on the file alone: draws are counter-based, so neither time, nor processes, nor a restart
//! changes them.
//!
//! ```yaml
//! name: lr
//! experiment: resnet34_ls.yaml          # relative to this file
//! parameters:
//!   optimizer.sgd.lr: {log_uniform: [1e-3, 1e-1]}
//!   label_smoothing: [0, 0.1]
//! strategy: {random: {trials: 20, seed: 0}}
//! ```

mod check;
mod halving;
mod space;

pub use halving::{Halving, Rung};
pub use space::{Parameter, Space};

use crate::error::{Error, Result};
use crate::experiment::{self, Length, Mode};
use resnet_codegen::diagnostic::Sources;
use std::path::{Path, PathBuf};

/// More are no sweep that anyone waits for.
pub const MAX_TRIALS: usize = 10_000;

/// A sweep as its file says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// What it is called: the group of its runs.
    pub name: String,
    /// The experiment's file.
    pub experiment: PathBuf,
    /// What every trial sets: `steps=100`.
    pub set: Vec<String>,
    /// What differs between trials.
    pub parameters: Vec<Parameter>,
    /// Which values are tried.
    pub strategy: Strategy,
    /// Every point is tried with each of these; once with the experiment's own where there are none.
    pub seeds: Vec<u64>,
    /// What says which trial is the best; where there is none, what chooses the experiment's best checkpoint.
    pub metric: Option<String>,
    /// How many processes work at once.
    pub processes: usize,
}

/// Which points of the space are tried.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// Every combination.
    Grid,
    /// So many draws.
    Random {
        /// How many.
        trials: usize,
        /// Of the draws; the experiment's own seed is another.
        seed: u64,
    },
    /// So many draws, of which the better part goes on.
    Halving {
        /// How many begin.
        trials: usize,
        /// Of the draws.
        seed: u64,
        /// Of so many trials one goes on, and so many times longer.
        factor: usize,
        /// How long all of them run.
        least: Length,
    },
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// From 0.
    pub number: usize,
    /// The run's name: the sweep's, and the number.
    pub name: String,
    /// Keys and values that are its own.
    pub values: Vec<(String, String)>,
    /// Everything that is laid over the experiment, as `--set` takes it.
    pub overrides: Vec<String>,
}

/// A sweep and the trials of its experiment.
#[derive(Debug, Clone)]
pub struct Planned {
    /// As the file says.
    pub sweep: Sweep,
    /// In their order.
    pub trials: Vec<Trial>,
    /// What says which trial is the best.
    pub metric: String,
    /// Which way is better.
    pub mode: Mode,
    /// How far all, and then fewer and fewer, go: one rung that is the whole way, but for successive halving.
    pub rungs: Vec<Rung>,
}

/// Reads a sweep and plans its trials. Each is checked, so that none fails after hours over a value out of range.
///
/// # Errors
/// [`Error::Input`] with every mistake of the file, its place and a way out, or the first trial whose experiment is wrong.
pub fn plan(path: &Path) -> Result<Planned> {
    let mut sources = Sources::default();
    let root = experiment::read_tree(path, &mut sources)?;
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let sweep = check::check(&root, &folder).map_err(|diagnostics| Error::diagnostics(&diagnostics, &sources))?;
    let trials = sweep.trials()?;
    let mut first = None;
    for trial in &trials {
        let loaded = experiment::load(&sweep.experiment, &trial.overrides).map_err(|error| {
            let values: Vec<String> = trial.values.iter().map(|(key, value)| format!("{key}={value}")).collect();
            Error::input(format!("trial {} ({}) cannot be run:\n{error}", trial.number, values.join(", ")))
        })?;
        first.get_or_insert(loaded.experiment);
    }
    let Some(experiment) = first else { return Err(Error::input("the sweep has no trial; give it a value to try")) };
    let best = &experiment.checkpoint.best;
    let metric = sweep.metric.clone().unwrap_or_else(|| best.metric.clone());
    let mode = match metric {
        _ if metric == best.metric => best.mode,
        _ if metric.ends_with("loss") => Mode::Min,
        _ => Mode::Max,
    };
    let rungs = match &sweep.strategy {
        Strategy::Halving { trials, factor, least, .. } => {
            Halving { trials: *trials, factor: *factor, least: *least }.rungs(experiment.length)?
        }
        Strategy::Grid | Strategy::Random { .. } => vec![Rung { trials: trials.len(), until: None }],
    };
    Ok(Planned { sweep, trials, metric, mode, rungs })
}

impl Sweep {
    /// The trials, in their order.
    fn trials(&self) -> Result<Vec<Trial>> {
        let points: Vec<Vec<String>> = match self.strategy {
            Strategy::Grid => space::grid(&self.parameters, MAX_TRIALS / self.seeds.len().max(1))?,
            Strategy::Random { trials, seed } | Strategy::Halving { trials, seed, .. } => {
                (0..trials).map(|trial| space::draw(&self.parameters, seed, trial as u64)).collect()
            }
        };
        let names = self.parameters.iter().map(|parameter| parameter.key.clone());
        let names: Vec<String> = names.collect();
        let of_point = |point: Vec<String>| -> Vec<Vec<(String, String)>> {
            let values: Vec<(String, String)> = names.iter().cloned().zip(point).collect();
            if self.seeds.is_empty() {
                return vec![values];
            }
            let with_seed = |seed: &u64| [values.clone(), vec![("seed".to_owned(), seed.to_string())]].concat();
            self.seeds.iter().map(with_seed).collect()
        };
        let all: Vec<_> = points.into_iter().flat_map(of_point).collect();
        if all.len() > MAX_TRIALS {
            return Err(Error::input(format!("the sweep has {} trials, {MAX_TRIALS} at most", all.len())));
        }
        let width = all.len().saturating_sub(1).to_string().len();
        let trial = |(number, values): (usize, Vec<(String, String)>)| {
            let own = values.iter().map(|(key, value)| format!("{key}={value}"));
            Trial {
                number,
                name: format!("{}.{number:0width$}", self.name),
                overrides: self.set.iter().cloned().chain(own).collect(),
                values,
            }
        };
        Ok(all.into_iter().enumerate().map(trial).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(more: &str) -> Result<Planned> {
        let folder = tempfile::tempdir().expect("a folder");
        let experiment = "name: tiny\nmodel: cifar_resnet20\ninput: 32\ndata: {source: {embedded: {train: 64, val: 32}}}\n\
                          augment:\n  train: [{random_crop: {padding: 4}}]\n  eval: [{pad: {padding: 2}}]\n\
                          optimizer: {sgd: {lr: 0.05}}\nepochs: 9\n";
        std::fs::write(folder.path().join("tiny.yaml"), experiment).expect("written");
        let path = folder.path().join("sweep.yaml");
        std::fs::write(&path, format!("name: s\nexperiment: tiny.yaml\n{more}")).expect("written");
        plan(&path)
    }

    fn overrides(more: &str) -> Vec<String> {
        let planned = planned(more).unwrap_or_else(|error| panic!("{more}: {error}"));
        planned.trials.iter().map(|trial| trial.overrides.join(" ")).collect()
    }

    #[test]
    fn a_grid_is_every_combination() {
        assert_eq!(
            overrides("set: {epochs: 2}\nparameters: {optimizer.sgd.lr: [0.1, 1e-3], label_smoothing: [0, 0.1]}\n"),
            [
                "epochs=2 optimizer.sgd.lr=0.1 label_smoothing=0",
                "epochs=2 optimizer.sgd.lr=0.1 label_smoothing=0.1",
                "epochs=2 optimizer.sgd.lr=0.001 label_smoothing=0",
                "epochs=2 optimizer.sgd.lr=0.001 label_smoothing=0.1",
            ]
        );
        assert_eq!(
            overrides("parameters: {schedule: [cosine, {step: {every: {epochs: 3}, gamma: 0.1}}]}\nseeds: [0, 7]\n"),
            [
                "schedule=\"cosine\" seed=0",
                "schedule=\"cosine\" seed=7",
                "schedule={\"step\":{\"every\":{\"epochs\":3},\"gamma\":0.1}} seed=0",
                "schedule={\"step\":{\"every\":{\"epochs\":3},\"gamma\":0.1}} seed=7",
            ]
        );
        assert_eq!(overrides("seeds: [1, 2, 3]\n"), ["seed=1", "seed=2", "seed=3"], "nothing but seeds");
    }

    #[test]
    fn draws_depend_on_the_seed_the_key_and_the_trial_alone() {
        let space = "parameters: {optimizer.sgd.lr: {log_uniform: [1e-4, 1e-1]}, batch_size: {int: [16, 64]}}\n";
        let few = overrides(&format!("{space}strategy: {{random: {{trials: 3, seed: 5}}}}\n"));
        let many = overrides(&format!("{space}strategy: {{random: {{trials: 40, seed: 5}}}}\n"));
        assert_eq!(few, many[..3], "more trials do not change those that were there");
        assert_eq!(few, overrides(&format!("{space}strategy: {{random: {{trials: 3, seed: 5}}}}\n")));
        assert_ne!(few, overrides(&format!("{space}strategy: {{random: {{trials: 3, seed: 6}}}}\n")));
        let turned = "parameters: {batch_size: {int: [16, 64]}, optimizer.sgd.lr: {log_uniform: [1e-4, 1e-1]}}\n";
        let turned = overrides(&format!("{turned}strategy: {{random: {{trials: 1, seed: 5}}}}\n"));
        let mut words: Vec<&str> = turned[0].split(' ').collect();
        words.reverse();
        assert_eq!(words.join(" "), few[0], "nor does their order in the file");
    }

    #[test]
    fn halving_lets_the_better_part_go_on() {
        let text = "parameters: {optimizer.sgd.lr: {uniform: [0.01, 0.1]}}\n\
                    strategy: {halving: {trials: 9, factor: 3, least: {epochs: 1}}}\n";
        let planned = planned(text).expect("planned");
        let rungs: Vec<_> = planned.rungs.iter().map(|rung| (rung.trials, rung.until)).collect();
        assert_eq!(rungs, [(9, Some(Length::Epochs(1))), (3, Some(Length::Epochs(3))), (1, None)]);
        assert_eq!((planned.metric.as_str(), planned.mode, planned.trials.len()), ("val.top1", Mode::Max, 9));
    }

    #[test]
    fn mistakes_have_a_place_and_a_way_out() {
        let cases = [
            (
                "parameters: {optimizer.sgd.lr: {log_uniform: [0, 1]}}\nstrategy: {random: {trials: 2}}\n",
                "sweep.yaml:3:47",
            ),
            ("parameters: {optimizer.sgd.lr: {log_uniform: [0.1, 1]}}\n", "a grid needs a list of values"),
            ("parameters: {optimizer.sgd.lr: {log_unifrm: [0.1, 1]}}\n", "did you mean `log_uniform`?"),
            (
                "parameters: {optimizer.sgd.lr: {uniform: [1, 0.1]}}\nstrategy: {random: {trials: 2}}\n",
                "the first is less",
            ),
            ("parameters: {optimizer.sgd.lr: {int: [1, 2.5]}}\nstrategy: {random: {trials: 2}}\n", "whole number"),
            ("parameters: {optimizer.sgd.lr: []}\n", "an empty list"),
            ("parameters: {optimizer.sgd.lr: 0.1}\n", "is a list of values, or a range"),
            ("paramters: {}\n", "did you mean `parameters`?"),
            ("parameters: {}\n", "nothing differs between trials"),
            ("parameters: {seed: [0, 1]}\nseeds: [0, 1]\n", "`seeds` sets it"),
            ("parameters: {optimizer.adam.lr: [0.1]}\n", "trial 0 (optimizer.adam.lr=0.1) cannot be run"),
            ("parameters: {optimizer.sgd.lr: [0.1, -1]}\n", "trial 1 (optimizer.sgd.lr=-1) cannot be run"),
            ("parameters: {a: [1, 2]}\nprocesses: 0\n", "`processes` is a whole number from 1 to 256"),
            ("parameters: {a: [1]}\nmetric: val.top2\n", "did you mean `val.top1`?"),
            (
                "parameters: {a: {uniform: [0, 1]}}\nstrategy: {random: {trials: 0}}\n",
                "`trials` is a whole number from 1",
            ),
            ("parameters: {a: {uniform: [0, 1]}}\nstrategy: random\n", "`random` has no `trials`"),
            (
                "parameters: {a: {uniform: [0, 1]}}\nstrategy: {halving: {trials: 4}}\nseeds: [0]\n",
                "halving compares single runs",
            ),
            (
                "parameters: {optimizer.sgd.lr: {uniform: [0.1, 1]}}\nstrategy: {halving: {trials: 4, least: {steps: 5}}}\n",
                "in epochs as the experiment's length is",
            ),
            (
                "parameters: {optimizer.sgd.lr: {uniform: [0.1, 1]}}\nstrategy: {halving: {trials: 4, least: {epochs: 9}}}\n",
                "shorter than the experiment",
            ),
        ];
        for (more, expected) in cases {
            let error = planned(more).expect_err(more);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(expected), "{more}: {error}");
        }
        let lists: String = (0..5).map(|key| format!("  k{key}: [{}]\n", "1, ".repeat(10))).collect();
        let error = planned(&format!("parameters:\n{lists}")).expect_err("100,000 trials");
        assert!(error.to_string().contains("10000 at most"), "{error}");
    }
}

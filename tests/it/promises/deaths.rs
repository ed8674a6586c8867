//! Killed at any instant, resumed with any number of threads: the run that nothing happened to.

use super::{Faults, Outcome, TOYS, Toy, assert_sound, calls, command, count, draws, figure, is_full, outcome};
use crate::it::cli::stdout;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// T1: a process that dies at any call that writes, before it, in the middle of it or after it.
#[test]
fn killed_at_every_call_that_writes() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let counting = toy.registry("counting");
    let all = calls(&mut toy.run(&counting, "mixed"), &counting);
    assert!(all > 300, "only {all} calls: the faults do not see them");
    let points: Vec<u64> = match is_full() {
        true => (1..=all).collect(),
        // Creation is more delicate than what comes later.
        false => (1..=all).filter(|at| at % 37 == 0 || at % 11 == 0 && *at < 120).collect(),
    };
    let died = points.par_iter().filter(|at| {
        let registry = toy.registry(&format!("killed_{at}"));
        let how = ["before", "half", "after"][(**at % 3) as usize];
        let faults = Faults { root: &registry, at: **at, how, rest: false };
        let status = faults.arm(&mut toy.run(&registry, "mixed")).output().expect("started").status;
        assert_eq!(toy.finish(&registry, "mixed"), whole, "killed {how} call {at}");
        assert_sound(&registry);
        std::fs::remove_dir_all(&registry).expect("removed");
        status.code().is_none()
    });
    let died = died.count();
    assert!(died * 10 >= points.len() * 9, "{died} died of {}: threads do not always write in one order", points.len());
    figure("T1", "killed at a call that writes, resumed", &format!("{died} deaths of {all} calls, 0 differ"));
}

/// T2: a process that dies at any time, again and again, and is resumed with other threads.
#[test]
fn killed_at_random_again_and_again() {
    let wanted = count(4, 50);
    let figures: Vec<(usize, usize)> = TOYS
        .par_iter()
        .map(|(name, _)| {
            let toy = Toy::new();
            let whole = toy.undisturbed(name);
            let (mut kills, mut runs, mut draws) = (0, 0, draws(name));
            while kills < wanted {
                let registry = toy.registry(&format!("kills_{runs}"));
                // Often enough for a resumed one to die as well.
                for attempt in 0..3 {
                    let mut command =
                        if has_run(&registry) { resume(&registry, name) } else { toy.run(&registry, name) };
                    command.args(["--threads", &(1 + draws.below(3)).to_string()]);
                    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
                    std::thread::sleep(Duration::from_millis(draws.below(250)));
                    child.kill().expect("killed, or ended");
                    match child.wait().expect("ended").code() {
                        None => kills += 1,
                        Some(0) => break,
                        // Ended before: there was nothing to resume, or no run yet.
                        code => assert_eq!(code, Some(2), "attempt {attempt} of {name}"),
                    }
                }
                assert_eq!(toy.finish(&registry, name), whole, "{name}, kill {kills}");
                assert_sound(&registry);
                std::fs::remove_dir_all(&registry).expect("removed");
                runs += 1;
            }
            (kills, runs)
        })
        .collect();
    let (kills, runs) = figures.iter().fold((0, 0), |sum, figure| (sum.0 + figure.0, sum.1 + figure.1));
    let figures = format!("{kills} kills of {runs} runs of {} experiments, 0 differ", TOYS.len());
    figure("T2", "kill -9 at random times, resumed with 1 to 3 threads", &figures);
}

fn has_run(registry: &Path) -> bool {
    let listed = crate::it::cli::zoo(registry, &["runs", "ls", "--json"]);
    listed.status.success() && listed.stdout.trim_ascii() != b"[]"
}

fn resume(registry: &Path, name: &str) -> std::process::Command {
    let mut command = command(registry);
    command.args(["resume", name]);
    command
}

/// T3: any number of threads gives the same bits.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (threads, models, steps): (&[&str], &[&str], &str) = match is_full() {
        true => (&["1", "2", "3", "4", "8"], &["cifar_resnet20", "resnet18", "seresnet50"], "steps=50"),
        false => (&["1", "3"], &["cifar_resnet20"], "steps=6"),
    };
    let toy = Toy::new();
    for model in models {
        let outcomes: Vec<Outcome> = threads
            .iter()
            .map(|threads| {
                let registry = toy.registry(&format!("{model}_{threads}"));
                let mut command = toy.run(&registry, "mixed");
                let model = format!("model={model}");
                command.args(["--threads", threads, "--set", &model, "--set", steps]);
                // Images of 8 x 8 leave a deep network nothing to average over.
                command.args(["--set", "input=32", "--set", "augment.train=[{resize: {size: 32}}, normalize]"]);
                command.args(["--set", "augment.eval=[{resize: {size: 32}}, normalize]"]);
                stdout(&command.output().expect("started"));
                outcome(&registry, "mixed")
            })
            .collect();
        let digests: BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.metric_digest.as_str()).collect();
        assert_eq!(digests.len(), 1, "{model}");
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{model}: {outcomes:#?}");
    }
    let figures = format!("{} models, threads {}, {steps}: 1 digest each", models.len(), threads.join(" "));
    figure("T3", "bits by threads", &figures);
}

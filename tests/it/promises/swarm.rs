//! Many processes at one registry: writers, resumers, and somebody who keeps it locked.

use super::disk::{copy, crashed};
use super::{Toy, assert_sound, command, count, figure, is_full, outcome, shown};
use crate::it::cli::{json, stderr, zoo};
use crate::it::registry::{location, new_run, sqlite_file, start, uid};
use resnet_zoo::registry::lease::Lease;
use resnet_zoo::registry::run::Point;
use resnet_zoo::registry::store::{Batch, End, Store};
use resnet_zoo::registry::{Clock, RunState};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use std::any::Any;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const POINTS: u64 = 100;

/// One process of the swarm; alone, where nobody sent it. Says what the registry has acknowledged.
#[test]
fn one_of_the_swarm() {
    let sent = std::env::var("RESNET_ZOO_SWARM").ok();
    let own = tempfile::tempdir().expect("a folder");
    let mut words = sent.as_deref().unwrap_or("- 0 1 100").split(' ');
    let folder = words.next().filter(|_| sent.is_some()).map_or(own.path(), Path::new);
    let numbers: Vec<u32> = words.map(|word| word.parse().expect("a number")).collect();
    let [number, seconds, pause] = numbers[..] else { panic!("a number, seconds and a pause") };
    let pause = Duration::from_millis(pause.into());
    let flushes = write_for(Duration::from_secs(seconds.into()), pause, folder, number);
    if sent.is_none() {
        let stored = json(folder, &["sql", "SELECT count(*) AS n FROM metric"])[0]["n"].as_u64();
        assert_eq!(stored, Some(flushes * POINTS));
    }
}

fn write_for(time: Duration, pause: Duration, folder: &Path, number: u32) -> u64 {
    let clock = Clock::new(|| 1_700_000_000_000);
    let mut store = Store::open(location(folder), clock).expect("opened");
    let _lease = Lease::take(&location(folder).run_folder(&uid(number))).expect("free");
    let run = store.create_run(&uid(number), &new_run(&format!("swarm-{number}")), &start()).expect("created");
    let begun = Instant::now();
    let mut flushes = 0;
    while begun.elapsed() < time {
        let steps = flushes * POINTS..(flushes + 1) * POINTS;
        let points = steps.map(|step| Point { metric: "train.loss".to_owned(), step, value: f64::from(number) });
        let batch = Batch { points: points.collect(), ..Batch::default() };
        let asked = Instant::now();
        assert_eq!(store.flush(&run, &batch).expect("no lock error"), 0);
        flushes += 1;
        // In one piece and at once, whatever the test harness does with its output.
        let line = format!("acknowledged {flushes} {}\n", asked.elapsed().as_micros());
        std::io::stdout().write_all(line.as_bytes()).expect("somebody reads");
        std::thread::sleep(pause.saturating_sub(asked.elapsed()));
    }
    let end = End { state: RunState::Completed, reason: None };
    store.flush(&run, &Batch { end: Some(end), ..Batch::default() }).expect("ended");
    flushes
}

fn send(folder: &Path, number: usize, seconds: usize, pause: usize) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["it::promises::swarm::one_of_the_swarm", "--exact", "--nocapture", "--test-threads", "1"])
        .env("RESNET_ZOO_SWARM", format!("{} {number} {seconds} {pause}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

/// What a process of the swarm said: flushes that were acknowledged, and how long each took, in microseconds.
fn acknowledged(child: &mut Child) -> Vec<u64> {
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let said = lines.filter_map(|line| {
        let rest = line.split_once("acknowledged ")?.1;
        rest.split_once(' ')?.1.trim().parse().ok()
    });
    said.collect()
}

/// T4: 32 writers, of which 10 are killed.
#[test]
fn thirty_two_writers_lose_nothing_that_was_acknowledged() {
    // As often as a run that trains writes, and ten times as often.
    assert_nothing_is_lost(count(2, 60), 1000);
    assert_nothing_is_lost(count(2, 60), 100);
}

fn assert_nothing_is_lost(seconds: usize, pause: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut swarm: Vec<Child> = (0..32).map(|number| send(folder.path(), number, seconds, pause)).collect();
    let said: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let listeners: Vec<_> = swarm
            .iter_mut()
            .enumerate()
            .map(|(number, child)| {
                scope.spawn(move || {
                    if number < 10 {
                        std::thread::sleep(Duration::from_secs_f64(seconds as f64 * (0.3 + 0.06 * number as f64)));
                        child.kill().expect("killed, or ended");
                    }
                    acknowledged(child)
                })
            })
            .collect();
        listeners.into_iter().map(|listener| listener.join().expect("no panic")).collect()
    });
    let mut killed = 0;
    for (number, child) in swarm.iter_mut().enumerate() {
        let status = child.wait().expect("ended");
        killed += usize::from(status.code().is_none());
        assert!(status.success() || number < 10 && status.code().is_none(), "writer {number}: {status}");
    }
    assert!(killed > 0, "some were killed");
    let runs = json(folder.path(), &["runs", "ls"]);
    let runs = runs.as_array().expect("a list");
    for (number, said) in said.iter().enumerate() {
        let Some(run) = runs.iter().find(|run| run["name"] == format!("swarm-{number}")) else {
            assert!(said.is_empty() && number < 10, "writer {number} was killed before it was heard of");
            continue;
        };
        let expected = if run["state"] == "COMPLETED" { "COMPLETED" } else { "CRASHED" };
        assert_eq!(run["state"], expected, "writer {number}: nobody runs any more");
        let steps = run["steps"].as_u64().expect("a number");
        assert!(steps >= said.len() as u64 * POINTS, "writer {number}: {} acknowledged, {steps} stored", said.len());
    }
    let whole = json(
        folder.path(),
        &["sql", "SELECT count(*) AS points, (SELECT sum(cursor_step + 1) FROM run) AS steps FROM metric"],
    );
    assert_eq!(whole[0]["points"], whole[0]["steps"], "no step is missing");
    assert_sound(folder.path());
    let mut all: Vec<u64> = said.concat();
    all.sort_unstable();
    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    let figures = format!(
        "32 processes, each every {pause} ms for {seconds} s, {killed} killed: {} flushes of {POINTS} points acknowledged, 0 lost, 0 lock errors; a flush takes {:.1} ms (median), {:.1} ms (p99)",
        all.len(),
        at(0.5),
        at(0.99)
    );
    figure("T4", "many writers, one file", &figures);
}

/// T11: several resume one run at once.
#[test]
fn of_several_resumers_one_wins() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let killed = crashed(&toy);
    let rounds = count(3, 200);
    for round in 0..rounds {
        let registry = toy.registry(&format!("resumed_{round}"));
        copy(&killed, &registry);
        let together = 2 + round % if is_full() { 7 } else { 3 };
        let resumers: Vec<Child> = (0..together)
            .map(|_| {
                let mut command = command(&registry);
                command.args(["resume", "mixed"]).stdout(Stdio::null()).stderr(Stdio::piped());
                command.spawn().expect("started")
            })
            .collect();
        let mut winners = 0;
        for resumer in resumers {
            let output = resumer.wait_with_output().expect("ended");
            let message = stderr(&output);
            match output.status.code() {
                Some(0) => winners += 1,
                code => {
                    let told = ["works on this run", "is RUNNING", "is completed"];
                    assert!(code == Some(2) && told.iter().any(|told| message.contains(told)), "{code:?} {message}");
                }
            }
        }
        assert_eq!(winners, 1, "round {round}, {together} together");
        assert_eq!(outcome(&registry, "mixed"), whole);
        assert_eq!(json(&registry, &["runs", "show", "mixed"])["attempts"].as_array().map(Vec::len), Some(2));
        std::fs::remove_dir_all(&registry).expect("removed");
    }
    let most = if is_full() { 8 } else { 4 };
    figure("T11", "2 to 8 resume at once", &format!("{rounds} rounds of 2 to {most}: 1 winner each"));
}

/// Somebody keeps the registry locked for longer than a run is willing to wait.
#[test]
fn what_a_locked_registry_cannot_take_is_stored_later() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");

    // Locked for a while: the run goes on, and stores everything before it ends.
    let registry = toy.registry("locked_for_a_while");
    let (run, lock) = run_locked(&toy, &registry);
    wait_for_spill(&registry);
    drop(lock);
    let output = run.wait_with_output().expect("ended");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(outcome(&registry, "mixed"), whole);
    assert!(spill_of(&registry).is_none(), "stored, and removed");

    // Locked to the end: the run says where the rest is, and `gc` stores it.
    let registry = toy.registry("locked_to_the_end");
    let (run, lock) = run_locked(&toy, &registry);
    let output = run.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("metrics.spill") && stderr(&output).contains("gc"), "{}", stderr(&output));
    let before = json(&registry, &["runs", "show", "mixed"]);
    assert_eq!(before["state"], "CRASHED");
    drop(lock);
    let dry = json(&registry, &["gc", "--dry-run"]);
    assert_eq!(dry["spills"][0]["run"], before["id"]);
    assert_eq!(dry["blobs"], serde_json::json!([]), "a spilled checkpoint needs its files");
    assert_eq!(json(&registry, &["runs", "show", "mixed"]), before, "a dry run changes nothing");
    assert_eq!(json(&registry, &["gc"])["spills"], dry["spills"]);
    assert_eq!(outcome(&registry, "mixed"), whole);
    assert!(spill_of(&registry).is_none(), "stored, and removed");

    // Killed while it is locked: whoever resumes the run stores what it had spilled.
    let registry = toy.registry("killed_while_locked");
    let (mut run, lock) = run_locked(&toy, &registry);
    wait_for_spill(&registry);
    run.kill().expect("killed, or ended");
    run.wait().expect("ended");
    drop(lock);
    let spill = spill_of(&registry).expect("there is one");
    let spilled = std::fs::read(&spill).expect("read");
    shown(&registry, "mixed");
    let output = zoo(&registry, &["resume", "mixed"]);
    // A run whose end was spilled is completed by that.
    assert!(output.status.success() || stderr(&output).contains("is completed"), "{}", stderr(&output));
    assert!(spill_of(&registry).is_none(), "stored, and removed");
    assert_eq!(outcome(&registry, "mixed"), whole);
    // Whoever stores it may die before the file is removed: a second time changes nothing.
    let before = json(&registry, &["runs", "show", "mixed"]);
    std::fs::write(&spill, spilled).expect("written");
    assert_eq!(json(&registry, &["gc"])["spills"][0]["run"], before["id"]);
    assert_eq!(json(&registry, &["runs", "show", "mixed"]), before);
    assert_sound(&registry);
    figure("spill", "locked past the time-out", "stored by the run itself, by gc and by resume; 0 differ");
}

/// Begins the experiment `mixed`, and holds the write lock from before its first step on.
fn run_locked(toy: &Toy, registry: &Path) -> (Child, Box<dyn Any>) {
    let mut command = toy.run(registry, "mixed");
    command.args(["--json", "--lock-timeout", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = command.spawn().expect("started");
    let mut events = BufReader::new(run.stdout.take().expect("piped")).lines().map_while(Result::ok);
    events.find(|line| line.contains("\"started\"")).expect("a start");
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &run.id().to_string()]).status();
        assert!(status.expect("a program").success());
    };
    let lock = loop {
        signal("-STOP");
        let lock = lock(registry);
        signal("-CONT");
        match lock {
            Some(lock) => break lock,
            // Stopped in the middle of a transaction.
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // Its pipe must not fill.
    std::thread::spawn(move || events.for_each(drop));
    (run, lock)
}

fn lock(registry: &Path) -> Option<Box<dyn Any>> {
    #[cfg(feature = "postgres")]
    if let Some(database) = crate::it::server::database(registry) {
        return crate::it::server::Lock::take(&database).map(|lock| Box::new(lock) as Box<dyn Any>);
    }
    Lock::take(&sqlite_file(registry)).map(|lock| Box::new(lock) as Box<dyn Any>)
}

/// SQLite's write lock, held by a program that is not ours.
struct Lock {
    _connection: sqlx::SqliteConnection,
    _runtime: tokio::runtime::Runtime,
}

impl Lock {
    fn take(database: &Path) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let connection = runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(database).busy_timeout(Duration::from_millis(50));
            let mut connection = options.connect().await.expect("opened");
            sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.ok().map(|_| connection)
        });
        Some(Lock { _connection: connection?, _runtime: runtime })
    }
}

fn spill_of(registry: &Path) -> Option<PathBuf> {
    let files =
        std::fs::read_dir(registry).expect("a folder").map(|entry| entry.expect("one").path().join("metrics.spill"));
    files.into_iter().find(|file| file.exists())
}

fn wait_for_spill(registry: &Path) {
    let begun = Instant::now();
    while spill_of(registry).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing is spilled");
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! The registry on a real disk: concurrent writers, deaths, leases, damaged files, newer schemas.

use candle_core::{Device, Tensor};
use resnet_zoo::registry::lease::Lease;
use resnet_zoo::registry::run::{Origin, Point};
use resnet_zoo::registry::store::{Batch, End, Page, Start};
use resnet_zoo::registry::{Annotations, Build, Clock, Location, NewRun, Process, Reader, Recorder, RunState, Store};
use resnet_zoo::train::Checkpoint;
use resnet_zoo::train::checkpoint::{Progress, Snapshot};
use resnet_zoo::train::event::{Event, Observer, Role};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

fn clock() -> Clock {
    static NOW: AtomicI64 = AtomicI64::new(1_700_000_000_000);
    Clock::new(|| NOW.fetch_add(1, Ordering::Relaxed))
}

/// The registry of a folder: a file in it, or a database of its own where the tests are given a server.
pub fn location(folder: &Path) -> Location {
    #[cfg(feature = "postgres")]
    if let Some(location) = crate::it::server::location(folder) {
        return location;
    }
    Location::new(folder.join("registry.sqlite3"))
}

/// The same as arguments of the program.
pub fn registry_of(folder: &Path) -> Vec<std::ffi::OsString> {
    location(folder).for_child().0
}

/// The registry's file; a test that asks for it is about SQLite alone, and `scripts/postgres.sh` leaves it out.
pub fn sqlite_file(folder: &Path) -> std::path::PathBuf {
    location(folder).file().expect("scripts/postgres.sh leaves this test out").to_owned()
}

fn store(folder: &Path) -> Store {
    Store::open(location(folder), clock()).expect("opened")
}

fn reader(folder: &Path) -> Reader {
    Reader::open(location(folder), clock()).expect("opened")
}

pub fn new_run(name: &str) -> NewRun {
    NewRun {
        name: name.to_owned(),
        experiment: "test".to_owned(),
        files: vec![("test.yaml".to_owned(), "name: test\n".to_owned())],
        overrides: vec!["seed=7".to_owned()],
        config: json!({"seed": 7, "optimizer": {"sgd": {"lr": 0.1}}}),
        provenance: json!({"seed": "--set"}),
        model: "resnet18".to_owned(),
        spec_files: vec![("resnet18.yaml".to_owned(), "name: resnet18\n".to_owned())],
        spec_sha256: "00".repeat(32),
        weights: json!({"from": "scratch"}),
        data_sha256: "11".repeat(32),
        classes: vec!["coat".to_owned(), "shirt".to_owned()],
        seed: u64::MAX,
        origin: Origin::default(),
        annotations: Annotations::default(),
    }
}

pub fn start() -> Start {
    Start { process: Process::current(), build: Build::CURRENT, device: "cpu".to_owned(), threads: 1, keep_last: 2 }
}

pub fn uid(number: u32) -> String {
    format!("0193a1b2-c3d4-7e5f-8a9b-0000{number:08x}")
}

fn recorder(folder: &Path, number: u32) -> Recorder {
    Recorder::create(store(folder), &uid(number), &new_run(&format!("run-{number}")), &start()).expect("created")
}

/// A completed run `run-NUMBER` whose best `val.top1` is `top1`, at step 1, and whose config says so.
pub fn finished_run(folder: &Path, number: u32, top1: f64) {
    let mut run = new_run(&format!("run-{number}"));
    run.config["top1"] = json!(top1);
    let mut recorder = Recorder::create(store(folder), &uid(number), &run, &start()).expect("created");
    for (index, value) in [0.1, top1, top1 / 2.0].into_iter().enumerate() {
        recorder.observe(&step(index as u64, &[("train.loss", 1.0), ("val.top1", value)])).expect("queued");
    }
    recorder.end(RunState::Completed, None).expect("ended");
}

/// A run in a few words.
pub struct Sketch<'a> {
    pub name: &'a str,
    pub model: &'a str,
    pub seed: u64,
    /// How it ended; `None`: its process died.
    pub state: Option<RunState>,
    pub config: serde_json::Value,
    pub provenance: serde_json::Value,
    /// The model's parameters, said as training begins; it does not where there are none.
    pub params: Option<usize>,
    pub macs: Option<u64>,
    /// Metrics and their values, from step 0 on.
    pub values: &'a [(&'a str, &'a [f64])],
    pub annotations: Annotations,
}

impl Default for Sketch<'_> {
    fn default() -> Self {
        Sketch {
            name: "run",
            model: "resnet18",
            seed: 0,
            state: Some(RunState::Completed),
            config: json!({"optimizer": {"sgd": {"lr": 0.1}}}),
            provenance: json!({}),
            params: None,
            macs: None,
            values: &[],
            annotations: Annotations::default(),
        }
    }
}

impl Sketch<'_> {
    /// Makes it a run of the registry in `folder`.
    pub fn record(self, folder: &Path, number: u32) {
        let mut run = new_run(self.name);
        (run.model, run.seed, run.annotations) = (self.model.to_owned(), self.seed, self.annotations);
        (run.config, run.provenance) = (self.config, self.provenance);
        let card = zoo::models::find(self.model).expect("a model of the zoo").card;
        run.spec_files = card.sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        run.spec_sha256 = card.spec_sha256.to_owned();
        run.config["seed"] = json!(self.seed);
        let mut recorder = Recorder::create(store(folder), &uid(number), &run, &start()).expect("created");
        if let Some(params) = self.params {
            let (steps, samples) = (3, (8, 8));
            let (first_step, steps_per_epoch, params) = (0, 1, (params, params));
            let macs = self.macs;
            let started = Event::Started { first_step, steps, steps_per_epoch, samples, params, macs };
            recorder.observe(&started).expect("queued");
        }
        for (metric, values) in self.values {
            for (index, value) in values.iter().enumerate() {
                recorder.observe(&step(index as u64, &[(metric, *value)])).expect("queued");
            }
        }
        match self.state {
            Some(state) => assert_eq!(recorder.end(state, None).expect("ended"), 0),
            None => {
                drop(recorder);
                // The registry's thread ends when it has written what it was given.
                let points = self.values.iter().map(|(_, values)| values.len()).sum::<usize>();
                let count = format!("SELECT count(*) FROM metrics WHERE run = '{}'", uid(number));
                while sql(folder, &count) != format!("[[{points}]]") {
                    std::thread::yield_now();
                }
            }
        }
    }
}

fn step(step: u64, metrics: &[(&str, f64)]) -> Event<'static> {
    // Leaked, so that the event outlives the line that makes it; a test's metrics are few.
    let metrics = metrics.iter().map(|(name, value)| (&*name.to_string().leak(), *value)).collect::<Vec<_>>().leak();
    Event::Step { step, epoch: 0, samples: 8, metrics, seconds: (0.01, 0.001) }
}

/// A state of one weight.
pub fn snapshot(number: u64) -> Snapshot {
    let weight = Tensor::new(&[number as f32], &Device::Cpu).expect("on the CPU");
    let checkpoint = Checkpoint {
        weights: BTreeMap::from([("fc.weight".to_owned(), weight)]),
        progress: Progress { steps: number + 1, ..Progress::default() },
        ..Checkpoint::default()
    };
    Snapshot { checkpoint, ..Snapshot::default() }
}

fn sql(folder: &Path, statement: &str) -> String {
    let answer = reader(folder).query(statement).expect("answered");
    serde_json::to_string(&answer.rows).expect("JSON")
}

/// Changes the registry of a folder as another program would.
pub fn change(folder: &Path, statement: &str) -> Result<(), String> {
    #[cfg(feature = "postgres")]
    if let Some(database) = crate::it::server::database(folder) {
        return crate::it::server::run(&database, statement);
    }
    raw(&sqlite_file(folder), statement)
}

/// Runs raw SQL on a connection of its own, as another program would.
pub fn raw(database: &Path, statement: &str) -> Result<(), String> {
    use sqlx::ConnectOptions;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database).create_if_missing(true);
        let mut connection = options.connect().await.map_err(|error| error.to_string())?;
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        let result = sqlx::raw_sql(statement).execute(&mut connection).await.map_err(|error| error.to_string());
        sqlx::Connection::close(connection).await.map_err(|error| error.to_string())?;
        result.map(|_| ())
    })
}

#[test]
fn every_bit_of_a_metric_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = [0.1 + 0.2, f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 2.0, f64::MAX];
    let mut recorder = recorder(folder.path(), 1);
    for (index, value) in values.iter().enumerate() {
        recorder.observe(&step(index as u64, &[("val.top1", *value)])).expect("queued");
    }
    recorder.end(RunState::Completed, None).expect("ended");

    let mut reader = reader(folder.path());
    let run = reader.find("run-1").expect("found");
    let points = reader.points(&run, "val.top1").expect("read");
    let bits: Vec<u64> = points.iter().map(|point| point.value.to_bits()).collect();
    assert_eq!(bits, values.map(f64::to_bits));
    let summary = &run.metrics["val.top1"];
    assert_eq!((summary.best, summary.best_step), (Some(f64::INFINITY), Some(4)), "a NaN is never the best");
    assert_eq!((run.seed, run.state, run.steps), (u64::MAX, RunState::Completed, 8));
}

#[test]
fn a_resume_that_does_not_reproduce_its_past_is_noted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = recorder(folder.path(), 1);
    for (number, value) in [(0, 1.0), (1, 0.0), (2, f64::NAN)] {
        first.observe(&step(number, &[("train.loss", value)])).expect("queued");
    }
    first.end(RunState::Interrupted, Some("SIGINT".to_owned())).expect("ended");
    let digest = sql(folder.path(), "SELECT metric_digest FROM runs");

    let lease = Lease::take(&location(folder.path()).run_folder(&uid(1))).expect("free");
    let mut second = Recorder::resume(store(folder.path()), lease, &uid(1), &start(), None).expect("resumed");
    for (number, value) in [(0, 1.0), (1, -0.0), (2, f64::NAN)] {
        second.observe(&step(number, &[("train.loss", value)])).expect("queued");
    }
    assert_eq!(second.end(RunState::Completed, None).expect("ended"), 1, "0.0 and -0.0 are not the same bits");
    let noted = sql(folder.path(), "SELECT step, old_bits, new_bits, lease_epoch FROM replay_mismatch");
    assert_eq!(noted, format!("[[1,0,{},2]]", (-0.0f64).to_bits().cast_signed()));
    assert_ne!(sql(folder.path(), "SELECT metric_digest FROM runs"), digest);
    assert_eq!(sql(folder.path(), "SELECT value FROM metrics WHERE step = 0"), "[[1.0]]", "the first value stays");
}

#[test]
fn what_the_machine_says_is_not_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = store(folder.path());
    for number in 1..=2 {
        let run = store.create_run(&uid(number), &new_run(&format!("run-{number}")), &start()).expect("created");
        let point = |metric: &str, value| Point { metric: metric.to_owned(), step: 0, value };
        for bytes in [f64::from(number), 9.0] {
            let points = vec![point("train.loss", 1.0), point("system.rss_bytes", bytes)];
            let batch = Batch { points, ..Batch::default() };
            assert_eq!(store.flush(&run, &batch).expect("written"), 0, "a replay takes other memory");
        }
    }
    let mut reader = reader(folder.path());
    let (a, b) = (reader.find("run-1").expect("found"), reader.find("run-2").expect("found"));
    let agreement = reader.agreement(&a, &b).expect("compared");
    assert_eq!((agreement.values, agreement.different), (1, 0), "the loss alone");
    let bytes = &a.metrics["system.rss_bytes"];
    assert_eq!((bytes.last, bytes.best), (Some(1.0), None), "the first value stays, and none is better");
}

#[test]
fn many_writers_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let folder = folder.path();
            scope.spawn(move || {
                let mut store = store(folder);
                let working = store.create_run(&uid(number), &new_run("swarm"), &start()).expect("created");
                for flush in 0..25u64 {
                    let points = (0..4).map(|index| Point {
                        metric: "train.loss".to_owned(),
                        step: 4 * flush + index,
                        value: f64::from(number),
                    });
                    let batch = Batch { points: points.collect(), ..Batch::default() };
                    assert_eq!(store.flush(&working, &batch).expect("no lock error"), 0);
                }
            });
        }
    });
    let counts = "SELECT count(*), count(DISTINCT run), min(step), max(step) FROM metrics";
    assert_eq!(sql(folder.path(), counts), "[[800,8,0,99]]");
    assert_eq!(sql(folder.path(), "SELECT hb_seq FROM run GROUP BY hb_seq"), "[[25]]");
}

#[test]
fn a_second_resumer_is_refused_and_a_fenced_writer_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store_of_first = store(folder.path());
    let first = store_of_first.create_run(&uid(1), &new_run("run"), &start()).expect("created");
    let second = store(folder.path()).resume_run(&uid(1), &start(), None).expect("taken over");
    assert_eq!((first.lease_epoch, second.lease_epoch), (1, 2));

    let batch =
        Batch { points: vec![Point { metric: "train.loss".to_owned(), step: 0, value: 1.0 }], ..Batch::default() };
    let message = store_of_first.flush(&first, &batch).expect_err("fenced").to_string();
    assert!(message.contains("another process took over the run"), "{message}");
    let end = Some(End { state: RunState::Completed, reason: None });
    let ending = Batch { end, ..Batch::default() };
    let message = store_of_first.flush(&first, &ending).expect_err("fenced").to_string();
    assert!(message.contains("another process took over the run"), "{message}");
    assert_eq!(sql(folder.path(), "SELECT count(*) FROM metric"), "[[0]]", "what a fenced writer sent is not stored");
    assert_eq!(sql(folder.path(), "SELECT exit FROM attempt ORDER BY lease_epoch"), "[[\"crashed\"],[null]]");

    let run_folder = location(folder.path()).run_folder(&uid(1));
    let winners = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..4).map(|_| scope.spawn(|| Lease::take(&run_folder).ok())).collect();
        // Leases are held until all have tried.
        tries.into_iter().map(|handle| handle.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(winners.iter().flatten().count(), 1);
}

#[test]
fn the_dead_are_shown_as_crashed_and_the_silent_as_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    let alive = recorder(folder.path(), 1);
    assert_eq!(reader(folder.path()).find("run-1").expect("found").state, RunState::Running);
    drop(alive);
    assert_eq!(reader(folder.path()).find("run-1").expect("found").state, RunState::Crashed);

    let mut elsewhere = start();
    elsewhere.process.host = "another-host".to_owned();
    store(folder.path()).create_run(&uid(4), &new_run("in a container that is gone"), &elsewhere).expect("created");
    let contained = reader(folder.path()).find("in a container that is gone").expect("found");
    assert_eq!(contained.state, RunState::Crashed, "the same boot: its lock would be seen");
    elsewhere.process.boot_id = "another boot".to_owned();
    store(folder.path()).create_run(&uid(2), &new_run("far"), &elsewhere).expect("created");
    assert_eq!(reader(folder.path()).find("far").expect("found").state, RunState::Running);
    let late = Clock::new(|| 1_700_000_000_000 + 3_600_000);
    let mut late = Reader::open(location(folder.path()), late).expect("opened");
    assert_eq!(late.find("far").expect("found").state, RunState::Unknown);

    let mut rebooted = start();
    rebooted.process.boot_id = "another boot".to_owned();
    store(folder.path()).create_run(&uid(3), &new_run("before the reboot"), &rebooted).expect("created");
    let _lease = Lease::take(&location(folder.path()).run_folder(&uid(3))).expect("free");
    assert_eq!(reader(folder.path()).find("before the reboot").expect("found").state, RunState::Crashed);
}

#[test]
fn checkpoints_are_kept_by_role_and_the_rest_is_pruned() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recorder = recorder(folder.path(), 1);
    for number in 0..6u64 {
        recorder.observe(&step(number, &[("train.loss", 1.0)])).expect("queued");
        let roles: &[Role] = if number == 2 { &[Role::Best, Role::Last] } else { &[Role::Last] };
        let snapshot = Arc::new(snapshot(number));
        recorder.observe(&Event::Checkpoint { step: number, roles, snapshot: &snapshot }).expect("handed over");
        recorder.settle().expect("stored");
        let kept: Vec<(u64, Role)> = recorder.kept().iter().map(|kept| (kept.step, kept.role)).collect();
        assert_eq!(kept, roles.iter().map(|role| (number, *role)).collect::<Vec<_>>(), "told once it is there");
        let stored = format!("SELECT count(*) FROM checkpoints WHERE step = {number}");
        assert_eq!(sql(folder.path(), &stored), format!("[[{}]]", roles.len()));
    }
    recorder.end(RunState::Completed, None).expect("ended");

    let kept = sql(folder.path(), "SELECT step, role FROM checkpoints ORDER BY step, role");
    assert_eq!(kept, r#"[[2,"best"],[4,"last"],[5,"last"]]"#);
    let mut reader = reader(folder.path());
    let run = reader.find("run-1").expect("found");
    let detail = reader.detail(run).expect("read");
    let blobs = store(folder.path()).blobs().clone();
    let names = detail.checkpoints.iter().flat_map(|kept| [&kept.weights_sha256, &kept.state_sha256]);
    for sha256 in names.clone() {
        blobs.get(sha256).expect("verified");
    }
    let files = walk(&folder.path().join("blobs"));
    assert_eq!(files.iter().filter(|name| name.len() == 64).count(), names.count(), "{files:?}");
}

fn walk(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => names.extend(walk(&entry.path())),
            false => names.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    names
}

#[test]
fn history_cannot_be_rewritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recorder = recorder(folder.path(), 1);
    recorder.observe(&step(0, &[("train.loss", 1.0)])).expect("queued");
    recorder.end(RunState::Completed, None).expect("ended");
    for (statement, expected) in [
        ("UPDATE metric SET value = 0", "metrics are append-only"),
        ("DELETE FROM metric", "metrics are append-only"),
        ("DELETE FROM run", "runs are append-only"),
        ("UPDATE run SET seed = 1", "what a run ran never changes"),
        ("UPDATE run SET config_hash = source_hash", "what a run ran never changes"),
        ("UPDATE run SET state = 'RUNNING', ended_ms = NULL", "does not change state this way"),
        ("UPDATE run SET state = 'INTERRUPTED'", "does not change state this way"),
        ("UPDATE run SET lease_epoch = 0", "a lease epoch never goes back"),
    ] {
        let message = change(folder.path(), statement).expect_err(statement);
        assert!(message.contains(expected), "{statement}: {message}");
    }
    let message = store(folder.path()).resume_run(&uid(1), &start(), None).expect_err("completed").to_string();
    assert!(message.contains("is completed; there is nothing to resume"), "{message}");
}

#[test]
fn files_of_others_and_newer_registries_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = sqlite_file(folder.path());
    let open = || Store::open(location(folder.path()), clock()).map(|_| ()).expect_err("refused");

    let missing = Reader::open(location(folder.path()), clock()).expect_err("missing");
    assert!(missing.to_string().contains("there is no registry at"), "{missing}");
    assert_eq!(missing.exit_code(), 2);

    std::fs::write(&database, "not a database, but long enough to hold the header of one ".repeat(20))
        .expect("written");
    let error = open();
    assert!(error.to_string().contains("is not a SQLite database"), "{error}");
    assert_eq!(error.exit_code(), 2);

    std::fs::remove_file(&database).expect("removed");
    raw(&database, "CREATE TABLE theirs (x)").expect("created");
    assert!(open().to_string().contains("a SQLite file of another program"));

    std::fs::remove_file(&database).expect("removed");
    drop(store(folder.path()));
    raw(&database, "PRAGMA user_version = 1000").expect("set");
    for error in [open(), Reader::open(location(folder.path()), clock()).expect_err("refused")] {
        assert!(error.to_string().contains("written by a newer version (schema 1000"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_registry_opens_as_the_protocol_says() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(store(folder.path()));
    let mut reader = reader(folder.path());
    let settings = "SELECT journal_mode, synchronous, foreign_keys, query_only, trusted_schema,
                           application_id, user_version, sqlite_version() >= '3.51.3'
                    FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_query_only,
                         pragma_trusted_schema, pragma_application_id, pragma_user_version";
    let answer = reader.query(settings).expect("answered");
    // The schema's version is the number of migrations, none of which sqlite.rs forgets.
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("a folder");
    let files = files.filter(|entry| entry.as_ref().expect("an entry").path().is_file()).count();
    assert_eq!(json!(answer.rows), json!([["wal", 2, 1, 1, 0, 0x525A_4F4F, files, 1]]));
}

#[test]
fn a_run_is_found_by_id_short_id_or_name() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in [1, 2] {
        recorder(folder.path(), number).end(RunState::Completed, None).expect("ended");
    }
    let mut reader = reader(folder.path());
    for (wanted, number) in [("run-1", 1), (uid(2).as_str(), 2), ("00000002", 2), ("RUN-1", 0), ("0193a1b2", 0)] {
        match (reader.find(wanted), number) {
            (Ok(run), _) => assert_eq!(run.id, uid(number), "{wanted}"),
            (Err(error), 0) => assert_eq!(error.exit_code(), 2),
            (Err(error), _) => panic!("{wanted}: {error}"),
        }
    }
    let message = reader.find("0193a1b2").expect_err("ambiguous").to_string();
    assert!(message.contains("fits 2 runs: 00000002, 00000001"), "{message}");
    let message = reader.find("run-3").expect_err("unknown").to_string();
    assert!(message.contains("did you mean `run-"), "{message}");

    // Several at once are what each of them is alone, in their order.
    let wanted = ["run-2".to_owned(), uid(1), "00000002".to_owned(), "run-1".to_owned()];
    let pages = reader.find_all(&wanted).expect("found");
    let page = Page::join(pages.clone());
    assert_eq!((pages.len(), page.len(), pages[0] == pages[2]), (4, 2, true));
    let ids: Vec<String> = reader.listings(&page).expect("read").into_iter().map(|run| run.id).collect();
    assert_eq!(ids, [uid(2), uid(1)]);
    let config = json!({"seed": 7, "optimizer": {"sgd": {"lr": 0.1}}});
    assert_eq!(reader.configs(&page).expect("read"), [config.clone(), config]);
    assert!(reader.find_all(&[]).expect("nothing").is_empty());
    let message = reader.find_all(&["run-1".to_owned(), "run-3".to_owned()]).expect_err("unknown").to_string();
    assert!(message.contains("there is no run `run-3`"), "{message}");
}

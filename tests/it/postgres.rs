//! What is special about a registry on a PostgreSQL server. `scripts/postgres.sh` starts one, and runs these and the other
//! tests of the registry against it.

use super::cli::{binary, json, stderr, stdout};
use super::registry::{change, finished_run, location, new_run, registry_of, start, uid};
use super::server::{address, database, rows, run};
use super::tiny::tiny_experiment;
use resnet_zoo::registry::lease::Lease;
use resnet_zoo::registry::run::Point;
use resnet_zoo::registry::store::{Batch, End};
use resnet_zoo::registry::{Clock, Location, Reader, RunState, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "s3cret/@:%";
const ENCODED: &str = "s3cret%2F%40%3A%25";

fn clock() -> Clock {
    Clock::new(|| 1_700_000_000_000)
}

/// A database of this test's own, without a registry.
fn empty(folder: &Path) -> String {
    database(folder).expect("scripts/postgres.sh names a server")
}

fn zoo(registry: &str, artifacts: &Path, arguments: &[&str]) -> Output {
    let mut command = binary();
    command.args(arguments).args(["--registry", registry, "--artifacts"]).arg(artifacts).env_remove("PGPASSWORD");
    command.output().expect("started")
}

/// The message of a command that ends with this exit code.
fn message(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    stderr(output)
}

/// A server of this test's own, which can be killed.
struct Server {
    folder: String,
    port: String,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&["start"])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let said = Self::script(arguments);
        let (folder, port) = said.trim().split_once(' ').expect("a folder and a port");
        Server { folder: folder.to_owned(), port: port.to_owned() }
    }

    fn kill(&self) {
        Self::script(&["kill", &self.folder]);
    }

    fn again(&self) {
        Self::script(&["again", &self.folder]);
    }

    fn address(&self, database: &str) -> String {
        format!("postgres://tester@127.0.0.1:{}/{database}", self.port)
    }

    fn script(arguments: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres.sh");
        stdout(&Command::new(script).args(arguments).output().expect("started"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        Self::script(&["stop", &self.folder]);
    }
}

#[test]
fn what_cannot_be_opened_says_why_and_keeps_the_password() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = empty(folder.path());
    let server = address().expect("a server");
    let host = server.rsplit('@').next().expect("a host");
    let name = own.rsplit('/').next().expect("a name");
    let wrong = [
        (format!("postgres://guarded:wr0ng{ENCODED}@{host}/{name}"), 2, "does not let guarded in"),
        (format!("postgres://guarded@{host}/{name}"), 2, "does not let guarded in"),
        (format!("{server}/no_such_database"), 2, "has no database no_such_database; make one"),
        (format!("postgres://tester:{ENCODED}@127.0.0.1:1/{name}"), 74, "cannot reach the server 127.0.0.1:1"),
        (format!("postgres://tester:{ENCODED}@127.0.0.1:many/{name}"), 2, "invalid port number"),
        (format!("{server}/"), 2, "names no database"),
        (format!("{own}?sslmode=verify-full"), 2, "server does not support TLS"),
        (own.clone(), 2, "there is no registry in postgres://tester@"),
    ];
    for (registry, code, expected) in wrong {
        let said = message(&zoo(&registry, folder.path(), &["runs", "ls"]), code);
        assert!(said.contains(expected) && said.trim().lines().count() == 1, "{registry}: {said}");
        assert!(!said.contains("s3cret") && !said.contains("wr0ng"), "{said}");
    }
    let experiment = tiny_experiment(folder.path(), "steps: 1\n");
    let experiment = experiment.to_str().expect("UTF-8");
    let said = message(&zoo(&own, folder.path(), &["run", experiment, "--network-filesystem"]), 2);
    assert!(said.contains("--network-filesystem is for a registry in a SQLite file"), "{said}");
    let said = message(&zoo("runs/registry.sqlite3", folder.path(), &["runs", "ls"]), 2);
    assert!(said.contains("--artifacts is for a registry on a PostgreSQL server"), "{said}");
}

#[test]
fn a_password_is_nowhere_to_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = address().expect("a server");
    let host = server.rsplit('@').next().expect("a host");
    let own = empty(folder.path());
    let name = own.rsplit('/').next().expect("a name");
    run(&own, "GRANT ALL ON SCHEMA public TO guarded").expect("granted");
    let registry = format!("postgres://guarded:{ENCODED}@{host}/{name}");
    let experiment = tiny_experiment(folder.path(), "steps: 2\n");
    let experiment = experiment.to_str().expect("UTF-8");
    let file = folder.path().join("sweep.yaml");
    std::fs::write(&file, "name: s\nexperiment: tiny.yaml\nparameters: {optimizer.sgd.lr: [0.1, 0.01]}\n")
        .expect("written");
    let sweep = file.to_str().expect("UTF-8");
    let page = folder.path().join("page.html");
    let all: [&[&str]; 6] = [
        &["run", experiment],
        &["run", experiment, "--json"],
        &["sweep", sweep, "--json"],
        &["runs", "show", "tiny", "--json"],
        &["runs", "show", "tiny"],
        &["report", "tiny", "--output", page.to_str().expect("UTF-8")],
    ];
    for arguments in all {
        let output = zoo(&registry, folder.path(), arguments);
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.contains("s3cret"), "{arguments:?}: {said}");
    }
    for file in [folder.path().join("blobs/registries"), page] {
        assert!(!std::fs::read_to_string(&file).expect("read").contains("s3cret"), "{}", file.display());
    }
    let contents = String::from_utf8_lossy(&super::server::contents(&own)).into_owned();
    assert!(contents.contains("tiny") && !contents.contains("s3cret"));
    // The same without it in the address.
    let address = format!("postgres://guarded@{host}/{name}");
    let mut command = binary();
    command.args(["runs", "ls", "--registry", &address]).env("PGPASSWORD", PASSWORD);
    assert!(stdout(&command.output().expect("started")).contains("tiny"));
}

#[test]
fn what_is_said_is_encrypted_where_the_address_says_so() {
    let server = Server::start_with(&["start", "tls"]);
    let folder = tempfile::tempdir().expect("a folder");
    let authority = format!("{}/server.crt", server.folder);
    let mut opened = 0;
    for (parameters, encrypted) in [
        ("?sslmode=disable".to_owned(), Some(0)),
        (String::new(), Some(1)),
        ("?sslmode=require".to_owned(), Some(1)),
        (format!("?sslmode=verify-full&sslrootcert={authority}"), Some(1)),
        ("?sslmode=verify-full".to_owned(), None),
    ] {
        let address = server.address("postgres") + &parameters;
        let registry = Location::parse(Path::new(&address), Some(folder.path())).expect("an address");
        match (Store::open(registry.clone(), clock()), encrypted) {
            (Ok(store), Some(encrypted)) => {
                store.close().expect("closed");
                let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                let answer = Reader::open(registry, clock()).expect("opened").query(ssl).expect("answered");
                assert_eq!(json!(answer.rows), json!([[encrypted]]), "{parameters}");
                opened += 1;
            }
            (Err(error), None) => {
                let said = error.to_string();
                assert!(
                    error.exit_code() == 2 && said.contains("certificate") && said.contains("?sslrootcert="),
                    "{said}"
                );
            }
            (result, _) => panic!("{parameters}: {result:?}"),
        }
    }
    assert_eq!(opened, 4);
}

#[test]
fn databases_of_others_and_newer_registries_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = empty(folder.path());
    let experiment = tiny_experiment(folder.path(), "steps: 1\n");
    let all = [vec!["run", experiment.to_str().expect("UTF-8")], vec!["runs", "ls"], vec!["sql", "SELECT 1"]];
    run(&own, "CREATE TABLE theirs (x INT)").expect("created");
    let refuse = |expected: &str| {
        let before = super::server::rows::<(String,)>(&own, "SELECT relname::text FROM pg_class ORDER BY 1");
        for arguments in &all {
            let said = message(&zoo(&own, folder.path(), arguments), 2);
            assert!(said.contains(expected), "{arguments:?}: {said}");
        }
        assert_eq!(super::server::rows::<(String,)>(&own, "SELECT relname::text FROM pg_class ORDER BY 1"), before);
    };
    refuse("holds the tables of another program");
    // Another program that takes its steps with the same library.
    run(&own, "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, checksum BYTEA NOT NULL)").expect("created");
    run(&own, "INSERT INTO _sqlx_migrations VALUES (1, '\\x00')").expect("inserted");
    refuse("holds the tables of another program");
    run(&own, "DROP TABLE theirs, _sqlx_migrations").expect("dropped");

    drop(Store::open(location(folder.path()), clock()).expect("opened"));
    run(
        &own,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (1000, 'from the future', TRUE, '\\x00', 0)",
    )
    .expect("inserted");
    refuse("was written by a newer version (schema 1000, this build knows ");
}

/// Every table and view of a schema with its columns.
fn columns(location: Location, query: &str) -> BTreeMap<String, Vec<String>> {
    let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in Reader::open(location, clock()).expect("opened").query(query).expect("answered").rows {
        let text = |at: usize| row[at].as_str().expect("text").to_owned();
        columns.entry(text(0)).or_default().push(text(1));
    }
    assert!(columns.len() > 25 && columns.contains_key("settings"), "{columns:?}");
    columns
}

#[test]
fn both_databases_have_the_same_tables_and_views() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let theirs = columns(
        location(folder.path()),
        "SELECT table_name, column_name FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations' ORDER BY 1, 2",
    );
    let file = folder.path().join("registry.sqlite3");
    drop(Store::open(Location::new(&file), clock()).expect("opened"));
    let ours = columns(
        Location::new(&file),
        "SELECT sqlite_schema.name, columns.name FROM sqlite_schema, pragma_table_info(sqlite_schema.name) AS columns
         WHERE sqlite_schema.type IN ('table', 'view') AND sqlite_schema.name <> '_sqlx_migrations' ORDER BY 1, 2",
    );
    assert_eq!(ours, theirs);
}

/// A view's answer is the same whichever database the run is in, but for what settings are written as.
#[test]
fn views_answer_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let bundle = folder.path().join("run.zip");
    let bundle = bundle.to_str().expect("UTF-8");
    stdout(
        &binary()
            .args(["export", "run-1", "--bundle", bundle])
            .args(registry_of(folder.path()))
            .output()
            .expect("started"),
    );
    let file = folder.path().join("other.sqlite3");
    stdout(&binary().args(["import", bundle, "--registry"]).arg(&file).output().expect("started"));
    let rows = |location: Location, sql: &str| {
        json!(Reader::open(location, clock()).expect("opened").query(sql).expect("answered").rows)
    };
    for view in [
        "runs",
        "results",
        "metrics",
        "checkpoints",
        "annotations",
        "tags",
        "origins",
        "attempts",
        "warnings",
        "provenance",
    ] {
        let sql = format!("SELECT * FROM {view} ORDER BY 1, 2, 3, 4");
        let sql =
            if ["tags", "provenance"].contains(&view) { format!("SELECT * FROM {view} ORDER BY 1, 2, 3") } else { sql };
        let (theirs, ours) = (rows(location(folder.path()), &sql), rows(Location::new(&file), &sql));
        assert_eq!(theirs, ours, "{view}");
    }
}

#[test]
fn settings_are_what_the_experiment_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = new_run("typed");
    run.config = json!({
        "a": {"b": {"c": 1e-7}, "text": "x \"y\"", "yes": true, "no": false, "none": null}, "list": [1, {"z": 2}], "big": u64::MAX,
        "one": 1, "exp": 1e20,
    });
    let mut store = Store::open(location(folder.path()), clock()).expect("opened");
    store.create_run(&uid(1), &run, &start()).expect("created");
    let settings = "SELECT setting, type, value FROM settings ORDER BY setting COLLATE \"C\"";
    let rows = Reader::open(location(folder.path()), clock()).expect("opened").query(settings).expect("answered").rows;
    assert_eq!(
        json!(rows),
        json!([
            ["a.b.c", "real", "1e-7"],
            ["a.no", "false", "0"],
            ["a.none", "null", null],
            ["a.text", "text", "x \"y\""],
            ["a.yes", "true", "1"],
            ["big", "integer", u64::MAX.to_string()],
            ["exp", "real", "1e+20"],
            ["list", "array", "[1,{\"z\":2}]"],
            ["one", "integer", "1"],
        ])
    );
}

#[test]
fn the_locks_of_the_living_say_who_lives() {
    let folder = tempfile::tempdir().expect("a folder");
    let find = || Reader::open(location(folder.path()), clock()).expect("opened").find("alive").expect("found").state;
    // On whatever machine it is: no lock file is looked at.
    let mut elsewhere = start();
    elsewhere.process.host = "another-host".to_owned();
    elsewhere.process.boot_id = "another boot".to_owned();
    let mut alive = Store::open(location(folder.path()), clock()).expect("opened");
    let run = alive.create_run(&uid(1), &new_run("alive"), &elsewhere).expect("created");
    assert_eq!(find(), RunState::Running);
    // Nobody takes it over while it lives, wherever its folder is.
    let away = tempfile::tempdir().expect("a folder");
    let database = empty(folder.path());
    let there = Location::parse(Path::new(&database), Some(away.path())).expect("an address");
    let _lease = Lease::take(&there.run_folder(&uid(1))).expect("another folder");
    let mut other = Store::open(there, clock()).expect("opened");
    assert!(!other.claim(&uid(1)).expect("asked"));
    let refused = other.resume_run(&uid(1), &start(), None).expect_err("taken");
    assert!(refused.exit_code() == 2 && refused.to_string().contains("another process works on this run"), "{refused}");
    // Its connection ends: it is dead, at once.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    super::server::run(&database, end).expect("ended");
    wait_until(|| find() == RunState::Crashed);
    // Not quite: with its next write it is back, and has its lock.
    let batch =
        Batch { points: vec![Point { metric: "train.loss".to_owned(), step: 0, value: 1. }], ..Batch::default() };
    assert_eq!(alive.flush(&run, &batch).expect("written on a new connection"), 0);
    assert_eq!(find(), RunState::Running);
    // Also where the server still kept the lock for a session that is gone.
    super::server::run(&database, end).expect("ended");
    let gone = Location::parse(Path::new(&database), Some(away.path())).expect("an address");
    let mut gone = Store::open(gone, clock()).expect("opened");
    wait_until(|| gone.claim(&uid(1)).expect("asked"));
    assert_eq!(alive.flush(&run, &batch).expect("nobody took it over"), 0);
    drop(gone);
    wait_until(|| find() == RunState::Crashed);
    assert_eq!(alive.flush(&run, &batch).expect("written"), 0);
    assert_eq!(find(), RunState::Running);
    drop(alive);
    wait_until(|| find() == RunState::Crashed);
    let taken = other.resume_run(&uid(1), &start(), None).expect("it is free now");
    assert_eq!(taken.lease_epoch, 2);
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never comes to that");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_process_that_lost_its_run_writes_nothing_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Store::open(location(folder.path()), clock()).expect("opened");
    let run = first.create_run(&uid(1), &new_run("fenced"), &start()).expect("created");
    change(folder.path(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").expect("ended");
    let mut second = Store::open(location(folder.path()), clock()).expect("opened");
    let mut claimed = false;
    wait_until(|| {
        claimed = claimed || second.claim(&uid(1)).expect("asked");
        claimed
    });
    second.resume_run(&uid(1), &start(), None).expect("taken over");
    let end = Some(End { state: RunState::Completed, reason: None });
    let refused = first.flush(&run, &Batch { end, ..Batch::default() }).expect_err("fenced");
    assert!(refused.to_string().contains("another process took over the run"), "{refused}");
    assert_eq!(
        Reader::open(location(folder.path()), clock()).expect("opened").find("fenced").expect("found").state,
        RunState::Running
    );
}

/// Begins to train, and waits until the first checkpoint is acknowledged.
fn training(registry: &str, folder: &Path, more: &[&str]) -> (Child, PathBuf) {
    let experiment =
        tiny_experiment(folder, "steps: 60\nevaluate: {every: {steps: 20}}\ncheckpoint: {every: {steps: 5}}\n");
    let mut command = binary();
    command.arg("run").arg(&experiment).args(["--json", "--registry", registry, "--artifacts"]).arg(folder).args(more);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut events = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    events.find(|line| line.contains("\"checkpoint\"")).expect("a checkpoint");
    // Its pipe must not fill.
    std::thread::spawn(move || events.for_each(drop));
    (child, experiment)
}

/// What a run came to, of which nothing depends on the time.
fn outcome(registry: &str, folder: &Path) -> Value {
    let shown = stdout(&zoo(registry, folder, &["runs", "show", "tiny", "--json"]));
    let run: Value = serde_json::from_str(&shown).expect("JSON");
    let kept: Vec<Value> =
        run["checkpoints"].as_array().expect("a list").iter().map(|kept| kept["weights_sha256"].clone()).collect();
    json!([run["state"], run["steps"], run["metric_digest"], run["replay_mismatches"], kept])
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_runs_loses_nothing() {
    let server = Server::start();
    for name in ["whole", "killed", "gone"] {
        run(&server.address("postgres"), &format!("CREATE DATABASE {name}")).expect("created");
    }
    let folder = |name: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        (server.address(name), folder)
    };
    let (whole, whole_folder) = folder("whole");
    let (mut child, _) = training(&whole, whole_folder.path(), &[]);
    assert!(child.wait().expect("ended").success());
    let expected = outcome(&whole, whole_folder.path());
    assert_eq!((&expected[0], &expected[3]), (&json!("COMPLETED"), &json!(0)));

    // Killed and started again: the run waits, and is completed.
    let (killed, killed_folder) = folder("killed");
    let (child, _) = training(&killed, killed_folder.path(), &[]);
    server.kill();
    server.again();
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(outcome(&killed, killed_folder.path()), expected);

    // Gone to the end, for somebody who does not wait: the rest lies in a file, which `gc` stores.
    let (gone, gone_folder) = folder("gone");
    let (child, _) = training(&gone, gone_folder.path(), &["--lock-timeout", "0"]);
    server.kill();
    let output = child.wait_with_output().expect("ended");
    let said = message(&output, 1);
    assert!(said.contains("metrics.spill") && said.contains("out of reach"), "{said}");
    let said = message(&zoo(&gone, gone_folder.path(), &["runs", "ls"]), 74);
    assert!(said.contains("cannot reach the server"), "{said}");
    server.again();
    stdout(&zoo(&gone, gone_folder.path(), &["gc"]));
    assert_eq!(outcome(&gone, gone_folder.path()), expected);
}

#[test]
fn of_several_resumers_on_several_machines_one_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = empty(folder.path());
    let (mut child, _) = training(&registry, folder.path(), &[]);
    child.kill().expect("killed");
    child.wait().expect("ended");
    // Each has a folder of its own, as on another machine: only the server's locks stand between them.
    let folders: Vec<tempfile::TempDir> = (0..4).map(|_| tempfile::tempdir().expect("a folder")).collect();
    for other in &folders {
        let copied = Command::new("cp").arg("-r").arg(folder.path().join("blobs")).arg(other.path()).status();
        assert!(copied.expect("cp").success());
    }
    let resumers: Vec<Child> = folders
        .iter()
        .map(|other| {
            let mut command = binary();
            command.args(["resume", "tiny", "--registry", &registry, "--artifacts"]).arg(other.path());
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started")
        })
        .collect();
    let mut winners = 0;
    for resumer in resumers {
        let output = resumer.wait_with_output().expect("ended");
        let said = stderr(&output);
        match output.status.code() {
            Some(0) => winners += 1,
            code => {
                let told = ["works on this run", "is RUNNING", "is completed"];
                assert!(code == Some(2) && told.iter().any(|told| said.contains(told)), "{code:?} {said}");
            }
        }
    }
    assert_eq!(winners, 1);
    let run = json(folder.path(), &["runs", "show", "tiny"]);
    assert_eq!((&run["state"], &run["replay_mismatches"]), (&json!("COMPLETED"), &json!(0)));
    assert_eq!(run["attempts"].as_array().map(Vec::len), Some(2));
}

#[test]
fn checkpoints_of_another_machine_are_one_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = empty(folder.path());
    let (mut child, _) = training(&registry, folder.path(), &[]);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let away = tempfile::tempdir().expect("a folder");
    let said = message(&zoo(&registry, away.path(), &["resume", "tiny"]), 2);
    assert!(said.contains("are not in") && said.contains("resume it there, or pass --artifacts DIR"), "{said}");
    let bundle = away.path().join("tiny.zip");
    for arguments in [vec!["eval", "tiny"], vec!["export", "tiny", "--bundle", bundle.to_str().expect("UTF-8")]] {
        let said = message(&zoo(&registry, away.path(), &arguments), 2);
        assert!(said.contains("another machine may have written it"), "{arguments:?}: {said}");
    }
    // Nothing came of that: where the files are, the run goes on.
    stdout(&zoo(&registry, folder.path(), &["resume", "tiny"]));
}

#[test]
fn gc_leaves_what_it_cannot_judge() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let registry = registry_of(folder.path());
    let gc = || binary().arg("gc").args(&registry).output().expect("started");
    stdout(&gc());
    let list = folder.path().join("blobs/registries");
    let mine = std::fs::read_to_string(&list).expect("read");
    assert!(mine.starts_with("postgres://127.0.0.1:") && mine.lines().count() == 1, "{mine}");
    std::fs::write(&list, format!("{mine}postgres://db.example.org:5432/runs\n")).expect("written");
    let said = message(&gc(), 2);
    assert!(said.contains("also serves postgres://db.example.org:5432/runs"), "{said}");
    // A SQLite file in the same folder does not judge the server's either.
    let file = folder.path().join("other.sqlite3");
    drop(Store::open(Location::new(&file), clock()).expect("opened"));
    let said = message(&binary().arg("gc").arg("--registry").arg(&file).output().expect("started"), 2);
    assert!(said.contains("also serves postgres://127.0.0.1:"), "{said}");
}

#[test]
fn a_reader_cannot_write() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let mut reader = Reader::open(location(folder.path()), clock()).expect("opened");
    for (statement, expected) in [
        ("WITH gone AS (DELETE FROM tag RETURNING 1) SELECT * FROM gone", "read-only transaction"),
        ("SELECT setval('run_id_seq', 100)", "read-only transaction"),
        ("DELETE FROM run", "is not a statement that reads"),
        ("SELECT 1 ` 2; DELETE FROM tag; SELECT 1 ` 2", "multiple commands"),
        ("SELECT nothing", "column \"nothing\" does not exist"),
    ] {
        let error = reader.query(statement).expect_err(statement);
        assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{statement}: {error}");
    }
    let types =
        "SELECT 7::smallint, 0.25::numeric, true, '\\x00ff'::bytea, NULL, DATE '2026-11-28', 'it''s', 1.5::real";
    let answer = reader.query(types).expect("answered");
    assert_eq!(json!(answer.rows), json!([[7, 0.25, 1, "00ff", null, "2026-11-28", "it's", 1.5]]));
    assert_eq!(rows::<(i64,)>(&empty(folder.path()), "SELECT count(*) FROM run"), [(1,)]);
}

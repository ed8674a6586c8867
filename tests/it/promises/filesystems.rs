//! Registries on network filesystems, in folders that cannot be written, of other versions; and clocks that go back.

use super::{Faults, Toy, assert_sound, command};
use crate::it::cli::{json, stderr, stdout, zoo};
use crate::it::registry::{location, new_run, raw, sqlite_file, start, uid};
use resnet_zoo::registry::store::{Batch, End, Selection, Store};
use resnet_zoo::registry::{Clock, Reader, RunState};
use serde_json::json as value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

fn clock() -> Clock {
    Clock::new(|| 1_700_000_000_000)
}

#[test]
fn a_network_filesystem_is_refused_or_written_without_a_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |allowed| Store::open_on(location(folder.path()).on_network(allowed), clock(), Some("NFS"));
    let error = open(false).expect_err("refused");
    assert!(error.to_string().contains("lies on a network filesystem (NFS)"), "{error}");
    assert!(error.to_string().contains("--network-filesystem"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(!sqlite_file(folder.path()).exists(), "and nothing is created");

    let mut store = open(true).expect("allowed");
    assert!(store.warning().expect("a warning").contains("(NFS)"));
    let run = store.create_run(&uid(1), &new_run("far"), &start()).expect("created");
    let warnings = vec![(0, store.warning().expect("a warning"))];
    let end = Some(End { state: RunState::Completed, reason: None });
    store.flush(&run, &Batch { warnings, end, ..Batch::default() }).expect("written");
    drop(store);
    let mode = ["sql", "SELECT journal_mode FROM pragma_journal_mode"];
    assert_eq!(json(folder.path(), &mode), value!([{"journal_mode": "delete"}]));
    let shown = json(folder.path(), &["runs", "show", "far"]);
    assert!(shown["warnings"][0]["message"].as_str().expect("text").contains("NFS"), "recorded: {shown}");

    // Back on a local disk it has its log again.
    let store = Store::open_on(location(folder.path()), clock(), None).expect("opened");
    assert!(store.warning().is_none());
    drop(store);
    assert_eq!(json(folder.path(), &mode), value!([{"journal_mode": "wal"}]));
}

/// The registries of all versions before this one, with a run in each that knows runs.
#[test]
fn every_older_schema_is_copied_and_upgraded() {
    let migrations = migrations();
    for version in 1..migrations.len() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = sqlite_file(folder.path());
        old_registry(&database, &migrations[..version]);
        let copy = folder.path().join(format!("registry.schema-{version}.sqlite3"));
        // What an upgrade that was killed while it copied has left.
        fs::write(folder.path().join(format!("registry.schema-{version}.sqlite3.tmp")), "half").expect("written");
        let assert_run = |folder: &Path| {
            let runs = json(folder, &["runs", "ls"]);
            match version >= RUNS_SINCE {
                true => assert_eq!(runs[0]["metrics"]["val.top1"]["best"], 0.5, "schema {version}: {runs}"),
                false => assert_eq!(runs, value!([]), "schema {version}"),
            }
        };
        // A reader upgrades, too.
        assert_run(folder.path());
        let schema = ["sql", "SELECT user_version FROM pragma_user_version"];
        assert_eq!(json(folder.path(), &schema), value!([{"user_version": migrations.len()}]));
        assert_sound(folder.path());
        let kept = "SELECT canonical FROM config";
        assert_eq!(json(folder.path(), &["sql", kept]), value!([{"canonical": "{\"seed\":7}"}]), "schema {version}");
        let mut store = Store::open(location(folder.path()), clock()).expect("opened");
        store.create_run(&uid(1), &new_run("new"), &start()).expect("usable");
        drop(store);

        // The copy is a registry of the old schema, which can be upgraded in its turn.
        let restored = tempfile::tempdir().expect("a folder");
        fs::copy(&copy, sqlite_file(restored.path())).expect("a copy was made");
        assert_run(restored.path());
        assert_eq!(json(restored.path(), &["sql", kept])[0]["canonical"], "{\"seed\":7}");
    }
}

#[test]
fn an_upgrade_that_was_killed_keeps_the_copy_that_it_made() {
    let migrations = migrations();
    let folder = tempfile::tempdir().expect("a folder");
    let database = sqlite_file(folder.path());
    // Killed after its first step: the schema still calls itself the old one.
    old_registry(&database, &migrations[..4]);
    raw(&database, "PRAGMA user_version = 3").expect("set");
    let copy = folder.path().join("registry.schema-3.sqlite3");
    fs::write(&copy, "the copy of before").expect("written");
    assert_eq!(json(folder.path(), &["runs", "ls"]), value!([]));
    assert_eq!(fs::read_to_string(&copy).expect("read"), "the copy of before");
}

fn migrations() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    // Those for PostgreSQL are in a folder.
    files.retain(|file| file.is_file());
    files.sort();
    let read = |file: PathBuf| {
        let name = file.file_stem().expect("a name").to_string_lossy()[5..].replace('_', " ");
        (name, fs::read_to_string(file).expect("text"))
    };
    files.into_iter().map(read).collect()
}

/// The first version that can hold a run and its metrics.
const RUNS_SINCE: usize = 6;
const OLD_RUN: &str = "
    INSERT INTO experiment VALUES (1, 'old');
    INSERT INTO source VALUES (zeroblob(32), '[]');
    INSERT INTO build VALUES (1, '0.1.0', 'unknown', 0, 'rustc', 'target', '', 'unknown');
    INSERT INTO run (id, uid, name, experiment_id, config_hash, source_hash, overrides, provenance, model, spec_hash,
                     spec_sha256, weights, data_sha256, classes, seed, build_id, state, created_ms, ended_ms, hb_ms)
    VALUES (1, '0193a1b2-c3d4-7e5f-8a9b-0000000000ff', 'old', 1, zeroblob(32), zeroblob(32), '[]', '{}', 'resnet18',
            zeroblob(32), 'x', '{}', 'x', '[]', 7, 1, 'INTERRUPTED', 1, 2, 2);
    INSERT INTO attempt (run_id, lease_epoch, host, boot_id, pid, pid_start, cpu, threads, device, build_id, started_ms)
    VALUES (1, 0, 'host', 'boot', 1, 1, 'cpu', 1, 'cpu', 1, 1);
    INSERT INTO metric_key VALUES (1, 'val.top1', 'max');
    INSERT INTO metric VALUES (1, 1, 4, 0.5, 0), (1, 1, 9, 0.25, 0);
";

/// A registry as a version with these migrations left it, with an experiment in it.
fn old_registry(database: &Path, migrations: &[(String, String)]) {
    use sha2::{Digest, Sha384};
    let mut sql = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
        installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL,
        execution_time BIGINT NOT NULL);\n"
        .to_owned();
    for ((name, text), version) in migrations.iter().zip(1..) {
        let checksum: String = Sha384::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        sql += text;
        sql += &format!(
            "\nINSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ({version}, '{name}', TRUE, x'{checksum}', 1);\n"
        );
    }
    sql += "INSERT INTO config VALUES (zeroblob(32), '{\"seed\":7}');\n";
    if migrations.len() >= RUNS_SINCE {
        sql += OLD_RUN;
    }
    sql += &format!("PRAGMA user_version = {};", migrations.len());
    raw(database, &sql).expect("created");
}

#[test]
fn a_newer_schema_is_refused_by_every_command() {
    let toy = Toy::new();
    let registry = toy.registry("newer");
    stdout(&toy.run(&registry, "plateau").args(["--set", "steps=1"]).output().expect("started"));
    let database = sqlite_file(&registry);
    raw(&database, "PRAGMA user_version = 1000").expect("set");
    let before = fs::read(&database).expect("read");
    let mut run = toy.run(&registry, "plateau");
    let outputs = [
        run.output().expect("started"),
        zoo(&registry, &["runs", "ls"]),
        zoo(&registry, &["resume", "plateau"]),
        zoo(&registry, &["sql", "SELECT 1"]),
        zoo(&registry, &["gc"]),
    ];
    for output in outputs {
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("was written by a newer version (schema 1000, this build knows"), "{message}");
    }
    assert_eq!(fs::read(&database).expect("read"), before, "nothing was changed");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_negative() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = std::sync::Arc::new(AtomicI64::new(1_700_000_000_000));
    let back = std::sync::Arc::clone(&now);
    // An hour back each time that anybody asks.
    let clock = Clock::new(move || back.fetch_sub(3_600_000, Ordering::Relaxed));
    let mut store = Store::open(location(folder.path()), clock).expect("opened");
    for number in 1..=3 {
        let run = store.create_run(&uid(number), &new_run(&format!("run-{number}")), &start()).expect("created");
        store.flush(&run, &Batch { seconds: 2.0, ..Batch::default() }).expect("written");
        store.flush(&run, &Batch { seconds: 1.0, ..Batch::default() }).expect("written");
        let end = Some(End { state: RunState::Interrupted, reason: None });
        store.flush(&run, &Batch { seconds: 3.0, end, ..Batch::default() }).expect("written");
    }
    let resumed = store.resume_run(&uid(1), &start(), None).expect("resumed");
    store.flush(&resumed, &Batch { seconds: 1.0, ..Batch::default() }).expect("written");
    let negative =
        "SELECT count(*) AS n FROM run JOIN attempt ON run_id = run.id WHERE ended_ms < created_ms OR seconds < 0";
    assert_eq!(json(folder.path(), &["sql", negative])[0]["n"], 0);
    let clock = Clock::new(move || now.load(Ordering::Relaxed));
    let mut reader = Reader::open(location(folder.path()), clock).expect("opened");
    let all = reader.select(&Selection::default()).expect("read");
    let runs = reader.listings(&all).expect("read");
    let listed: Vec<(&str, f64)> = runs.iter().map(|run| (run.name.as_str(), run.seconds)).collect();
    assert_eq!(
        listed,
        [("run-3", 3.0), ("run-2", 3.0), ("run-1", 4.0)],
        "newest first, times by a clock that only goes on"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_still_read() {
    let toy = Toy::new();
    let registry = toy.registry("archived");
    stdout(&toy.run(&registry, "plateau").args(["--set", "steps=1"]).output().expect("started"));
    let log = fs::metadata(registry.join("registry.sqlite3-wal")).map_or(0, |facts| facts.len());
    assert_eq!(log, 0, "closed properly");
    let faults = Faults { root: &registry, at: 1, how: "30", rest: true };
    let list = |arguments: &[&str]| faults.arm(command(&registry).args(arguments)).output().expect("started");
    let listed = stdout(&list(&["runs", "ls"]));
    assert!(listed.contains("COMPLETED"), "{listed}");
    let output = list(&["gc"]);
    assert_eq!(output.status.code(), Some(74), "{}", stderr(&output));
    let output = faults.arm(&mut toy.run(&registry, "plateau")).output().expect("started");
    assert_eq!(output.status.code(), Some(74), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
}

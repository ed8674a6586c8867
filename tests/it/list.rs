//! `runs ls` and what it lists by: filters, sort orders, columns, pages, tags and archives.

use super::cli::{json, stderr, stdout, zoo};
use super::registry::{Sketch, location};
use resnet_zoo::registry::filter::Field;
use resnet_zoo::registry::store::Selection;
use resnet_zoo::registry::{Annotations, Clock, Filter, Reader, RunState};
use std::path::Path;
use zoo::random::{Key, Stream, stream_of};

/// Five runs: a to e, from the oldest to the newest.
fn five_runs(folder: &Path) {
    let said = |tags: &[&str], group: Option<&str>, note: Option<&str>| Annotations {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        group: group.map(str::to_owned),
        note: note.map(str::to_owned),
    };
    let sketch = |name| Sketch { name, ..Sketch::default() };
    let runs = [
        Sketch {
            model: "resnet34",
            params: Some(21_797_672),
            macs: Some(3_663_761_920),
            values: &[("val.top1", &[0.5, 0.9, 0.8]), ("train.loss", &[2.0, 1.0, 1.5])],
            annotations: said(&["baseline", "paper"], None, None),
            ..sketch("a")
        },
        Sketch {
            seed: 1,
            values: &[("val.top1", &[0.86]), ("train.loss", &[0.5])],
            annotations: said(&["baseline"], Some("seeds"), Some("50 % of it; see \"b\"")),
            config: serde_json::json!({"optimizer": {"adamw": {"lr": 0.001, "betas": [0.9, 0.999]}}, "exact": true}),
            ..sketch("b")
        },
        Sketch { seed: 2, values: &[("val.top1", &[0.86]), ("train.loss", &[f64::NAN])], ..sketch("c") },
        Sketch { model: "resnet50", state: Some(RunState::Failed), values: &[("train.loss", &[3.0])], ..sketch("d") },
        // Its process is gone.
        Sketch { model: "resnet34", state: None, values: &[("val.top1", &[0.1])], ..sketch("e_100%") },
    ];
    for (number, run) in (1..).zip(runs) {
        run.record(folder, number);
    }
}

/// The names that a list shows.
fn names(folder: &Path, arguments: &[&str]) -> String {
    let list = json(folder, &[&["runs", "ls"], arguments].concat());
    let names = list.as_array().expect("an array").iter().map(|run| run["name"].as_str().expect("a name").to_owned());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn filters_find_what_they_say() {
    let folder = tempfile::tempdir().expect("a folder");
    five_runs(folder.path());
    let cases = [
        ("val.top1 > 0.85 and (model = \"resnet34\" or tag = \"baseline\")", "b a"),
        ("VAL.TOP1 > 0.5 or name = 'd'", "error"),
        ("val.top1 > 85% AND NOT model = 'resnet34'", "c b"),
        // The best; the newest is asked for by name.
        ("val.top1 = 0.9", "a"),
        ("last(val.top1) = 0.8", "a"),
        ("macs between 3.6G and 3.7G and params < 25M", "a"),
        ("macs is null", "e_100% d c b"),
        ("min(val.top1) < 0.2", "e_100%"),
        ("count(val.top1) = 3", "a"),
        ("train.loss = 1", "a"),
        ("last(val.top1) < best(val.top1)", "a"),
        ("0.85 < val.top1 and seed between 1 and 2", "c b"),
        // What a run has not is neither more, nor less, nor equal, but it is not equal.
        ("val.top1 <= 1", "e_100% c b a"),
        ("not val.top1 <= 1", "d"),
        ("val.top1 != 0.9", "e_100% d c b"),
        ("val.top1 is null", "d"),
        ("val.top1 is not null", "e_100% c b a"),
        ("train.loss is nan", "c"),
        ("train.loss is null", "e_100%"),
        ("group is null", "e_100% d c a"),
        ("group != 'seeds'", "e_100% d c a"),
        ("note like '50 % of it%'", "b"),
        ("note = '50 % of it; see \"b\"'", "b"),
        ("note = \"50 % of it; see \"\"b\"\"\"", "b"),
        // States.
        ("state = crashed", "e_100%"),
        ("state in (FAILED, 'Crashed')", "e_100% d"),
        ("state != completed", "e_100% d"),
        ("state = running", ""),
        // Tags.
        ("tag = 'paper' and tag = 'baseline'", "a"),
        ("tag != 'paper'", "e_100% d c b"),
        ("tag in ('paper', 'nothing')", "a"),
        ("tag not in ('paper')", "e_100% d c b"),
        ("tag is null", "e_100% d c"),
        ("tag like 'base%'", "b a"),
        // Patterns.
        ("model like 'resnet3_'", "e_100% a"),
        ("model like 'RESNET34'", ""),
        ("model ilike 'RESNET3%'", "e_100% a"),
        ("model not like 'resnet3%'", "d c b"),
        ("name like '%100\\%'", "e_100%"),
        ("name like '%[0-9]%'", ""),
        ("name ilike '%\\_100\\%'", "e_100%"),
        // Settings.
        ("config.optimizer.adamw.lr >= 1e-3", "b"),
        ("config.optimizer.sgd.lr = 0.1", "e_100% d c a"),
        ("config.optimizer.adamw is not null", "b"),
        ("config.exact", "b"),
        ("config.exact = true", "b"),
        ("config.exact = 1", ""),
        ("config.exact = false", ""),
        ("config.optimizer.sgd.lr < config.optimizer.adamw.lr", ""),
        ("config.optimizer.adamw.lr < val.top1", "b"),
        ("config.`optimizer`.adamw.lr > 0", "b"),
        // Times.
        ("created > 2023-11-14", ""),
        ("created >= 2023-11-14 and created <= 2023-11", "e_100% d c b a"),
        ("created = \"2023-11-14 22:13\"", "e_100% d c b a"),
        ("created < \"2023-11-14T22:13:20Z\"", ""),
        ("age > 1d", "e_100% d c b a"),
        ("duration < 1h30m", "e_100% d c b a"),
        ("steps = 3", "a"),
        ("device = \"cpu\" and experiment = 'test' and host is not null and commit is not null", "e_100% d c b a"),
        ("archived or not archived", "e_100% d c b a"),
        ("archived = true", ""),
        ("((((seed = 2))))", "c"),
        ("not not seed = 2", "c"),
        ("seed=2 or seed=1 and name='b'", "c b"),
        ("id = '00000003' or id like '%00000001'", "c a"),
    ];
    for (filter, expected) in cases {
        if expected == "error" {
            assert_eq!(zoo(folder.path(), &["runs", "ls", filter]).status.code(), Some(2), "{filter}");
            continue;
        }
        assert_eq!(names(folder.path(), &[filter]), expected, "{filter}");
    }
    assert_eq!(names(folder.path(), &["seed", "=", "2"]), "c", "words need no quotes");
    assert_eq!(names(folder.path(), &["--model", "resnet34", "tag = 'paper'"]), "a");
}

#[test]
fn mistakes_have_a_place_and_a_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    five_runs(folder.path());
    let message = |arguments: &[&str]| {
        let output = zoo(folder.path(), &[&["runs", "ls"], arguments].concat());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        stderr(&output)
    };
    assert_eq!(
        message(&["seed = 1 and val.topp1 > 0.85"]),
        "\
error: `val.topp1` is neither a field nor a metric of any run
 --> filter:1:14
  |
1 | seed = 1 and val.topp1 > 0.85
  |              ^^^^^^^^^ unknown
  |
  = help: did you mean `val.top1`?
"
    );
    // The filter, where the caret stands, and what else is said.
    let cases = [
        ("", 1, "expected"),
        ("val.top1 >", 11, "expected a value, found the end"),
        ("val.top1 0.5", 10, "one of =, !=, <, <=, >, >=, in, like, ilike, between, is"),
        ("(seed = 1", 10, "the `(` at column 1 is not closed"),
        ("seed = 1)", 9, "closes nothing"),
        ("seed = 1 seed = 2", 10, "expected `and`, `or` or the end"),
        ("seed = 1 && seed = 2", 10, "write `and`"),
        ("!archived", 1, "write `not`"),
        ("name = \"x", 8, "has no end"),
        ("name = 'x", 8, "close it with '"),
        ("name = baseline", 8, "put text in quotes: \"baseline\""),
        ("name = 3", 8, "put text in quotes: \"3\""),
        ("name < 'x'", 1, "has no order"),
        ("seed = '3'", 8, "numbers have no quotes: 3"),
        ("seed = 3h", 8, "expected a number"),
        ("seed like '3%'", 1, "patterns fit text"),
        ("seed = 1e999", 8, "expected a number"),
        ("duration > 5", 12, "write for example 90s, 2h30m or 7d"),
        ("created > 7d", 11, "there is `age`"),
        ("created > 2026-02-30", 11, "expected a date"),
        ("state = chrashed", 9, "did you mean CRASHED?"),
        ("state", 1, "not true or false"),
        ("lst(val.top1) > 1", 1, "did you mean `last`?"),
        ("last(val.top2) > 1", 6, "did you mean `val.top1`?"),
        ("last(seed) > 1", 6, "no run has a metric `seed`"),
        ("config.optimizer.adam.lr > 1", 1, "did you mean `config.optimizer.adamw.lr`?"),
        ("lr > 1", 1, "lr`?"),
        ("params.optimizer.adamw.lr > 1", 1, "did you mean `config.optimizer.adamw.lr`?"),
        ("metrics.val.top1 > 1", 1, "did you mean `val.top1`?"),
        ("tags.baseline = 'x'", 1, "tag = \"baseline\""),
        ("status = 'x'", 1, "did you mean `state`?"),
        ("modell = 'x'", 1, "did you mean `model`?"),
        ("seed is nan", 1, "only a metric can be NaN"),
        ("seed is 3", 9, "expected `null`, `nan` or `not`"),
        ("seed in 3", 9, "expected `(`"),
        ("seed in ()", 10, "expected a value"),
        ("seed = name", 8, "expected a number, found text"),
        ("val. > 1", 4, "does not end in a dot"),
        ("seed = 1; DROP TABLE run", 9, "cannot stand here"),
        ("\u{1b}[31m", 1, "cannot stand here"),
    ];
    for (filter, column, expected) in cases {
        if filter.is_empty() {
            continue;
        }
        let message = message(&[filter]);
        assert!(message.starts_with("error: ") && message.contains(expected), "{filter}: {message}");
        assert!(message.contains(&format!("filter:1:{column}\n")), "{filter}: {message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
    assert!(message(&["--sort", "val.top1 desc, nme"]).contains("did you mean `name`?"));
    assert!(message(&["--sort", "tag"]).contains("not sorted by tags"));
    assert!(message(&["--sort", "-seed asc"]).contains("said twice"));
    assert!(message(&["--columns", "name,,seed"]).contains("columns:1:6"));
    assert!(message(&["--after", "nothing"]).contains("there is no run `nothing`"));
    // Bounds: nothing recurses or grows with what somebody types.
    assert!(message(&[&"(".repeat(10_000)]).contains("more than 64 parts inside of one another"));
    assert!(message(&[&"not ".repeat(4_000)]).contains("more than 64 parts inside of one another"));
    assert!(message(&[&format!("seed = 1{}", " or seed = 1".repeat(1_000))]).contains("more than 256 tests"));
    assert!(message(&[&"x".repeat(20_000)]).contains("more than 16384"));
}

/// Whatever is typed, the answer is a list or a message with a place: no panic, and no error of SQLite.
#[test]
fn any_filter_is_answered_or_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    five_runs(folder.path());
    let mut reader = Reader::open(location(folder.path()), Clock::new(|| 1_800_000_000_000)).expect("opened");
    let fields: Vec<String> = Field::ALL.iter().map(|field| field.name().to_owned()).collect();
    let others = [
        "val.top1",
        "last(train.loss)",
        "count(val.top1)",
        "config.optimizer.sgd.lr",
        "config.exact",
        "config.optimizer",
    ];
    let operands: Vec<String> = fields.into_iter().chain(others.map(str::to_owned)).collect();
    let predicates = [
        "",
        "= 1",
        "!= 0.5",
        "< 85%",
        ">= 25M",
        "= 'x'",
        "like '%a_\\%'",
        "not ilike 'A%'",
        "is null",
        "is not nan",
        "= true",
        "= crashed",
        "in (1, 2.5)",
        "not in ('a', 'b')",
        "between 1 and 2",
        "> 2023-11-14",
        "= 2023",
        "< 1h30m",
        "= seed",
        "= name",
        "<= val.top1",
        "= config.optimizer.sgd.lr",
        "in (failed, 'COMPLETED')",
        "between 2023-01 and 2024-01",
    ];
    let mut answered = 0;
    let mut ask = |filter: &str| match Filter::parse(filter, &mut reader) {
        Ok(parsed) => {
            let selection = Selection { filter: Some(parsed), ..Selection::default() };
            let page = reader.select(&selection).unwrap_or_else(|error| panic!("{filter}: {error}"));
            assert!(page.len() <= 5);
            answered += 1;
        }
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{filter}: {error}");
            assert!(error.to_string().contains("--> filter:1:"), "{filter}: {error}");
        }
    };
    for operand in &operands {
        for predicate in predicates {
            ask(&format!("not {operand} {predicate}"));
        }
    }
    let mut words: Vec<&str> = operands.iter().map(String::as_str).chain(predicates).collect();
    words.extend([
        "and", "or", "not", "(", ")", ",", "`", "\"", "..", "-", "\u{0}", "é", "🦀", "1e999", "%", "\\", "best(",
        "in (",
    ]);
    for number in 0..4000 {
        let mut draws = Stream::new(Key { seed: 0, stream: stream_of("filters"), step: number, index: 0 });
        let length = 1 + draws.below(9);
        let drawn: Vec<&str> = (0..length).map(|_| words[draws.below(words.len() as u64) as usize]).collect();
        ask(&drawn.join(" "));
    }
    assert!(answered > 200, "{answered} of them made sense");
}

#[test]
fn lists_are_sorted_and_come_in_pages() {
    let folder = tempfile::tempdir().expect("a folder");
    five_runs(folder.path());
    let sorted = |keys: &str| names(folder.path(), &["--sort", keys]);
    assert_eq!(sorted("val.top1"), "e_100% c b a d", "what is missing comes last, the newest first");
    assert_eq!(sorted("val.top1 desc"), "a c b e_100% d", "and last again");
    assert_eq!(sorted("-val.top1, seed"), "a b c e_100% d");
    assert_eq!(sorted("state desc, name desc"), "d e_100% c b a");
    assert_eq!(sorted("created"), "a b c d e_100%");

    let page = |more: &[&str]| names(folder.path(), &[&["--sort", "created"], more].concat());
    assert_eq!(page(&["--limit", "2"]), "a b");
    assert_eq!(page(&["--limit", "2", "--offset", "1"]), "b c");
    assert_eq!(page(&["--limit", "2", "--after", "b"]), "c d");
    assert_eq!(page(&["--limit", "2", "--after", "d"]), "e_100%");
    assert_eq!(page(&["--offset", "9"]), "");
    assert_eq!(page(&["seed > 0", "--after", "a"]), "b c", "the run before a page need not be in the list any more");
    let table = stdout(&zoo(folder.path(), &["runs", "ls", "--limit", "2"]));
    assert!(table.contains("runs 1 to 2 of 5; the next with --after 00000004"), "{table}");
    let empty = stdout(&zoo(folder.path(), &["runs", "ls", "seed = 77"]));
    assert!(empty.contains("no runs are like that"), "{empty}");
}

#[test]
fn columns_are_tables_csv_and_json() {
    let folder = tempfile::tempdir().expect("a folder");
    five_runs(folder.path());
    let columns = "name, tag, last(train.loss), config.optimizer.adamw.betas, seed, created";
    let list = json(folder.path(), &["runs", "ls", "--columns", columns, "--sort", "created", "--limit", "3"]);
    assert_eq!(
        list,
        serde_json::json!([
            {"name": "a", "tag": ["baseline", "paper"], "last(train.loss)": 1.5, "config.optimizer.adamw.betas": null,
             "seed": 0, "created": "2023-11-14T22:13:20Z"},
            {"name": "b", "tag": ["baseline"], "last(train.loss)": 0.5, "config.optimizer.adamw.betas": [0.9, 0.999],
             "seed": 1, "created": "2023-11-14T22:13:20Z"},
            {"name": "c", "tag": [], "last(train.loss)": null, "config.optimizer.adamw.betas": null,
             "seed": 2, "created": "2023-11-14T22:13:20Z"},
        ])
    );
    let listed = json(folder.path(), &["runs", "ls", "train.loss is not null", "--sort", "created"]);
    let is_nan: Vec<_> = (0..4).map(|run| listed[run]["metrics"]["train.loss"]["last_is_nan"].clone()).collect();
    assert_eq!(is_nan, [false, false, true, false].map(serde_json::Value::from));
    let csv = stdout(&zoo(
        folder.path(),
        &["runs", "ls", "--columns", "name,note,train.loss,tag", "--sort", "created", "--csv"],
    ));
    let expected = "name,note,train.loss,tag\na,,1,\"baseline,paper\"\nb,\"50 % of it; see \"\"b\"\"\",0.5,baseline\n\
                    c,,NaN,\nd,,3,\ne_100%,,,\n";
    assert_eq!(csv, expected);
    let table = stdout(&zoo(folder.path(), &["runs", "ls", "--columns", "name,val.top1,train.loss", "--sort", "name"]));
    assert!(table.contains("90.00 %") && table.contains("NaN"), "{table}");
    let every = stdout(&zoo(folder.path(), &["runs", "ls", "--csv"]));
    assert!(every.starts_with("id,name,experiment,") && every.contains("best(val.top1),last(val.top1)"), "{every}");
    assert_eq!(every.lines().count(), 6);
}

#[test]
fn runs_are_tagged_noted_grouped_and_put_away() {
    let folder = tempfile::tempdir().expect("a folder");
    five_runs(folder.path());
    let runs = |arguments: &[&str]| json(folder.path(), &[&["runs"], arguments].concat());
    let changed = |arguments: &[&str]| runs(arguments)["changed"].as_u64();
    assert_eq!(changed(&["tag", "good,owner=ann", "a", "b", "a"]), Some(2));
    assert_eq!(changed(&["tag", "good", "--where", "val.top1 > 0.85"]), Some(1), "two of the three had it");
    assert_eq!(names(folder.path(), &["tag = 'good'"]), "c b a");
    assert_eq!(changed(&["untag", "good", "a"]), Some(1));
    assert_eq!(changed(&["group", "ablation", "a", "d"]), Some(2));
    assert_eq!(names(folder.path(), &["group = 'ablation'"]), "d a");
    assert_eq!(changed(&["group", "--clear", "d"]), Some(1));
    assert_eq!(changed(&["note", "it's\ntwo lines", "a"]), Some(1));
    let shown = runs(&["show", "a"]);
    assert_eq!((shown["note"].as_str(), shown["group"].as_str()), (Some("it's\ntwo lines"), Some("ablation")));
    assert_eq!(shown["tags"], serde_json::json!(["baseline", "owner=ann", "paper"]));
    let page = stdout(&zoo(folder.path(), &["runs", "show", "a"]));
    assert!(page.contains("ablation") && page.contains("owner=ann"), "{page}");

    assert_eq!(changed(&["archive", "--where", "state = failed"]), Some(1));
    assert_eq!(changed(&["archive", "d"]), Some(0));
    assert_eq!(names(folder.path(), &[]), "e_100% c b a");
    assert_eq!(names(folder.path(), &["--archived"]), "e_100% d c b a");
    assert_eq!(names(folder.path(), &["archived"]), "d");
    assert_eq!(runs(&["show", "d"])["archived"], true, "nothing is lost");
    assert_eq!(changed(&["unarchive", "--where", "archived"]), Some(1));
    assert_eq!(names(folder.path(), &[]), "e_100% d c b a");

    let wrong: [(&[&str], &str); 7] = [
        (&["tag", "x"], "name one or more runs"),
        (&["tag", "x", "nothing"], "there is no run `nothing`"),
        (&["tag", "", "a"], "a tag is 1 to 100 characters"),
        (&["tag", "\u{1b}[2J", "a"], "a tag is 1 to 100 characters"),
        (&["note", "", "a"], "pass --clear for none"),
        (&["group"], "say GROUP and then the runs"),
        (&["archive", "--where", "seed = 99"], "there is no run with seed = 99"),
    ];
    for (arguments, expected) in wrong {
        let output = zoo(folder.path(), &[&["runs"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    assert!(location(folder.path()).may_exist());
}

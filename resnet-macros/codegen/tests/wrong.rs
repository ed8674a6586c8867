//! Each wrong spec in `wrong/` and the exact text that people see. `UPDATE_GOLDEN=1` rewrites the texts.

use resnet_codegen::diagnostic::Sources;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong")
}

/// What `check` prints of a spec.
fn rendered(name: &str, text: &str) -> Result<(), String> {
    let mut sources = Sources::default();
    let load =
        |path: &str| std::fs::read_to_string(folder().join(path)).map_err(|_| "there is no such file".to_owned());
    let root = sources.add(name, text);
    resnet_codegen::compile(&mut sources, root, &load).map(|_| ()).map_err(|errors| errors.render(&sources) + "\n")
}

#[test]
fn wrong_specs_have_their_texts() {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder()).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    assert!(paths.len() >= 40, "{} wrong specs", paths.len());
    let mut changed = Vec::new();
    for path in &paths {
        let name = path.file_name().expect("a file").to_string_lossy();
        let text = std::fs::read_to_string(path).expect("a spec");
        let message = rendered(&name, &text).expect_err(&name);
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &message).expect("writable");
        }
        if std::fs::read_to_string(&golden).unwrap_or_default() != message {
            changed.push(message);
        }
    }
    assert!(changed.is_empty(), "changed:\n\n{}", changed.join("\n"));
}

/// Everything that could make a compiler slow gets its message in under a second.
#[test]
fn hostile_specs_fail_fast() {
    let base = "name: net\nblock: basic\ndepths: [1, 1]\n";
    let nested = format!("{base}a: {}1{}\n", "[".repeat(20_000), "]".repeat(20_000));
    let bomb: String = (1..30).map(|level| format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1)).collect();
    let layers: String = (0..2000).map(|index| format!("      conv{index}: conv\n")).collect();
    let cases = [
        ("10 MB", "#".repeat(10_000_000)),
        ("many keys", (0..6000).map(|key| format!("k{key}: 1\n")).collect()),
        ("deep nesting", nested),
        ("alias bomb", format!("a0: &a0 [1]\n{bomb}")),
        ("long list", format!("name: net\nblock: basic\ndepths: [{}]\n", "1, ".repeat(19_000))),
        ("long block", format!("name: net\nblock: mine\ndepths: [1]\nblocks:\n  mine:\n    layers:\n{layers}")),
        (
            "deepest and widest",
            "name: net\nblock: bottleneck\nexpansion: 64\nstages:\n  - {depth: 1024, channels: 65536}\n".to_owned(),
        ),
        ("long name", format!("name: {}\nblock: basic\ndepths: [1]\n", "n".repeat(60_000))),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        let message = rendered("hostile.yaml", &text).expect_err(name);
        assert!(start.elapsed() < Duration::from_secs(1), "{name} took {:?}", start.elapsed());
        assert!(message.starts_with("error: "), "{name}: {message}");
    }
}

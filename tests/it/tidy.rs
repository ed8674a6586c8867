//! What ARCHITECTURE.md says must never happen, and the rules of CONTRIBUTING.md that no lint knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, and of a function.
const LONGEST_FILE: usize = 1000;
const LONGEST_FUNCTION: usize = 100;
/// One arm an opcode reads best in one piece.
const LONG_ON_PURPOSE: [&str; 1] = ["zoo/src/weights/pickle.rs"];

/// A source file of the workspace.
struct Source {
    /// Relative to the root: `zoo/src/ops/conv/mod.rs`.
    path: String,
    text: String,
    /// Whether only tests compile it.
    is_test: bool,
}

impl Source {
    /// The text without comments, contents of strings, and what only tests compile; the lines keep their numbers.
    fn production(&self) -> String {
        let text = if self.is_test { "" } else { self.text.split("#[cfg(test)]\nmod tests {").next().unwrap() };
        code(text)
    }

    /// The files of the modules that it declares for tests only.
    fn test_modules(&self) -> impl Iterator<Item = String> {
        let folder = self.path.strip_suffix("/mod.rs").or(self.path.strip_suffix("/lib.rs"));
        let folder = folder.unwrap_or(self.path.strip_suffix(".rs").unwrap());
        let declared = self.text.split("#[cfg(test)]\n").skip(1).filter_map(|item| item.split_once(';'));
        let names = declared.filter_map(|(item, _)| item.trim_start_matches("pub(crate) ").strip_prefix("mod "));
        names.map(move |name| format!("{folder}/{name}.rs"))
    }

    /// The places where a word stands in `code`, as `path:line`.
    fn places(&self, code: &str, word: &str) -> Vec<String> {
        let found = code.lines().enumerate().filter(|(_, line)| has_word(line, word));
        found.map(|(at, _)| format!("{}:{}", self.path, at + 1)).collect()
    }

    /// Its module: the first name below the crate's `src/`.
    fn module(&self, src: &str) -> Option<&str> {
        self.path.strip_prefix(src)?.split(['/', '.']).next()
    }
}

#[test]
fn imports_point_downward() {
    // A module may name those after it. `error` and the crates' vocabulary are everybody's.
    let root: Edges = &[
        ("main", &["cli"]),
        ("cli", &["compare", "sweep", "registry", "task", "train", "experiment", "data"]),
        ("compare", &["registry"]),
        ("sweep", &["experiment"]),
        ("registry", &["train"]),
        ("task", &["train", "experiment", "data"]),
        ("train", &["experiment"]),
        ("experiment", &["data"]),
        ("data", &[]),
    ];
    assert_edges("src/", &["crate", "resnet_zoo"], root, &["error", "Error", "Result"]);
    let zoo: Edges = &[
        // `zoo` is the macro.
        ("models", &["nn", "ops", "zoo"]),
        ("nn", &["ops"]),
        ("ops", &[]),
        ("hub", &["weights", "params"]),
        ("weights", &["params"]),
        ("params", &["ops"]),
        ("update", &[]),
    ];
    assert_edges("zoo/src/", &["crate"], zoo, &["grad", "model", "random", "no_grad", "Model", "ModelCard"]);
    let codegen: Edges = &[
        ("expand", &["Compiled", "spec", "shape", "yaml"]),
        ("shape", &["spec"]),
        ("check", &["shape", "spec", "raw", "fields", "yaml"]),
        ("spec", &[]),
        ("raw", &["fields", "yaml"]),
        ("fields", &["yaml"]),
        ("yaml", &[]),
        ("diagnostic", &[]),
    ];
    assert_edges("resnet-macros/codegen/src/", &["crate"], codegen, &["diagnostic"]);
    let pixels: Edges = &[
        ("resize", &["crop"]),
        ("crop", &[]),
        ("color", &[]),
        ("decode", &["jpeg"]),
        ("jpeg", &["decode", "channels"]),
    ];
    assert_edges("pixels/src/", &["crate"], pixels, &[]);
}

type Edges = &'static [(&'static str, &'static [&'static str])];

fn assert_edges(src: &str, crate_names: &[&str], allowed: Edges, everybodys: &[&str]) {
    let allowed: BTreeMap<&str, &[&str]> = allowed.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for source in sources().iter().filter(|source| source.path.starts_with(src)) {
        let module = source.module(src).unwrap();
        let Some(may_use) = allowed.get(module) else { continue };
        seen.insert(module.to_owned());
        for used in crate_names.iter().flat_map(|name| names_after(&source.production(), &format!("{name}::"))) {
            if used != module && !may_use.contains(&&*used) && !everybodys.contains(&&*used) {
                wrong.insert(format!("{} uses {used}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against ARCHITECTURE.md: {wrong:#?}");
    let missing: Vec<_> = allowed.keys().filter(|module| !seen.contains(**module)).collect();
    assert!(missing.is_empty(), "{src} has no {missing:?} any more: mend this test and ARCHITECTURE.md");
}

/// The first names of paths that begin with `prefix`: of `crate::{a::B, c}` both `a` and `c`.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let mut depth = 0;
        let mut name_is_next = true;
        let mut rest = rest.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' => (depth, name_is_next) = (depth + 1, depth == 0),
                '}' => depth -= 1,
                ',' => name_is_next = depth == 1,
                c if c.is_whitespace() => continue,
                c if name_is_next && (c.is_alphanumeric() || c == '_') => {
                    let mut name = String::from(c);
                    while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                        name.push(c);
                    }
                    names.insert(name);
                    name_is_next = false;
                }
                _ => name_is_next = false,
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn what_must_never_happen_does_not() {
    // A word, where alone production code may say it, and why.
    let rules: &[(&[&str], &[&str], &str)] = &[
        (&["unsafe"], &["zoo/src/ops/"], "only ops/ has unsafe code"),
        (&["sqlx"], &["src/registry/"], "only the registry knows the database"),
        (&["sqlx::query", "query_as", "query_scalar"], &["src/registry/store"], "only registry/store has SQL"),
        (&["ureq", "hf_hub", "TcpStream"], &["zoo/src/hub"], "only the hub touches the network"),
        (&["TcpListener", "hyper"], &["src/cli/web/"], "only the page's server listens"),
        (&["ExitCode", "process::exit"], &["src/main.rs"], "only main.rs decides exit codes"),
        (
            &["tokio", "async", "await"],
            &["src/registry/", "src/cli/web/"],
            "only the registry and the server are asynchronous",
        ),
        (&["clap", "indicatif", "comfy_table"], &["src/cli/", "src/main.rs"], "only cli talks to people"),
        (&["SystemTime"], &["src/cli/"], "nothing below cli reads the clock"),
        // But for the choice of instructions, which must be made before any argument arrives, the macro, and the
        // Hub's configuration, which cli asks for.
        (
            &["env::var", "env::var_os"],
            &["src/cli/", "zoo/src/ops/isa.rs", "zoo/src/hub/config.rs", "resnet-macros/src/lib.rs"],
            "nothing below cli reads the environment",
        ),
        // Where one is looked up in, or another crate wants one.
        (
            &["HashMap", "HashSet"],
            &["zoo/src/weights/", "src/cli/", "src/registry/", "src/train/checkpoint.rs"],
            "no iteration order is left to chance",
        ),
        (&["unwrap()"], &[], "expect(\"why it cannot happen\") instead of unwrap()"),
        (&["println!", "print!", "eprintln!", "eprint!"], &["src/cli/", "src/main.rs"], "only cli talks to people"),
    ];
    let mut wrong = Vec::new();
    // A build script talks to cargo, by printing, and benches/peers are programs of their own.
    let others = |path: &str| path.ends_with("build.rs") || path.starts_with("benches/peers/");
    for source in sources().iter().filter(|source| !others(&source.path)) {
        let code = source.production();
        for (words, places, why) in rules {
            if !places.iter().any(|place| source.path.starts_with(place)) {
                let places = words.iter().flat_map(|word| source.places(&code, word));
                wrong.extend(places.map(|place| format!("{place}: {why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_test_is_skipped() {
    let attribute = concat!("#[", "ignore");
    let skipped: Vec<_> = sources().into_iter().filter(|s| s.text.contains(attribute)).map(|s| s.path).collect();
    assert!(skipped.is_empty(), "every test runs, always: {skipped:?}");
}

#[test]
fn files_and_functions_have_sane_lengths() {
    let mut long = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        if lines.len() > LONGEST_FILE {
            long.push(format!("{}: {} lines", source.path, lines.len()));
        }
        let long_on_purpose = LONG_ON_PURPOSE.contains(&&*source.path);
        for (start, line) in lines.iter().enumerate().filter(|_| !long_on_purpose) {
            let indent = line.len() - line.trim_start().len();
            let is_function =
                has_word(line, "fn") && !line.trim_start().starts_with("//") && !line.trim_end().ends_with([';', ',']);
            // rustfmt closes a function at its own indentation.
            let end = lines[start..].iter().position(|end| *end == format!("{:indent$}}}", ""));
            if let (true, Some(length)) = (is_function, end)
                && length > LONGEST_FUNCTION
                && !line.contains('}')
            {
                long.push(format!("{}:{}: a function of {length} lines", source.path, start + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines or {LONGEST_FUNCTION} of a function: {long:#?}");
}

#[test]
fn light_crates_stay_light() {
    let heavy = [
        ("resnet-macros/codegen/Cargo.toml", &["candle", "tokio", "clap", "sqlx"][..]),
        ("resnet-macros/Cargo.toml", &["candle", "tokio", "clap", "sqlx"]),
        ("pixels/Cargo.toml", &["candle", "zoo", "rayon", "serde"]),
        ("zoo/Cargo.toml", &["tokio", "clap", "sqlx", "libsqlite3-sys", "indicatif"]),
    ];
    for (manifest, unwanted) in heavy {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        let dependencies = text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#'));
        let found: Vec<&str> = dependencies.filter(|line| unwanted.iter().any(|name| line.starts_with(name))).collect();
        assert!(found.is_empty(), "{manifest} takes {found:?}");
    }
}

#[test]
fn the_papers_are_there() {
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CONTRIBUTING.md", "CHANGELOG.md", "deny.toml", ".ci/run"] {
        let length = fs::metadata(root().join(file)).unwrap_or_else(|_| panic!("there is no {file}")).len();
        assert!(length > 300, "{file} says nothing");
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("license = \"MIT OR Apache-2.0\""));
}

#[test]
fn goldens_stay_small() {
    let sizes =
        fs::read_dir(root().join("tests/golden")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let total: u64 = sizes.sum();
    assert!(total < 5 << 20, "tests/golden has {total} bytes");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file that is written by hand.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let generated = ["target", "runs", "expansions"].contains(&name) || name.starts_with('.');
                folders.extend((!generated).then_some(path));
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
                let is_test = is_test(&relative);
                found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap(), is_test });
            }
        }
    }
    assert!(found.len() > 20, "the sources are not where they were: {:?}", root());
    let tests: BTreeSet<String> = found.iter().flat_map(Source::test_modules).collect();
    for source in &mut found {
        source.is_test |= tests.contains(&source.path);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn is_test(path: &str) -> bool {
    Path::new(path).components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let ends_in_name = word.ends_with(|c: char| c.is_alphanumeric());
        !(is_name(line[..at].chars().next_back()) || ends_in_name && is_name(line[at + word.len()..].chars().next()))
    })
}

/// Rust without comments and without the contents of strings.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw_hashes = rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        let starts_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let (Some(hashes), false) = (raw_hashes, starts_name)
            && rest[1 + hashes..].starts_with('"')
        {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            start + rest[start..].find(&end).map_or(rest.len() - start, |at| at + end.len())
        } else if c == '"' {
            string_length(rest)
        } else if c == '\'' && (rest.starts_with("'\"'") || rest.starts_with("'\\")) {
            rest[2..].find('\'').map_or(1, |at| at + 3)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    code
}

/// The length of the string literal that `text` starts with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn code_has_neither_comments_nor_strings() {
    let text = "let a = \"x // \\\" y\"; // z\nlet b = r#\"u \" v\"#; let c = '\"'; let d: &'static str = w;";
    assert_eq!(code(text), "let a = ; \nlet b = ; let c = ; let d: &'static str = w;");
    let names = names_after("use crate::{a::{B, C}, d, e::F}; crate::g::h(); my_crate::i();", "crate::");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g"]);
}

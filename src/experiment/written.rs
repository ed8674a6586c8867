//! The experiment as written: a file, what it extends and the overrides, merged into one tree whose
//! every node still knows where it was written.

use crate::error::{Error, Result};
use resnet_codegen::diagnostic::{Diagnostics, FileId, Sources, Span};
use resnet_codegen::yaml::{self, Key, Node, Value};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most files that may extend one another.
const MAX_EXTENDS: usize = 16;
/// Mappings whose keys name one of several kinds: where a file or an override names another kind, what was
/// said about the first no longer counts.
const KINDS: [&str; 3] = ["optimizer", "source", "split"];
/// Keys of which each rules the others out, so that the later one replaces them.
const ALTERNATIVES: [&[&str]; 4] = [
    &["epochs", "steps"],
    &["tag", "file"],
    &["if_unavailable", "file"],
    &["constant", "cosine", "step", "one_cycle", "plateau"],
];

/// Where an experiment's files are.
#[derive(Debug, Clone, Copy)]
pub enum Files<'a> {
    /// On the disk.
    Disk,
    /// Name and text of each, as a run stored them.
    Stored(&'a [(String, String)]),
}

impl Files<'_> {
    fn text(self, path: &Path) -> std::result::Result<String, String> {
        match self {
            Files::Disk => read_text(path),
            Files::Stored(files) => {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                let missing = || format!("the stored experiment has no file {}", path.display());
                found.map(|(_, text)| text.clone()).ok_or_else(missing)
            }
        }
    }

    /// One path for all names of a file.
    fn canonical(self, path: &Path) -> PathBuf {
        match self {
            Files::Disk => path.canonicalize().unwrap_or_else(|_| path.to_path_buf()),
            Files::Stored(_) => path.to_path_buf(),
        }
    }
}

/// Reads `path`, what it extends, and `overrides`, into `sources` and one merged tree.
///
/// # Errors
/// [`Error::Input`] for a file that cannot be read or is not YAML, and for an override that is not `key=value`.
pub fn read(path: &Path, files: Files<'_>, overrides: &[String], sources: &mut Sources) -> Result<Node> {
    let text = files.text(path).map_err(Error::Input)?;
    let file = sources.add(path.display().to_string(), text);
    let mut root = parse(sources, file)?;
    let mut seen = vec![files.canonical(path)];
    let mut folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    while let Some(extends) = take_extends(&mut root, sources)? {
        let base = folder.join(&extends.path);
        let refuse = |message: String, help: &str, sources: &Sources| {
            let mut diagnostics = Diagnostics::default();
            diagnostics.error(extends.span, message).help(help);
            Error::diagnostics(&diagnostics, sources)
        };
        if seen.contains(&files.canonical(&base)) {
            return Err(refuse("a file extends itself".to_owned(), "remove this `extends`", sources));
        }
        if seen.len() == MAX_EXTENDS {
            return Err(refuse(format!("more than {MAX_EXTENDS} files extend one another"), "merge some", sources));
        }
        let text =
            files.text(&base).map_err(|why| refuse(why, "the path is relative to the file that extends", sources))?;
        let file = sources.add(base.display().to_string(), text);
        let base_root = parse(sources, file)?;
        seen.push(files.canonical(&base));
        folder = base.parent().map(Path::to_path_buf).unwrap_or_default();
        root = merge("", base_root, root);
    }
    for text in overrides {
        let file = sources.add("--set", text.clone());
        let node = read_override(sources, file).map_err(|diagnostics| Error::diagnostics(&diagnostics, sources))?;
        root = merge("", root, node);
    }
    Ok(root)
}

fn parse(sources: &Sources, file: FileId) -> Result<Node> {
    yaml::parse(sources, file).map_err(|diagnostics| Error::diagnostics(&diagnostics, sources))
}

/// The text of a regular file that is not longer than an experiment can be.
fn read_text(path: &Path) -> std::result::Result<String, String> {
    let wrong = |why: &str| format!("cannot read the experiment {}: {why}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong("it is not a file"));
    }
    let file = std::fs::File::open(path).map_err(|error| wrong(&error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error.to_string()))?;
    if bytes.len() > yaml::MAX_BYTES {
        return Err(wrong(&format!("it is longer than {} bytes", yaml::MAX_BYTES)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        wrong(&format!("byte {valid} is not UTF-8 text"))
    })
}

struct Extends {
    path: String,
    span: Span,
}

/// Takes the key `extends` out of the top mapping.
fn take_extends(root: &mut Node, sources: &Sources) -> Result<Option<Extends>> {
    let Value::Map(entries) = &mut root.value else { return Ok(None) };
    let Some(at) = entries.iter().position(|(key, _)| key.name == "extends") else { return Ok(None) };
    let (_, node) = entries.remove(at);
    let mut diagnostics = Diagnostics::default();
    match node.text("`extends`", &mut diagnostics) {
        Some(path) => Ok(Some(Extends { path: path.to_owned(), span: node.span })),
        None => Err(Error::diagnostics(&diagnostics, sources)),
    }
}

/// `optimizer.adamw.lr=3e-4` as the mapping `{optimizer: {adamw: {lr: 3e-4}}}`.
fn read_override(sources: &Sources, file: FileId) -> std::result::Result<Node, Diagnostics> {
    let text = sources.get(file).text.as_str();
    let mut diagnostics = Diagnostics::default();
    let span = |start: usize, end: usize| {
        let offset = |byte: usize| u32::try_from(byte.min(yaml::MAX_BYTES)).expect("at most MAX_BYTES");
        Span { file, start: offset(start), end: offset(end) }
    };
    let Some(equals) = text.find('=') else {
        diagnostics
            .error(span(0, text.len()), "an override is `key=value`")
            .help("write for example `--set optimizer.adamw.lr=3e-4`");
        return Err(diagnostics);
    };
    let mut node = yaml::parse_from(sources, file, equals + 1)?;
    let mut end = equals;
    for name in text[..equals].rsplit('.') {
        let start = end - name.len();
        if name.is_empty() || name.trim() != name {
            diagnostics
                .error(span(start, end), "a key of the override is empty or has spaces around it")
                .help("write for example `--set optimizer.adamw.lr=3e-4`");
            return Err(diagnostics);
        }
        let key = Key { name: name.to_owned(), span: span(start, end) };
        if name == "extends" && start == 0 {
            diagnostics.error(key.span, "an override cannot change `extends`").help("name the other file instead");
            return Err(diagnostics);
        }
        node = Node { span: key.span, value: Value::Map(vec![(key, node)]) };
        end = start.saturating_sub(1);
    }
    Ok(node)
}

/// `over` laid over `base`, which both stand under the key `parent`.
fn merge(parent: &str, mut base: Node, over: Node) -> Node {
    if let (Value::Str(word), "schedule", Value::Map(_)) = (&base.value, parent, &over.value) {
        // `schedule: cosine` is short for `schedule: {cosine: {}}`, to which a warm-up can be added.
        let shape = Key { name: word.clone(), span: base.span };
        let nothing = Node { value: Value::Null, span: base.span };
        base.value = Value::Map(vec![(shape, nothing)]);
    }
    let (Value::Map(base_entries), Value::Map(over_entries)) = (&base.value, &over.value) else { return over };
    let mut merged: Vec<(Key, Node)> = base_entries
        .iter()
        .filter(|(key, _)| !over_entries.iter().any(|(other, _)| excludes(parent, &key.name, &other.name)))
        .cloned()
        .collect();
    for (key, node) in over_entries {
        match merged.iter_mut().find(|(known, _)| known.name == key.name) {
            Some(known) => {
                let node = merge(&key.name, known.1.clone(), node.clone());
                *known = (key.clone(), node);
            }
            None => merged.push((key.clone(), node.clone())),
        }
    }
    Node { value: Value::Map(merged), span: base.span }
}

fn excludes(parent: &str, a: &str, b: &str) -> bool {
    let alternatives = |keys: &[&str]| keys.contains(&a) && keys.contains(&b);
    a != b && (KINDS.contains(&parent) || ALTERNATIVES.iter().any(|keys| alternatives(keys)))
}

/// Who set each value of `resolved`: the source in which the merged tree has it, or `default`.
pub fn provenance(root: &Node, resolved: &serde_json::Value, sources: &Sources) -> BTreeMap<String, String> {
    let mut provenance = BTreeMap::new();
    trace(Some(root), resolved, String::new(), sources, &mut provenance);
    provenance
}

fn trace(
    written: Option<&Node>,
    resolved: &serde_json::Value,
    path: String,
    sources: &Sources,
    provenance: &mut BTreeMap<String, String>,
) {
    let written = written.filter(|node| node.value != Value::Null);
    match resolved {
        serde_json::Value::Object(entries) if !entries.is_empty() => {
            for (name, value) in entries {
                let below = match written.map(|node| &node.value) {
                    Some(Value::Map(entries)) => {
                        entries.iter().find(|(key, _)| key.name == *name).map(|(_, node)| node)
                    }
                    _ => None,
                };
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                trace(below, value, path, sources, provenance);
            }
        }
        _ => {
            let who = written.map_or("default", |node| sources.get(node.span.file).name.as_str());
            provenance.insert(path, who.to_owned());
        }
    }
}

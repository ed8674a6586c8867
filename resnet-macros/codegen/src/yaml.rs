//! YAML text to a tree of [`Node`]s that know their place. The only file that knows the YAML library.
//!
//! The tree, and not `#[derive(Deserialize)]` on the final types, because serde stops at the first
//! mistake and people want all of them at once.

use crate::diagnostic::{Diagnostics, FileId, Sources, Span};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Budget, Location, Options, Spanned};
use std::fmt;

/// Longest accepted file: the largest spec of the zoo is 30 times smaller.
pub const MAX_BYTES: usize = 64 * 1024;
/// Deepest accepted nesting.
pub const MAX_DEPTH: usize = 32;
/// Most nodes accepted in one file.
pub const MAX_NODES: usize = 20_000;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands; for a mapping in block style, its first key.
    pub span: Span,
}

/// What a node can be. Numbers and booleans are YAML 1.2's: `yes` and `on` are strings.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A finite number with a fraction or exponent.
    Float(f64),
    /// Text, plain or quoted.
    Str(String),
    /// `[a, b]`.
    Seq(Vec<Node>),
    /// `{key: value}`, in the order written; keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// Reads one file of `sources`.
///
/// # Errors
/// One diagnostic inside the file: not YAML, a duplicate key, an alias, or beyond a bound.
pub fn parse(sources: &Sources, file: FileId) -> Result<Node, Diagnostics> {
    parse_text(&sources.get(file).text, file)
}

/// Reads what stands in a file from byte `start` on: the value of an override `key=value`. Places are those in the
/// whole file.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(sources: &Sources, file: FileId, start: usize) -> Result<Node, Diagnostics> {
    let text = &sources.get(file).text;
    parse_text(&format!("{}{}", " ".repeat(start.min(MAX_BYTES)), &text[start..]), file)
}

fn parse_text(text: &str, file: FileId) -> Result<Node, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    if text.len() > MAX_BYTES {
        diagnostics
            .error(Span { file, start: 0, end: 0 }, format!("the file has {} bytes, more than {MAX_BYTES}", text.len()))
            .help("a spec or an experiment fits in a few kilobytes; is this the right file?");
        return Err(diagnostics);
    }
    match serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, options()) {
        Ok(tree) => diagnostics_or_node(Converter { file, text, diagnostics }, &tree),
        Err(error) => {
            let span = error.location().map_or(Span { file, start: 0, end: 0 }, |location| span(file, text, location));
            let message = error.without_snippet().to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            let problem = explain(message);
            let diagnostic = diagnostics.error(span, problem.message);
            if let Some(help) = problem.help {
                diagnostic.help(help);
            }
            Err(diagnostics)
        }
    }
}

fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.max_nodes = MAX_NODES;
    budget.max_events = 4 * MAX_NODES;
    budget.max_aliases = 0;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.strict_booleans = true;
    options
}

/// The library's message in our words where ours help more.
struct Explained {
    message: String,
    help: Option<&'static str>,
}

fn explain(message: &str) -> Explained {
    let (message, help) = if let Some(rest) = message.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(", set DuplicateKeyPolicy").next().unwrap_or(rest);
        (format!("the key `{key}` stands twice"), Some("keep one of the two"))
    } else if message.contains("aliases") || message.contains("unknown anchor") || message.contains("lias") {
        ("YAML aliases are not supported".to_owned(), Some("write the value out, or use `extends`"))
    } else if message.contains("multiple YAML documents") {
        ("the file holds more than one YAML document".to_owned(), Some("remove the `---` line or split the file"))
    } else if message.contains("non-finite float") {
        ("the number is not finite".to_owned(), Some("write a finite number"))
    } else if message.contains("depth") || message.contains("recursion") {
        (format!("nested deeper than {MAX_DEPTH} levels"), Some("write it flatter"))
    } else {
        (format!("not valid YAML: {message}"), Some("look for an open bracket or quote, or a wrong indent"))
    };
    Explained { message, help }
}

/// The place of a library location, as a non-empty byte range inside the text where it has one.
fn span(file: FileId, text: &str, location: Location) -> Span {
    let byte_of = |characters: u64| {
        text.char_indices().nth(usize::try_from(characters).unwrap_or(usize::MAX)).map_or(text.len(), |(byte, _)| byte)
    };
    let at = location.span();
    let start =
        at.byte_offset().and_then(|offset| usize::try_from(offset).ok()).unwrap_or_else(|| byte_of(at.offset()));
    let end = match at.byte_len().and_then(|length| usize::try_from(length).ok()) {
        Some(length) => start.saturating_add(length),
        None => byte_of(at.offset() + at.len()),
    };
    let start = floor_char_boundary(text, start);
    let end = floor_char_boundary(text, end.max(start));
    let offset = |byte: usize| u32::try_from(byte).expect("the text is shorter than MAX_BYTES");
    Span { file, start: offset(start), end: offset(end) }
}

fn floor_char_boundary(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|byte| text.is_char_boundary(*byte)).unwrap_or(0)
}

/// The tree as the library sees it: a key can be anything.
enum Tree {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Seq(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<Tree>, Spanned<Tree>)>),
}

struct TreeVisitor;

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Int(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Int(value.into()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Int(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Str(value.to_owned()))
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::Seq(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key()? {
            entries.push((key, access.next_value()?));
        }
        Ok(Tree::Map(entries))
    }
}

struct Converter<'a> {
    file: FileId,
    text: &'a str,
    diagnostics: Diagnostics,
}

fn diagnostics_or_node(mut converter: Converter<'_>, tree: &Spanned<Tree>) -> Result<Node, Diagnostics> {
    let node = converter.node(tree);
    converter.diagnostics.into_result(Some(node))
}

impl Converter<'_> {
    fn node(&mut self, tree: &Spanned<Tree>) -> Node {
        let value = match &tree.value {
            Tree::Null => Value::Null,
            Tree::Bool(value) => Value::Bool(*value),
            Tree::Int(value) => Value::Int(*value),
            Tree::Float(value) => Value::Float(*value),
            Tree::Str(value) => Value::Str(value.clone()),
            Tree::Seq(items) => Value::Seq(items.iter().map(|item| self.node(item)).collect()),
            Tree::Map(entries) => {
                Value::Map(entries.iter().filter_map(|(key, value)| Some((self.key(key)?, self.node(value)))).collect())
            }
        };
        let mut place = span(self.file, self.text, tree.referenced);
        if let (Value::Map(entries), true) = (&value, place.start == place.end)
            && let Some((key, _)) = entries.first()
        {
            place = key.span;
        }
        Node { value, span: place }
    }

    fn key(&mut self, tree: &Spanned<Tree>) -> Option<Key> {
        let place = span(self.file, self.text, tree.referenced);
        match &tree.value {
            Tree::Str(name) => Some(Key { name: name.clone(), span: place }),
            Tree::Bool(_) | Tree::Int(_) | Tree::Float(_) => {
                let name = self.text[place.start as usize..place.end as usize].to_owned();
                Some(Key { name, span: place })
            }
            Tree::Null | Tree::Seq(_) | Tree::Map(_) => {
                self.diagnostics.error(place, "a key is a single word").help("write `key: value`");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, String> {
        let mut sources = Sources::default();
        let file = sources.add("t.yaml", text);
        parse(&sources, file).map_err(|diagnostics| diagnostics.render(&sources))
    }

    fn value(text: &str) -> Value {
        match read(text).expect("valid").value {
            Value::Map(mut entries) => entries.remove(0).1.value,
            other => other,
        }
    }

    #[test]
    fn scalars_are_yaml_1_2() {
        assert_eq!(value("a: 3"), Value::Int(3));
        assert_eq!(value("a: -3"), Value::Int(-3));
        assert_eq!(value("a: 1e-4"), Value::Float(1e-4));
        assert_eq!(value("a: 1.5"), Value::Float(1.5));
        assert_eq!(value("a: true"), Value::Bool(true));
        assert_eq!(value("a: yes"), Value::Str("yes".into()));
        assert_eq!(value("a: no"), Value::Str("no".into()));
        assert_eq!(value("a: '3'"), Value::Str("3".into()));
        assert_eq!(value("a: 3x3"), Value::Str("3x3".into()));
        assert_eq!(value("a: 7x7"), Value::Str("7x7".into()));
        assert_eq!(value("a: ~"), Value::Null);
        assert_eq!(value("a:"), Value::Null);
        assert_eq!(value(""), Value::Null);
    }

    #[test]
    fn spans_are_bytes_of_the_text() {
        let text = "é: 1\nkey: [ü, 22]\n";
        let Value::Map(entries) = read(text).expect("valid").value else { panic!("a mapping") };
        let (key, node) = &entries[1];
        assert_eq!(&text[key.span.start as usize..key.span.end as usize], "key");
        let Value::Seq(items) = &node.value else { panic!("a list") };
        assert_eq!(&text[items[1].span.start as usize..items[1].span.end as usize], "22");
    }

    #[test]
    fn hostile_files_get_one_message_each() {
        let cases = [
            ("a: 1\na: 2\n", "the key `a` stands twice"),
            ("a: &x [1]\nb: *x\n", "YAML aliases are not supported"),
            ("a: {b: 1\n", "not valid YAML: unclosed bracket '{'"),
            ("a: .nan\n", "the number is not finite"),
            ("a: 1\n---\nb: 2\n", "the file holds more than one YAML document"),
            ("? [a]\n: b\n", "a key is a single word"),
        ];
        for (text, expected) in cases {
            let message = read(text).expect_err(text);
            assert!(message.starts_with(&format!("error: {expected}\n")), "{text:?}: {message}");
        }
        let deep = "[".repeat(1000);
        let message = read(&deep).expect_err("deep");
        assert!(message.starts_with("error: nested deeper than 32 levels"), "{message}");
        let huge = "a: 1\n".repeat(2_000_000);
        assert!(read(&huge).expect_err("huge").contains("more than 65536"));
    }
}

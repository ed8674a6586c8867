//! What is wrong, where, and one way out: the messages that people see, at compile time through
//! `zoo!` and at run time from `resnet-zoo check`, in the same words.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;

/// Most mistakes whose text is shown: a file with more is not a spec with slips but another kind of file.
const MAX_SHOWN: usize = 50;

/// A piece of one source file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Which of [`Sources`] it lies in.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// The index of a file in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u16);

/// One file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name that messages show.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// The files of one compilation: a spec and what it extends, or an experiment and its overrides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a file and returns its handle.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        self.0.push(Source { name: name.into(), text: text.into() });
        FileId(u16::try_from(self.0.len() - 1).expect("a compilation reads fewer than 65,536 files"))
    }

    /// The file behind a handle that `add` returned.
    pub fn get(&self, file: FileId) -> &Source {
        &self.0[usize::from(file.0)]
    }

    /// All files, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// `(line, column)` of the span's start, both from 1, the column in characters.
    pub fn line_column(&self, span: Span) -> (usize, usize) {
        let before = &self.get(span.file).text[..span.start as usize];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The rule that was broken, in lower case.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What the caret's line says beside it.
    pub label: Option<String>,
    /// One way out.
    pub help: Option<String>,
}

/// The mistakes of one pass, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Notes a mistake; `label` and `help` can be set on what it returns.
    pub fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        self.0.push(Diagnostic { message: message.into(), span, label: None, help: None });
        self.0.last_mut().expect("one was pushed a line above")
    }

    /// True where no mistake was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many mistakes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The mistakes, by position.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// `value` where there is one and no mistake was noted, else all mistakes, sorted by position, each once.
    ///
    /// # Errors
    /// The mistakes themselves.
    ///
    /// # Panics
    /// If `value` is missing although no mistake was noted: the caller lost one.
    pub fn into_result<T>(mut self, value: Option<T>) -> Result<T, Diagnostics> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                assert!(!self.0.is_empty(), "a value is missing but nothing says why");
                self.0.sort_by_key(|diagnostic| diagnostic.span);
                self.0.dedup();
                Err(self)
            }
        }
    }

    /// Every mistake with its file, line, column, source line, caret and way out, as plain text.
    pub fn render(&self, sources: &Sources) -> String {
        self.render_each(sources).join("\n\n")
    }

    /// As [`render`](Self::render), one text a mistake: `zoo!` reports each on its own.
    pub fn render_each(&self, sources: &Sources) -> Vec<String> {
        self.render_with(sources, &Renderer::plain())
    }

    /// As [`render`](Self::render), in colour for a terminal.
    pub fn render_styled(&self, sources: &Sources) -> String {
        self.render_with(sources, &Renderer::styled()).join("\n\n")
    }

    fn render_with(&self, sources: &Sources, renderer: &Renderer) -> Vec<String> {
        let shown = self.0.iter().take(MAX_SHOWN).map(|diagnostic| diagnostic.render(sources, renderer));
        let more = self.0.len().saturating_sub(MAX_SHOWN);
        shown.chain((more > 0).then(|| format!("error: {more} more mistakes"))).collect()
    }
}

impl Diagnostic {
    /// Says what stands at the caret.
    pub fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// Says one way out.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    fn render(&self, sources: &Sources, renderer: &Renderer) -> String {
        let source = sources.get(self.span.file);
        let mut annotation = AnnotationKind::Primary.span(self.span.start as usize..self.span.end as usize);
        if let Some(label) = &self.label {
            annotation = annotation.label(label.as_str());
        }
        let snippet = Snippet::source(source.text.as_str()).path(source.name.as_str()).annotation(annotation);
        let mut report = Level::ERROR.primary_title(self.message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            report = report.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[report])
    }
}

/// The words of `names` that `wrong` was probably meant to be: at most a third of its letters differ.
pub fn did_you_mean<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (edit_distance(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

impl fmt::Display for Diagnostics {
    /// The messages alone, for where no source is at hand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<&str> = self.0.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_position_line_caret_label_and_help() {
        let mut sources = Sources::default();
        let file = sources.add("resnet34.yaml", "name: resnet34\nstages:\n  depts: [3, 4, 6, 3]\n");
        let mut diagnostics = Diagnostics::default();
        diagnostics
            .error(Span { file, start: 25, end: 30 }, "unknown key `depts`")
            .label("not a key of `stages`")
            .help("did you mean `depths`?");
        let expected = "\
error: unknown key `depts`
 --> resnet34.yaml:3:3
  |
3 |   depts: [3, 4, 6, 3]
  |   ^^^^^ not a key of `stages`
  |
  = help: did you mean `depths`?";
        assert_eq!(diagnostics.render(&sources), expected);
    }

    #[test]
    fn suggests_only_near_names() {
        assert_eq!(did_you_mean("depts", ["depths", "block"]), Some("depths"));
        assert_eq!(did_you_mean("sterm", ["stem", "stages"]), Some("stem"));
        assert_eq!(did_you_mean("colour", ["depths", "block"]), None);
    }
}

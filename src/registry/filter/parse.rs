//! Tokens -> a tree, by recursive descent. What it names need not exist: see `check`.

use super::lex::{Token, TokenKind, tokens};
use super::{Comparison, MAX_PARTS};
use crate::error::Error;
use resnet_codegen::diagnostic::{Diagnostics, FileId, Sources, Span};
use std::ops::Range;

/// Parentheses and `not`s inside of one another.
const MAX_DEPTH: usize = 64;
/// Words that are never names, unless in backquotes.
const KEYWORDS: [&str; 9] = ["and", "or", "not", "in", "like", "ilike", "is", "between", "null"];

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Test(Named, Box<Predicate>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Predicate {
    Holds,
    Compare(Comparison, Literal),
    Between(Literal, Literal),
    In(Vec<Literal>),
    Like { pattern: Literal, fold_case: bool },
    IsNull,
    IsNan,
}

/// `val.top1`, `last(val.top1)`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub function: Option<(String, Range<usize>)>,
    pub parts: Vec<String>,
    pub name_at: Range<usize>,
    /// All of it.
    pub at: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Literal {
    pub kind: LiteralKind,
    pub at: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum LiteralKind {
    Text(String),
    Quantity(String),
    Named(Named),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sorted {
    pub named: Named,
    pub descending: bool,
}

/// What is wrong, where, and a way out.
#[derive(Debug)]
pub(super) struct Mistake {
    at: Range<usize>,
    message: String,
    label: Option<String>,
    help: Option<String>,
}

impl Mistake {
    pub fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Mistake { at, message: message.into(), label: None, help: None }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn note(self, diagnostics: &mut Diagnostics) {
        let offset = |at: usize| u32::try_from(at).expect("at most MAX_BYTES");
        let span = Span { file: FileId(0), start: offset(self.at.start), end: offset(self.at.end) };
        let noted = diagnostics.error(span, self.message);
        (noted.label, noted.help) = (self.label, self.help);
    }

    pub fn into_error(self, sources: &Sources) -> Error {
        let mut diagnostics = Diagnostics::default();
        self.note(&mut diagnostics);
        Error::diagnostics(&diagnostics, sources)
    }
}

pub(super) fn filter(text: &str) -> Result<Tree, Mistake> {
    let mut parser = Parser::new(text)?;
    let tree = parser.any(0)?;
    parser.end("`and`, `or` or the end")?;
    Ok(tree)
}

pub(super) fn sort_order(text: &str) -> Result<Vec<Sorted>, Mistake> {
    let mut parser = Parser::new(text)?;
    let keys = parser.list(|parser| {
        let minus = parser.symbol("-").is_some();
        let named = parser.named("a field or metric to sort by")?;
        let word = parser.word("asc").map(|at| (false, at)).or_else(|| parser.word("desc").map(|at| (true, at)));
        match (minus, word) {
            (true, Some((_, at))) => Err(Mistake::new(at, "the direction is said twice").help("leave one of them out")),
            (minus, word) => Ok(Sorted { named, descending: word.map_or(minus, |(descending, _)| descending) }),
        }
    })?;
    parser.end("`asc`, `desc`, a comma or the end")?;
    Ok(keys)
}

pub(super) fn columns(text: &str) -> Result<Vec<Named>, Mistake> {
    let mut parser = Parser::new(text)?;
    let columns = parser.list(|parser| parser.named("a field or metric to show"))?;
    parser.end("a comma or the end")?;
    Ok(columns)
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    tests: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Self, Mistake> {
        Ok(Parser { tokens: tokens(text)?, next: 0, tests: 0 })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.next]
    }

    fn advance(&mut self) -> Range<usize> {
        let at = self.peek().at.clone();
        // The last token is `End`, which stays.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        at
    }

    fn symbol(&mut self, wanted: &str) -> Option<Range<usize>> {
        matches!(self.peek().kind, TokenKind::Symbol(symbol) if symbol == wanted).then(|| self.advance())
    }

    /// Takes the word `wanted`, in any case.
    fn word(&mut self, wanted: &str) -> Option<Range<usize>> {
        is_word(&self.peek().kind, wanted).then(|| self.advance())
    }

    fn expected(&self, what: &str) -> Mistake {
        let found = self.peek();
        let description = match &found.kind {
            TokenKind::Name { parts, .. } => format!("`{}`", parts.join(".")),
            TokenKind::Text(_) => "a text".to_owned(),
            TokenKind::Quantity(text) => format!("`{text}`"),
            TokenKind::Symbol(symbol) => format!("`{symbol}`"),
            TokenKind::End => "the end".to_owned(),
        };
        Mistake::new(found.at.clone(), format!("expected {what}, found {description}"))
            .label(format!("expected {what}"))
    }

    fn end(&self, or: &str) -> Result<(), Mistake> {
        match self.peek().kind {
            TokenKind::End => Ok(()),
            TokenKind::Symbol(")") => Err(Mistake::new(self.peek().at.clone(), "this `)` closes nothing")
                .help("remove it, or write the `(` that it closes")),
            _ => Err(self.expected(or)),
        }
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T, Mistake>) -> Result<Vec<T>, Mistake> {
        let mut list = vec![one(self)?];
        while let Some(at) = self.symbol(",") {
            if list.len() == MAX_PARTS {
                return Err(Mistake::new(at, format!("more than {MAX_PARTS} of them")).help("ask for less at once"));
            }
            list.push(one(self)?);
        }
        Ok(list)
    }

    fn any(&mut self, depth: usize) -> Result<Tree, Mistake> {
        let mut parts = vec![self.all(depth)?];
        while self.word("or").is_some() {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Tree, Mistake> {
        let mut parts = vec![self.one(depth)?];
        while self.word("and").is_some() {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::All(parts) })
    }

    fn one(&mut self, depth: usize) -> Result<Tree, Mistake> {
        if depth > MAX_DEPTH {
            return Err(Mistake::new(
                self.peek().at.clone(),
                format!("more than {MAX_DEPTH} parts inside of one another"),
            )
            .help("write it flatter"));
        }
        if self.word("not").is_some() {
            return Ok(Tree::Not(Box::new(self.one(depth + 1)?)));
        }
        let Some(open) = self.symbol("(") else { return self.test() };
        let tree = self.any(depth + 1)?;
        if self.symbol(")").is_none() {
            let missing = self.expected("`and`, `or` or `)`");
            return Err(missing.help(format!("the `(` at column {} is not closed", open.start + 1)));
        }
        Ok(tree)
    }

    fn test(&mut self) -> Result<Tree, Mistake> {
        self.tests += 1;
        if self.tests > MAX_PARTS {
            return Err(Mistake::new(self.peek().at.clone(), format!("more than {MAX_PARTS} tests"))
                .help("ask for less at once, or use `in (..)`"));
        }
        if let TokenKind::Text(_) | TokenKind::Quantity(_) = self.peek().kind {
            return self.mirrored();
        }
        let named = self.named("a field, a metric, `not` or `(`")?;
        if let Some((comparison, negated)) = self.comparison() {
            let value = self.literal()?;
            return Ok(negate(negated, test(named, Predicate::Compare(comparison, value))));
        }
        if self.word("is").is_some() {
            let negated = self.word("not").is_some();
            let predicate = if self.word("null").is_some() {
                Predicate::IsNull
            } else if self.word("nan").is_some() {
                Predicate::IsNan
            } else {
                return Err(self.expected("`null`, `nan` or `not`"));
            };
            return Ok(negate(negated, test(named, predicate)));
        }
        let negated = self.word("not").is_some();
        let predicate = if self.word("in").is_some() {
            if self.symbol("(").is_none() {
                return Err(self.expected("`(`").help("write for example `model in (\"resnet18\", \"resnet34\")`"));
            }
            let values = self.list(Self::literal)?;
            if self.symbol(")").is_none() {
                return Err(self.expected("a comma or `)`"));
            }
            Predicate::In(values)
        } else if self.word("like").is_some() {
            Predicate::Like { pattern: self.literal()?, fold_case: false }
        } else if self.word("ilike").is_some() {
            Predicate::Like { pattern: self.literal()?, fold_case: true }
        } else if self.word("between").is_some() {
            let low = self.literal()?;
            if self.word("and").is_none() {
                return Err(self.expected("`and`").help("write for example `seed between 1 and 5`"));
            }
            Predicate::Between(low, self.literal()?)
        } else if negated {
            return Err(self.expected("`in`, `like`, `ilike` or `between`"));
        } else if self.ends_a_test() {
            Predicate::Holds
        } else {
            return Err(self.expected("a comparison").help("one of =, !=, <, <=, >, >=, in, like, ilike, between, is"));
        };
        Ok(negate(negated, test(named, predicate)))
    }

    /// `0.85 < val.top1`.
    fn mirrored(&mut self) -> Result<Tree, Mistake> {
        let value = self.literal()?;
        let Some((comparison, negated)) = self.comparison() else {
            return Err(self.expected("a comparison").help("one of =, !=, <, <=, >, >="));
        };
        let named = self.named("a field or metric")?;
        let mirrored = match comparison {
            Comparison::Equal => Comparison::Equal,
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        };
        Ok(negate(negated, test(named, Predicate::Compare(mirrored, value))))
    }

    fn ends_a_test(&self) -> bool {
        let kind = &self.peek().kind;
        matches!(kind, TokenKind::End | TokenKind::Symbol(")")) || is_word(kind, "and") || is_word(kind, "or")
    }

    /// A comparison, and whether it is `not` of it that was written.
    fn comparison(&mut self) -> Option<(Comparison, bool)> {
        let TokenKind::Symbol(symbol) = self.peek().kind else { return None };
        let comparison = match symbol {
            "=" | "==" => (Comparison::Equal, false),
            "!=" | "<>" => (Comparison::Equal, true),
            "<" => (Comparison::Less, false),
            "<=" => (Comparison::LessOrEqual, false),
            ">" => (Comparison::Greater, false),
            ">=" => (Comparison::GreaterOrEqual, false),
            _ => return None,
        };
        self.advance();
        Some(comparison)
    }

    fn literal(&mut self) -> Result<Literal, Mistake> {
        let kind = match &self.peek().kind {
            TokenKind::Text(text) => LiteralKind::Text(text.clone()),
            TokenKind::Quantity(text) => LiteralKind::Quantity(text.clone()),
            _ => {
                let named = self.named("a value")?;
                return Ok(Literal { at: named.at.clone(), kind: LiteralKind::Named(named) });
            }
        };
        Ok(Literal { kind, at: self.advance() })
    }

    fn named(&mut self, what: &str) -> Result<Named, Mistake> {
        let (parts, name_at) = self.name(what)?;
        if parts.len() > 1 || self.symbol("(").is_none() {
            return Ok(Named { function: None, parts, at: name_at.clone(), name_at });
        }
        let function = (parts[0].clone(), name_at.clone());
        let (parts, inner) = self.name("a metric")?;
        let end = self.symbol(")").ok_or_else(|| self.expected("`)`"))?.end;
        Ok(Named { at: name_at.start..end, function: Some(function), parts, name_at: inner })
    }

    fn name(&mut self, what: &str) -> Result<(Vec<String>, Range<usize>), Mistake> {
        match &self.peek().kind {
            TokenKind::Name { parts, quoted } if *quoted || !is_keyword(parts) => {
                let parts = parts.clone();
                Ok((parts, self.advance()))
            }
            _ => Err(self.expected(what)),
        }
    }
}

fn test(named: Named, predicate: Predicate) -> Tree {
    Tree::Test(named, Box::new(predicate))
}

fn negate(negated: bool, tree: Tree) -> Tree {
    if negated { Tree::Not(Box::new(tree)) } else { tree }
}

fn is_word(kind: &TokenKind, wanted: &str) -> bool {
    matches!(kind, TokenKind::Name { parts, quoted: false } if parts.len() == 1 && parts[0].eq_ignore_ascii_case(wanted))
}

fn is_keyword(parts: &[String]) -> bool {
    parts.len() == 1 && KEYWORDS.iter().any(|word| parts[0].eq_ignore_ascii_case(word))
}

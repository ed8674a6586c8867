//! Text -> tokens, each with its place.

use super::parse::Mistake;
use std::ops::Range;

/// A token and the bytes it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub at: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// `val.top1`, `and`, `` config.`odd key` ``: the parts between the dots.
    Name {
        parts: Vec<String>,
        quoted: bool,
    },
    /// A text in quotes.
    Text(String),
    /// What begins as a number does, with its sign and unit: `1e-4`, `25M`, `2h30m`, `2026-11-25`.
    Quantity(String),
    Symbol(&'static str),
    /// After the last one.
    End,
}

/// Longer ones first.
const SYMBOLS: [&str; 12] = ["<=", ">=", "!=", "<>", "==", "=", "<", ">", "(", ")", ",", "-"];
/// What other languages write, and what this one does.
const FOREIGN: [(&str, &str); 8] = [
    ("&&", "and"),
    ("||", "or"),
    ("&", "and"),
    ("|", "or"),
    ("!", "not"),
    ("=~", "like"),
    ("~", "like"),
    ("\u{201c}", "\""),
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Mistake> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let rest = &text[at..];
        let after_value = matches!(tokens.last(), Some(Token { kind: TokenKind::Name { .. }, .. }));
        let (kind, length) = if first == '"' || first == '\'' {
            quoted(rest, first).map(|(text, length)| (TokenKind::Text(text), length)).ok_or_else(|| {
                Mistake::new(at..text.len(), "this text has no end").help(format!("close it with {first}"))
            })?
        } else if is_name_start(first) {
            name(rest, at)?
        } else if let Some(length) = quantity(rest, !after_value) {
            (TokenKind::Quantity(rest[..length].to_owned()), length)
        } else if let (Some((foreign, ours)), None) = (foreign(rest), rest.strip_prefix("!=")) {
            return Err(Mistake::new(at..at + foreign.len(), format!("`{foreign}` is not of this language"))
                .help(format!("write `{ours}`")));
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (TokenKind::Symbol(symbol), symbol.len())
        } else {
            return Err(Mistake::new(at..at + first.len_utf8(), format!("{first:?} cannot stand here"))
                .help("put text in quotes, and odd names in backquotes"));
        };
        tokens.push(Token { kind, at: at..at + length });
        at += length;
    }
    tokens.push(Token { kind: TokenKind::End, at: text.len()..text.len() });
    Ok(tokens)
}

fn foreign(rest: &str) -> Option<(&'static str, &'static str)> {
    FOREIGN.into_iter().find(|(foreign, _)| rest.starts_with(foreign))
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '`'
}

/// The text in quotes that `rest` begins with; `\` and a doubled quote take the quote into it.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match (c, chars.peek().map(|(_, next)| *next)) {
            // Other backslashes stay: a pattern of `like` needs them.
            ('\\', Some(next)) if next == quote => {
                text.push(next);
                chars.next();
            }
            (c, next) if c == quote && next == Some(quote) => {
                text.push(quote);
                chars.next();
            }
            (c, _) if c == quote => return Some((text, at + 1)),
            (c, _) => text.push(c),
        }
    }
    None
}

/// `val.top1`, `val/top-1`, `` a.`b c` ``.
fn name(rest: &str, start: usize) -> Result<(TokenKind, usize), Mistake> {
    let mut parts = Vec::new();
    let mut quoted_any = false;
    let mut at = 0;
    loop {
        let part = &rest[at..];
        let length = if part.starts_with('`') {
            let Some((text, length)) = quoted(part, '`') else {
                let at = start + at;
                return Err(Mistake::new(at..start + rest.len(), "this name has no end").help("close it with `"));
            };
            parts.push(text);
            quoted_any = true;
            length
        } else {
            let mut length = 0;
            for (at, c) in part.char_indices() {
                let next = part[at + c.len_utf8()..].chars().next();
                let inner = "/@-:".contains(c) && at > 0 && next.is_some_and(|next| next.is_alphanumeric());
                if !(c.is_alphanumeric() || c == '_' || inner) {
                    break;
                }
                length = at + c.len_utf8();
            }
            parts.push(part[..length].to_owned());
            length
        };
        at += length;
        if length == 0 {
            return Err(Mistake::new(start + at - 1..start + at, "a name does not end in a dot")
                .help("write for example `val.top1`"));
        }
        match rest[at..].strip_prefix('.') {
            Some(_) => at += 1,
            None => return Ok((TokenKind::Name { parts, quoted: quoted_any }, at)),
        }
    }
}

/// The length of what begins as a number: `-1e-4`, `.5`, `85%`, `2h30m`, `2026-11-25T10:00`.
fn quantity(rest: &str, may_have_sign: bool) -> Option<usize> {
    let unsigned = if may_have_sign { rest.strip_prefix(['-', '+']).unwrap_or(rest) } else { rest };
    let sign = rest.len() - unsigned.len();
    let digits = unsigned.strip_prefix('.').unwrap_or(unsigned);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let is_date = unsigned.len() > 4
        && unsigned.as_bytes()[..4].iter().all(u8::is_ascii_digit)
        && unsigned[4..].starts_with('-')
        && unsigned[5..].starts_with(|c: char| c.is_ascii_digit());
    let mut previous = ' ';
    let end = unsigned.find(|c: char| {
        let exponent = "+-".contains(c) && "eE".contains(previous);
        let inner = c.is_alphanumeric() || "._%".contains(c) || exponent || is_date && "-:".contains(c);
        previous = c;
        !inner
    });
    Some(sign + end.unwrap_or(unsigned.len()))
}

//! Where output goes: stdout, whether a person, a file or `head` reads it.

use crate::error::{Error, Result};
use clap::ColorChoice;
use console::{Style, Term};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// What the shell reports of a program whose reader went away.
pub(crate) const SIGPIPE: i32 = 13;

/// Standard output.
#[derive(Debug)]
pub(super) struct Terminal {
    colored: bool,
    width: Option<u16>,
}

impl Terminal {
    pub fn new(color: ColorChoice) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colored = match color {
            ColorChoice::Auto => is_terminal && !refused,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Terminal { colored, width: is_terminal.then(|| Term::stdout().size().1) }
    }

    /// Columns, where a person looks at a terminal.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    pub fn is_colored(&self) -> bool {
        self.colored
    }

    /// Prints a text and a newline.
    pub fn print(&mut self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        let written =
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
        written.map_err(stdout_error)
    }

    /// Prints bytes as they are.
    pub fn print_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(stdout_error)
    }

    /// Prints a heading.
    pub fn heading(&mut self, text: &str) -> Result<()> {
        let style = Style::new().bold().force_styling(self.colored);
        self.print(&style.apply_to(text).to_string())
    }

    /// Prints one JSON value, indented.
    pub fn print_json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).expect("these types hold no map with keys other than strings");
        self.print(&text)
    }

    /// Prints one JSON value on one line.
    pub fn print_json_line(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).expect("these types hold no map with keys other than strings");
        self.print(&text)
    }
}

fn stdout_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::Interrupted { signal: SIGPIPE },
        _ => Error::failed(format!("cannot write to standard output: {error}")),
    }
}

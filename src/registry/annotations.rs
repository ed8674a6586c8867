//! What people say of a run: tags, a group, a note, and whether it was put away.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Characters of a tag and of a group.
const MAX_NAME: usize = 100;
/// Characters of a note.
const MAX_NOTE: usize = 10_000;

/// What is said of a run from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    /// Words by which runs are found again.
    pub tags: Vec<String>,
    /// What several runs belong to, as to a sweep.
    pub group: Option<String>,
    /// A text for people.
    pub note: Option<String>,
}

impl Annotations {
    /// Checks all of it.
    ///
    /// # Errors
    /// [`Error::Input`] with the first rule that is broken.
    pub fn checked(self) -> Result<Self> {
        self.tags.iter().try_for_each(|tag| check_name("tag", tag))?;
        self.group.iter().try_for_each(|group| check_name("group", group))?;
        self.note.iter().try_for_each(|note| check_note(note))?;
        Ok(self)
    }
}

/// A change of what is said of runs. What is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Tags that each run gets.
    pub add_tags: Vec<String>,
    /// Tags that each run loses.
    pub remove_tags: Vec<String>,
    /// The group; of `Some(None)`, none.
    pub group: Option<Option<String>>,
    /// The note; of `Some(None)`, none.
    pub note: Option<Option<String>>,
    /// Whether lists hide it.
    pub archived: Option<bool>,
}

impl Change {
    /// Checks all of it.
    ///
    /// # Errors
    /// [`Error::Input`] with the first rule that is broken.
    pub fn checked(self) -> Result<Self> {
        self.add_tags.iter().try_for_each(|tag| check_name("tag", tag))?;
        self.group.iter().flatten().try_for_each(|group| check_name("group", group))?;
        self.note.iter().flatten().try_for_each(|note| check_note(note))?;
        Ok(self)
    }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.chars().count() <= MAX_NAME
        && name.trim() == name
        && !name.contains(|c: char| c.is_control() || c == ',');
    if fits {
        return Ok(());
    }
    Err(Error::input(format!(
        "a {what} is 1 to {MAX_NAME} characters on one line, without commas and without spaces around it, not {name:?}"
    )))
}

fn check_note(note: &str) -> Result<()> {
    let fits = !note.trim().is_empty()
        && note.chars().count() <= MAX_NOTE
        && !note.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
    if fits {
        return Ok(());
    }
    Err(Error::input(format!(
        "a note is 1 to {MAX_NOTE} characters, without control characters; pass --clear for none"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lines() {
        for tag in ["baseline", "owner=ann", "größer", "two words"] {
            check_name("tag", tag).unwrap_or_else(|error| panic!("{error}"));
        }
        for tag in ["", " a", "a,b", "a\nb", "\u{1b}[31m", &"x".repeat(101)] {
            let error = check_name("tag", tag).expect_err(tag);
            assert_eq!(error.exit_code(), 2);
        }
        check_note("two\nlines").unwrap_or_else(|error| panic!("{error}"));
        for note in ["", " ", "\u{1b}[2J", &"x".repeat(10_001)] {
            check_note(note).expect_err(note);
        }
    }
}

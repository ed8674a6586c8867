//! A CSV manifest: `path,label` or `path,label,split`.

use super::files::{self, Content, Format, Found, Listing};
use super::options::Split;
use super::split;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::Arc;

const MAX_BYTES: u64 = 1 << 28;
/// Labels that are numbers must be below this: the classifier gets a row for each number up to the largest.
const MAX_CLASSES: u32 = 1 << 16;

/// One line.
struct Row {
    line: u64,
    path: String,
    label: String,
    /// `None` where the manifest has no such column.
    validates: Option<bool>,
}

pub(super) fn list(manifest: &Path, split: &Split) -> Result<Listing> {
    let wrong = |line: u64, reason: String| Error::input(format!("{}:{line}: {reason}", manifest.display()));
    let rows = rows(manifest)?;
    if rows.is_empty() {
        return Err(Error::input(format!("{}: lists no samples", manifest.display())));
    }
    match (rows[0].validates.is_some(), split) {
        (true, Split::Seeded { .. }) => {
            return Err(wrong(1, "has a column `split`, which is the split: leave `val_fraction` out".to_owned()));
        }
        (false, Split::Given) => {
            return Err(wrong(1, "has no column `split`: add one (train or val), or give a `val_fraction`".to_owned()));
        }
        _ => {}
    }
    let (classes, labels) = classes(&rows).map_err(|(line, reason)| wrong(line, reason))?;

    let folder = match manifest.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let root = folder.canonicalize().map_err(|error| Error::input(format!("{}: {error}", folder.display())))?;
    let mut seen = BTreeMap::new();
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for (row, label) in rows.into_iter().zip(labels) {
        let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if row.path.is_empty() || !Path::new(&row.path).components().all(stays) {
            return Err(wrong(
                row.line,
                format!("path `{}` must be relative to the manifest's folder and cannot leave it", row.path),
            ));
        }
        let path = root.join(&row.path);
        if let Some(before) = seen.insert(path.clone(), row.line) {
            return Err(wrong(row.line, format!("path `{}` stands in line {before} already", row.path)));
        }
        let content = files::vet(&root, &path).map(|()| Content::Image(path));
        let found = Found { id: row.path, label, content };
        if row.validates == Some(true) { val.push(found) } else { train.push(found) }
    }
    match *split {
        Split::Seeded { val_fraction, seed } => (train, val) = split::seeded(train, val_fraction, seed)?,
        Split::Given => {
            for (part, samples) in [("train", &train), ("val", &val)] {
                if samples.is_empty() {
                    return Err(Error::input(format!("{}: lists no sample with split `{part}`", manifest.display())));
                }
            }
            let known: BTreeSet<u32> = train.iter().map(|found| found.label).collect();
            if let Some(found) = val.iter().find(|found| !known.contains(&found.label)) {
                return Err(Error::input(format!(
                    "{}: class `{}` of `{}` has no training sample",
                    manifest.display(),
                    classes[found.label as usize],
                    found.id
                )));
            }
        }
    }
    Ok(Listing { classes, format: Format::Image, train, val })
}

fn rows(manifest: &Path) -> Result<Vec<Row>> {
    let wrong = |reason: String| Error::input(format!("{}: {reason}", manifest.display()));
    let wrong_line = |line: u64, reason: String| Error::input(format!("{}:{line}: {reason}", manifest.display()));
    let metadata = std::fs::metadata(manifest).map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(wrong(format!("must be a regular file of at most {MAX_BYTES} bytes")));
    }
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(manifest).map_err(|error| wrong(error.to_string()))?;
    let header = reader.headers().map_err(|error| wrong(error.to_string()))?.clone();
    for (at, name) in header.iter().enumerate() {
        if !["path", "label", "split"].contains(&name) {
            return Err(wrong_line(
                1,
                format!("column `{name}` is unknown; the header is `path,label` or `path,label,split`"),
            ));
        }
        if header.iter().take(at).any(|before| before == name) {
            return Err(wrong_line(1, format!("column `{name}` stands twice")));
        }
    }
    let column = |name: &str| header.iter().position(|column| column == name);
    let missing =
        |name: &str| wrong_line(1, format!("has no column `{name}`; the header is `path,label` or `path,label,split`"));
    let path = column("path").ok_or_else(|| missing("path"))?;
    let label = column("label").ok_or_else(|| missing("label"))?;
    let split = column("split");

    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| wrong(error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let validates = match split.map(|split| &record[split]) {
            None => None,
            Some("train") => Some(false),
            Some("val") => Some(true),
            Some(other) => return Err(wrong_line(line, format!("split `{other}` must be `train` or `val`"))),
        };
        if record[label].is_empty() {
            return Err(wrong_line(line, "the label is empty".to_owned()));
        }
        rows.push(Row { line, path: record[path].to_owned(), label: record[label].to_owned(), validates });
    }
    Ok(rows)
}

type Classes = (Arc<[String]>, Vec<u32>);

/// The classes, and each row's. Where all labels are whole numbers they are indices, otherwise names.
fn classes(rows: &[Row]) -> Result<Classes, (u64, String)> {
    let is_number = |row: &Row| row.label.bytes().all(|byte| byte.is_ascii_digit());
    if rows.iter().all(is_number) {
        let mut labels = Vec::with_capacity(rows.len());
        for row in rows {
            match row.label.parse::<u32>() {
                Ok(label) if label < MAX_CLASSES => labels.push(label),
                _ => return Err((row.line, format!("label {} must be below {MAX_CLASSES}", row.label))),
            }
        }
        let most = labels.iter().max().copied().unwrap_or(0);
        return Ok(((0..=most).map(|class| class.to_string()).collect(), labels));
    }
    let names: BTreeSet<&str> = rows.iter().map(|row| row.label.as_str()).collect();
    let indices: BTreeMap<&str, u32> = names.iter().copied().zip(0..).collect();
    let labels = rows.iter().map(|row| indices[row.label.as_str()]).collect();
    Ok((names.into_iter().map(str::to_owned).collect(), labels))
}

//! Runs as files of other programs. Nothing here knows the database.

pub mod mlflow;
pub mod parquet;
pub mod tensorboard;

use crate::error::{Error, Result};
use crate::registry::run::Point;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The values of one run, by metric, then by step.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The run's id.
    pub run: String,
    /// What people call it.
    pub run_name: String,
    /// Its values.
    pub points: Vec<Point>,
}

/// `run,run_name,metric,step,value` with a header; values have the digits that tell them from any other, and `NaN`, `inf`
/// and `-inf` as pandas reads them.
///
/// # Errors
/// Where `into` cannot be written.
pub fn write_csv(series: &[Series], into: impl Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(into);
    writer.write_record(["run", "run_name", "metric", "step", "value"])?;
    for (series, point) in rows(series) {
        let (step, value) = (point.step.to_string(), format!("{:?}", point.value));
        writer.write_record([&series.run, &series.run_name, &point.metric, &step, &value])?;
    }
    writer.flush()
}

/// A line a value: `{run, run_name, metric, step, value, not_finite}`; where a value is not finite it is `null`, and
/// `not_finite` says what it is: `NaN`, `inf` or `-inf`.
///
/// # Errors
/// Where `into` cannot be written.
pub fn write_json_lines(series: &[Series], mut into: impl Write) -> io::Result<()> {
    for (series, point) in rows(series) {
        let not_finite = (!point.value.is_finite()).then(|| format!("{:?}", point.value));
        let line = json!({
            "run": series.run, "run_name": series.run_name, "metric": point.metric, "step": point.step,
            "value": point.value, "not_finite": not_finite,
        });
        writeln!(into, "{line}")?;
    }
    Ok(())
}

fn rows(series: &[Series]) -> impl Iterator<Item = (&Series, &Point)> {
    series.iter().flat_map(|series| series.points.iter().map(move |point| (series, point)))
}

/// Makes a new file, whole or not at all.
///
/// # Errors
/// Where there is one already, or where the disk fails.
pub fn new_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::input(format!("{} exists already; name another file", path.display())));
    }
    let name = path.file_name().ok_or_else(|| Error::input(format!("{} is no file's name", path.display())))?;
    let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let attempt = || -> io::Result<()> {
        let mut file = io::BufWriter::new(File::options().write(true).create_new(true).open(&temporary)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|error| {
        // The reason is the error to report, not a second failure to tidy up.
        let _ = fs::remove_file(&temporary);
        Error::failed(format!("cannot write {}: {error}", path.display()))
    })
}

/// Makes a new folder, whole or not at all.
///
/// # Errors
/// Where there is something of that name already, where the disk fails, and those of `fill`, which gets the folder.
pub fn new_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::input(format!("{} exists already; name another folder", path.display())));
    }
    let name = path.file_name().ok_or_else(|| Error::input(format!("{} is no folder's name", path.display())))?;
    let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let failed = |error: io::Error| Error::failed(format!("cannot create {}: {error}", path.display()));
    let filled = fs::create_dir(&temporary)
        .map_err(failed)
        .and_then(|()| fill(&temporary))
        .and_then(|()| fs::rename(&temporary, path).map_err(failed));
    filled.inspect_err(|_| {
        // The reason is the error to report, not a second failure to tidy up.
        let _ = fs::remove_dir_all(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn series() -> Vec<Series> {
        let values = [0.1 + 0.2, f64::NAN, -0.0, f64::INFINITY];
        let point = |(step, value): (u64, f64)| Point { metric: "val.loss".to_owned(), step, value };
        let points = (0..).zip(values).map(point).collect();
        vec![Series { run: "0193".to_owned(), run_name: "a, \"b\"".to_owned(), points }]
    }

    #[test]
    fn no_bit_is_lost_in_text() {
        let mut csv = Vec::new();
        write_csv(&series(), &mut csv).expect("into memory");
        let expected = "run,run_name,metric,step,value\n\
            0193,\"a, \"\"b\"\"\",val.loss,0,0.30000000000000004\n0193,\"a, \"\"b\"\"\",val.loss,1,NaN\n\
            0193,\"a, \"\"b\"\"\",val.loss,2,-0.0\n0193,\"a, \"\"b\"\"\",val.loss,3,inf\n";
        assert_eq!(String::from_utf8_lossy(&csv), expected);
        let mut lines = Vec::new();
        write_json_lines(&series(), &mut lines).expect("into memory");
        let lines = String::from_utf8(lines).expect("UTF-8");
        let lines: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((&lines[0]["value"], &lines[0]["not_finite"]), (&json!(0.1 + 0.2), &json!(null)));
        assert_eq!((&lines[1]["value"], &lines[1]["not_finite"]), (&json!(null), &json!("NaN")));
        assert_eq!(lines[2]["value"].to_string(), "-0.0");
        assert_eq!(lines[3]["not_finite"], "inf");
    }
}

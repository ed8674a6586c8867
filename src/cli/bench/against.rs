//! `bench compare`, and `--against` of the others: results beside those of other frameworks.

use super::measure::median;
use super::result::{hundredths, round};
use crate::cli::Context;
use crate::cli::table::{Align, Table};
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench compare benches/results/ours.jsonl --against benches/results/peers.jsonl
  resnet-zoo bench compare ours.jsonl --against torch.jsonl --against onnxruntime.jsonl --json

A file has one JSON line a result, with or without `RESULT ` before it; other lines are passed over. Results are of
the same work where `bench`, `model`, `batch`, `size`, `frames`, the precision and a frozen backbone agree; what a
line does not say is the model's own size, and the precision stands in the variant (bf16_nhwc). Of several lines of
one variant the median counts, and of several variants the fastest one.
JSON: one line a work, {bench: \"ratio\", of, model, batch, size, frames, precision, variant, img_s, rss_mib, peer,
ratio, rss_ratio, others}, with `peer` {variant, img_s, rss_mib}; peer and ratios are null where nobody did the same.";

/// Bytes of a file with results.
const LONGEST: u64 = 1 << 26;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Files with results of this program
    #[arg(required = true, value_name = "OURS")]
    ours: Vec<PathBuf>,
    #[command(flatten)]
    against: Against,
}

/// Files with results of others.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Against {
    /// A file with results of other frameworks; their fastest variant gives the ratio
    #[arg(long = "against", value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    if arguments.against.files.is_empty() {
        return Err(Error::input("pass --against FILE with the results to compare with"));
    }
    let peers = arguments.against.read()?;
    let ours = fastest(&read_all(&arguments.ours)?);
    let ratios: Vec<Ratio> = ours.iter().map(|ours| Ratio::new(ours, peers.fastest_of(&ours.work))).collect();
    if ratios.iter().all(|ratio| ratio.peer.is_none()) {
        return Err(Error::input(format!(
            "the files have no work in common: {} is in the first, {} in the second",
            ours[0].work.words(),
            peers.results[0].work.words()
        )));
    }
    print(&ratios, context)
}

/// Prints ratios as JSON lines or as a table.
fn print(ratios: &[Ratio<'_>], context: &mut Context) -> Result<()> {
    if context.json {
        return ratios.iter().try_for_each(|ratio| context.terminal.print_json_line(ratio));
    }
    let columns = [
        ("work", Align::Left),
        ("ours", Align::Left),
        ("images/s", Align::Right),
        ("fastest other", Align::Left),
        ("images/s", Align::Right),
        ("ratio", Align::Right),
        ("memory", Align::Right),
        ("others", Align::Right),
    ];
    let mut table = Table::new(&columns, &context.terminal);
    ratios.iter().for_each(|ratio| table.row(ratio.cells()));
    context.terminal.print(&table.render())
}

/// What others measured.
pub(super) struct Peers {
    files: Vec<PathBuf>,
    /// The median of each work and variant.
    results: Vec<Measured>,
}

impl Against {
    /// Reads the files.
    ///
    /// # Errors
    /// Where one cannot be read, or has no result.
    pub fn read(&self) -> Result<Peers> {
        Ok(Peers { files: self.files.clone(), results: medians(&read_all(&self.files)?) })
    }
}

impl Peers {
    /// Refuses to measure `work` where nobody else did.
    ///
    /// # Errors
    /// Where files were given and none has such a result.
    pub fn check(&self, work: &Work) -> Result<()> {
        if self.files.is_empty() || self.fastest_of(work).is_some() {
            return Ok(());
        }
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        let known: Vec<String> = self.results.iter().map(|result| result.work.words()).collect();
        Err(Error::input(format!(
            "{} has no result of {}, but of {}",
            files.join(", "),
            work.words(),
            known.join("; ")
        )))
    }

    /// Prints how a result compares, where files were given.
    pub fn compare(&self, result: &impl Serialize, context: &mut Context) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        let value = serde_json::to_value(result).expect("a result has only strings for keys");
        let ours = Measured::of(&value).expect("our own results are complete");
        print(&[Ratio::new(&ours, self.fastest_of(&ours.work))], context)
    }

    fn fastest_of(&self, work: &Work) -> Option<&Measured> {
        let same = self.results.iter().filter(|result| result.work == *work);
        same.max_by(|a, b| a.img_s.total_cmp(&b.img_s))
    }
}

/// What two results have in common where they can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Work {
    /// `train`, `infer` or `startup`.
    pub of: String,
    pub model: String,
    pub batch: u64,
    pub size: u64,
    /// Of clips.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    pub precision: String,
    /// Whether the backbone is frozen.
    #[serde(skip)]
    pub head: bool,
}

impl Work {
    fn words(&self) -> String {
        let Work { of, model, batch, size, frames, precision, head } = self;
        let of = if *head { "head" } else { of };
        let frames = frames.map_or_else(String::new, |frames| format!("{frames} x "));
        format!("{of} {model} {batch} x {frames}{size} x {size} {precision}")
    }
}

/// A result, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    #[serde(skip)]
    work: Work,
    variant: String,
    #[serde(serialize_with = "hundredths")]
    img_s: f64,
    rss_mib: Option<f64>,
    /// Cores that were busy with something else.
    #[serde(skip)]
    others: Option<f64>,
}

impl Measured {
    /// Reads a result under the keys of this program, or of the scripts for other frameworks; `None` of anything else.
    fn of(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str();
        let model = text("model")?;
        let card = zoo::models::find(model).map(|entry| entry.card);
        let own_size = card.and_then(|card| card.input.last()).map(|size| *size as u64);
        let own_frames = card.filter(|card| card.dims == 3).map(|card| card.input[1] as u64);
        let variant = text("variant")?;
        let precision = text("precision").unwrap_or(if variant.contains("bf16") { "bf16" } else { "f32" });
        // The script for clips says what it measures under `mode`, and seconds a clip.
        let of = text("mode").or(text("bench")).filter(|of| ["train", "infer", "startup"].contains(of))?;
        let img_s = value["img_s"].as_f64().or_else(|| value["s_per_item"].as_f64().map(f64::recip));
        Some(Measured {
            work: Work {
                of: of.to_owned(),
                model: model.to_owned(),
                batch: value["batch"].as_u64()?,
                size: value["size"].as_u64().or(own_size)?,
                frames: value["frames"].as_u64().or(own_frames),
                precision: precision.to_owned(),
                head: variant.starts_with("head"),
            },
            variant: variant.to_owned(),
            img_s: img_s.filter(|img_s| img_s.is_finite() && *img_s > 0.)?,
            rss_mib: value["rss_mib"].as_f64(),
            others: value["others"].as_f64(),
        })
    }
}

/// How much faster we are than the fastest of the others.
#[derive(Debug, Serialize)]
struct Ratio<'a> {
    bench: &'static str,
    #[serde(flatten)]
    work: &'a Work,
    #[serde(flatten)]
    ours: &'a Measured,
    peer: Option<&'a Measured>,
    /// Of images a second: above 1 we are faster.
    ratio: Option<f64>,
    /// Of the processes' greatest amounts of memory: below 1 we take less.
    rss_ratio: Option<f64>,
    /// Cores that were busy with something else, in the worse of the two measurements.
    others: Option<f64>,
}

impl<'a> Ratio<'a> {
    fn new(ours: &'a Measured, peer: Option<&'a Measured>) -> Self {
        let memory = |peer: &Measured| Some(round(ours.rss_mib? / peer.rss_mib?));
        let others = [Some(ours), peer].into_iter().flatten().filter_map(|measured| measured.others);
        Ratio {
            bench: "ratio",
            work: &ours.work,
            ours,
            peer,
            ratio: peer.map(|peer| round(ours.img_s / peer.img_s)),
            rss_ratio: peer.and_then(memory),
            others: others.max_by(f64::total_cmp),
        }
    }

    fn cells(&self) -> [String; 8] {
        let number = |value: Option<f64>, unit: &str| value.map_or("-".to_owned(), |value| format!("{value:.2}{unit}"));
        [
            self.work.words(),
            self.ours.variant.clone(),
            number(Some(self.ours.img_s), ""),
            self.peer.map_or_else(|| "-".to_owned(), |peer| peer.variant.clone()),
            number(self.peer.map(|peer| peer.img_s), ""),
            number(self.ratio, "x"),
            number(self.rss_ratio, "x"),
            number(self.others, ""),
        ]
    }
}

/// Of each work its fastest variant.
fn fastest(results: &[Measured]) -> Vec<Measured> {
    let mut fastest: Vec<Measured> = Vec::new();
    for result in medians(results) {
        match fastest.iter_mut().find(|other| other.work == result.work) {
            Some(other) if other.img_s < result.img_s => *other = result,
            Some(_) => {}
            None => fastest.push(result),
        }
    }
    fastest
}

/// Of each work and variant the median of several lines, in the order of their first ones.
fn medians(results: &[Measured]) -> Vec<Measured> {
    let mut medians: Vec<Measured> = Vec::new();
    for result in results {
        let same = |other: &Measured| other.work == result.work && other.variant == result.variant;
        if medians.iter().any(same) {
            continue;
        }
        let all = || results.iter().filter(|other| same(other));
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (!values.is_empty()).then(|| median(&values))
        };
        medians.push(Measured {
            img_s: middle(all().map(|other| other.img_s).collect()).expect("it counts itself"),
            rss_mib: middle(all().filter_map(|other| other.rss_mib).collect()),
            others: middle(all().filter_map(|other| other.others).collect()),
            ..result.clone()
        });
    }
    medians
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Measured>> {
    Ok(files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?.concat())
}

/// The results in a file, at least one.
fn read(file: &Path) -> Result<Vec<Measured>> {
    let unreadable = |why: &dyn Display| Error::input(format!("cannot read {}: {why}", file.display()));
    let length = fs::metadata(file).map_err(|error| unreadable(&error))?.len();
    if length > LONGEST {
        return Err(unreadable(&format!("it has {length} bytes, more than {LONGEST}")));
    }
    let text = fs::read_to_string(file).map_err(|error| unreadable(&error))?;
    let mut results = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.strip_prefix("RESULT ").unwrap_or(line);
        if !line.starts_with('{') {
            continue;
        }
        let value = serde_json::from_str(line)
            .map_err(|error| Error::input(format!("{}:{}: not a JSON line: {error}", file.display(), number + 1)))?;
        results.extend(Measured::of(&value));
    }
    if results.is_empty() {
        return Err(Error::input(format!(
            "{} has no result: a line is {{\"bench\": \"train\", \"model\": .., \"variant\": .., \"batch\": .., \"img_s\": ..}}",
            file.display()
        )));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn measured(value: Value) -> Measured {
        Measured::of(&value).expect("a result")
    }

    #[test]
    fn lines_of_other_frameworks_say_what_they_are_of() {
        let image = json!({"bench": "infer", "model": "resnet34", "variant": "bf16_nhwc", "batch": 16, "img_s": 70.12});
        assert_eq!(measured(image).work.words(), "infer resnet34 16 x 224 x 224 bf16");
        let clip = json!({"bench": "video_det", "model": "r3d_18", "mode": "train", "variant": "eager", "batch": 2, "s_per_item": 0.5});
        let clip = measured(clip);
        assert_eq!((clip.work.words().as_str(), clip.img_s), ("train r3d_18 2 x 16 x 112 x 112 f32", 2.));
        let head = json!({"bench": "train", "model": "resnet34", "variant": "head_eager_nchw", "batch": 32, "size": 224, "img_s": 68.6});
        assert_eq!(measured(head).work.words(), "head resnet34 32 x 224 x 224 f32");
        for other in [
            json!({"bench": "data", "what": "PIL", "img_s": 3.}),
            json!({"case": ["resnet34"], "error": "timeout"}),
            json!({"bench": "train", "model": "resnet34", "variant": "eager", "batch": 1, "img_s": 0.}),
            json!({"bench": "train", "model": "unknown", "variant": "eager", "batch": 1, "img_s": 1.}),
        ] {
            assert_eq!(Measured::of(&other), None, "{other}");
        }
    }

    #[test]
    fn the_fastest_variant_counts_by_its_median() {
        let line = |variant: &str, img_s: f64, rss_mib: f64| {
            let value = json!({
                "bench": "train", "model": "resnet18", "variant": variant, "batch": 1, "img_s": img_s, "rss_mib": rss_mib,
            });
            measured(value)
        };
        let results =
            [line("a", 1., 10.), line("b", 4., 10.), line("a", 9., 30.), line("b", 4., 10.), line("a", 3., 20.)];
        let results = medians(&results);
        let summary: Vec<_> = results.iter().map(|r| (r.variant.as_str(), r.img_s, r.rss_mib)).collect();
        assert_eq!(summary, [("a", 3., Some(20.)), ("b", 4., Some(10.))]);
        let peers = Peers { files: Vec::new(), results };
        let ours = line("train", 6., 5.);
        let ratio = Ratio::new(&ours, peers.fastest_of(&ours.work));
        assert_eq!((ratio.ratio, ratio.rss_ratio), (Some(1.5), Some(0.5)));
    }
}

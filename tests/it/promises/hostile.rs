//! Files that somebody damaged, or made to do damage, given to the program in an address space that holds no bomb.

use super::{DATA, Toy, count, draws, figure};
use crate::it::cli::{binary, json, stderr, stdout};
use crate::it::registry::{registry_of, sqlite_file};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use zoo::random::Stream;

/// KiB of address space: program, threads and libraries take half of it without any input.
const ADDRESS_SPACE: u64 = 1 << 20;

/// A good file, and the command that reads it.
struct Reader {
    file: &'static str,
    good: Vec<u8>,
    /// Other files that it speaks of.
    beside: Vec<(String, Vec<u8>)>,
    arguments: Arguments,
}

/// Of the program, when it shall read that file.
type Arguments = Box<dyn Fn(&Path) -> Vec<String> + Sync>;

/// T8: whatever is in a file, the program says what is wrong with it, or does what it says.
#[test]
fn damaged_files_get_an_answer() {
    let toy = Toy::new();
    let registry = toy.registry("registry");
    stdout(&toy.run(&registry, "frozen").args(["--set", "steps=2"]).output().expect("started"));
    let readers = readers(&toy, &registry);
    for reader in &readers {
        let (code, message) = give(&toy, &registry, reader, "good", &reader.good);
        assert_eq!(code, 0, "{}: {message}", reader.file);
    }
    let each = count(12, 1000);
    let cases = readers.par_iter().flat_map(|reader| (0..each).into_par_iter().map(move |number| (reader, number)));
    let codes = cases.map(|(reader, number)| {
        let name = format!("{number}");
        let bytes = damaged(&reader.good, &mut draws(&format!("{} {number}", reader.file)));
        let (code, message) = give(&toy, &registry, reader, &name, &bytes);
        let what = format!("{} {number}: exit code {code}: {message}", reader.file);
        assert!(!message.contains("panicked"), "{what}");
        // 1: a run whose loss is no number, of weights that are none. 74: a registry that cannot be read.
        assert!(matches!(code, 0..=2 | 74), "{what}");
        assert!(code == 0 || message.contains("error: "), "{what}");
        BTreeMap::from([(code, 1u64)])
    });
    let codes = codes.reduce(BTreeMap::new, |mut all, one| {
        one.into_iter().for_each(|(code, count)| *all.entry(code).or_default() += count);
        all
    });
    assert!(codes[&2] > codes.values().sum::<u64>() / 4, "most damage is noticed: {codes:?}");
    let counts: Vec<String> = codes.iter().map(|(code, count)| format!("{count} with {code}")).collect();
    let kinds = readers.len();
    let figures = format!(
        "{} files of {kinds} kinds in 1 GiB of addresses, exit codes: {}; 0 panics",
        kinds * each,
        counts.join(", ")
    );
    figure("T8", "damaged and hostile files", &figures);
}

/// The exit code, and what was said on standard error. Death by a signal, as of an allocation too large, is a failure.
fn give(toy: &Toy, registry: &Path, reader: &Reader, name: &str, bytes: &[u8]) -> (i32, String) {
    let folder = toy.registry(&format!("{}_{name}", reader.file));
    fs::create_dir(&folder).expect("created");
    let file = folder.join(reader.file);
    fs::write(&file, bytes).expect("written");
    reader.beside.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).expect("written"));
    let program = binary();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE}; exec \"$@\""), "sh"]).arg(program.get_program());
    let arguments = (reader.arguments)(&file);
    if !arguments.iter().any(|argument| argument == "--registry") {
        command.args(registry_of(registry));
    }
    command.args(arguments);
    for (key, value) in program.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    let output = command.output().expect("started");
    assert_eq!(output.status.signal(), None, "{} {name}: {}", reader.file, stderr(&output));
    fs::remove_dir_all(&folder).expect("removed");
    (output.status.code().expect("no signal"), stderr(&output))
}

fn readers(toy: &Toy, registry: &Path) -> Vec<Reader> {
    let reader = |file, good, arguments| Reader { file, good, beside: Vec::new(), arguments };
    let of_file = |before: &'static [&'static str]| -> Arguments {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        Box::new(move |path| before.iter().map(|text| (*text).to_owned()).chain([text(path)]).collect())
    };
    // A step of an experiment that reads the file.
    let of_run = |experiment: &Path, key: &'static str| -> Arguments {
        let experiment = experiment.to_str().expect("UTF-8").to_owned();
        Box::new(move |path| {
            let value = format!("{key}={}", path.display());
            ["run", &experiment, "--set", &value, "--set", "steps=1", "--name", "reader"].map(str::to_owned).to_vec()
        })
    };
    let spec = zoo::models::find("resnet50").expect("in the zoo").card.sources[0].1;
    let experiment = toy.experiment("mixed");
    let run = json(registry, &["runs", "show", "frozen"]);
    let weights = run["checkpoints"][0]["weights_sha256"].as_str().expect("a hash");
    let weights = fs::read(registry.join("blobs").join(&weights[..2]).join(weights)).expect("read");
    let bundle = toy.registry("good.zip");
    let mut export = super::command(registry);
    stdout(&export.args(["export", "frozen", "--bundle"]).arg(&bundle).output().expect("started"));
    let (tracked, closed) = (toy.registry("good.db"), toy.registry("closed"));
    let mut export = super::command(registry);
    stdout(&export.args(["export", "frozen", "--mlflow"]).arg(&tracked).output().expect("started"));
    stdout(&toy.run(&closed, "frozen").args(["--set", "steps=2"]).output().expect("started"));
    let database = fs::read(sqlite_file(&closed)).expect("read");
    let sweep = format!("name: swept\nexperiment: {}\nparameters: {{seed: [1, 2]}}\n", experiment.display());
    let plain = toy.experiment("plain");
    fs::write(&plain, format!("name: plain\n{DATA}optimizer: {{sgd: {{lr: 0.1}}}}\n")).expect("written");
    let listed = toy.experiment("listed");
    let text = DATA.replace("embedded: {train: 24, val: 16}", "csv: {path: unset.csv}");
    fs::write(&listed, format!("name: listed\n{text}optimizer: {{sgd: {{lr: 0.1}}}}\n")).expect("written");
    let pictures = (0..8).map(|number| (format!("{number}.png"), picture(ImageFormat::Png, number)));
    let list: String = (0..8).map(|at| format!("{at}.png,class{},{}\n", at % 2, ["train", "val"][at / 4])).collect();
    vec![
        reader("spec.yaml", spec.as_bytes().to_vec(), of_file(&["show"])),
        reader("experiment.yaml", fs::read(&experiment).expect("read"), of_file(&["check"])),
        reader("image.png", picture(ImageFormat::Png, 0), of_file(&["predict", "frozen"])),
        reader("image.jpg", picture(ImageFormat::Jpeg, 0), of_file(&["predict", "frozen"])),
        reader("image.webp", picture(ImageFormat::WebP, 0), of_file(&["predict", "frozen"])),
        reader("image.gif", picture(ImageFormat::Gif, 0), of_file(&["predict", "frozen"])),
        reader("sweep.yaml", sweep.into_bytes(), of_file(&["check"])),
        reader("tracked.db", fs::read(&tracked).expect("read"), of_file(&["import", "--mlflow"])),
        reader("registry.sqlite3", database, of_file(&["runs", "show", "frozen", "--json", "--registry"])),
        reader("bundle.zip", fs::read(&bundle).expect("read"), of_file(&["import"])),
        reader("weights.safetensors", weights, of_run(&plain, "weights.file")),
        Reader {
            beside: pictures.collect(),
            ..reader(
                "list.csv",
                format!("path,label,split\n{list}").into_bytes(),
                of_run(&listed, "data.source.csv.path"),
            )
        },
    ]
}

fn picture(format: ImageFormat, number: u32) -> Vec<u8> {
    let image =
        RgbImage::from_fn(40, 30, |x, y| image::Rgb([x * 5 + number, y * 7, (x + y) * 3].map(|value| value as u8)));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("written");
    bytes.into_inner()
}

/// The bytes after one to three accidents or attacks.
fn damaged(good: &[u8], draws: &mut Stream) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=draws.below(3) {
        // Where formats have their lengths more often than elsewhere.
        let reach = if draws.below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
        let at = draws.below(reach as u64 + 1) as usize;
        let rest = bytes.len() - at;
        let some = draws.below(rest as u64 + 1) as usize;
        match draws.below(8) {
            0 if rest > 0 => bytes[at] ^= 1 << draws.below(8),
            1 => bytes.truncate(at),
            2 => bytes[at..at + rest.min(8)].fill(0xff),
            3 => drop(bytes.drain(at..at + some)),
            4 => bytes.extend_from_within(at..at + some),
            5 => drop(bytes.splice(at..at, vec![b'['; 20_000])),
            6 => drop(bytes.splice(at..at, b"99999999999999999999".iter().copied())),
            _ => drop(bytes.splice(at..at + rest.min(4), (0..4).map(|_| draws.below(256) as u8).collect::<Vec<_>>())),
        }
    }
    bytes
}

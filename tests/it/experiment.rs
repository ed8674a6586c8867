//! Experiments: what they resolve to, and the exact text of each mistake.

use resnet_zoo::data::options::{ResizeTo, Source, TransformSpec};
use resnet_zoo::error::Error;
use resnet_zoo::experiment::*;
use std::path::{Path, PathBuf};

const GOLDEN: &str = "tests/golden/experiments";

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a temporary file");
    path
}

fn resolve(text: &str, overrides: &[&str]) -> Loaded {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    load(&write(&folder, "x.yaml", text), &overrides).unwrap_or_else(|error| panic!("{error}"))
}

const MINIMAL: &str = "name: x\nmodel: resnet18\ndata: {source: embedded}\noptimizer: adamw\nepochs: 2\n";

/// Each wrong experiment has its message beside it. `UPDATE_GOLDEN=1 cargo test` writes them anew.
#[test]
fn mistakes_read_as_they_should() {
    let mut checked = 0;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(GOLDEN).expect("the golden files").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")) {
        if path.ends_with("valid.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("readable");
        let overrides: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("# --set ")).map(str::to_owned).collect();
        let error = load(path, &overrides).expect_err(&format!("{} is wrong", path.display()));
        assert!(matches!(error, Error::Input(_)), "{error:?}");
        let expected = path.with_extension("txt");
        let found = format!("{error}\n");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &found).expect("writable");
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
        checked += 1;
    }
    assert!(checked >= 30, "only {checked} mistakes are under test");
}

#[test]
fn a_file_that_is_no_experiment_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases = [
        (folder.path().join("nothing.yaml"), "No such file or directory"),
        (folder.path().to_path_buf(), "it is not a file"),
        (write(&folder, "large.yaml", &"#".repeat(70_000)), "it is longer than 65536 bytes"),
    ];
    for (path, why) in cases {
        let message = load(&path, &[]).expect_err("no experiment").to_string();
        assert!(message.starts_with(&format!("cannot read the experiment {}: {why}", path.display())), "{message}");
    }
    let path = folder.path().join("latin1.yaml");
    std::fs::write(&path, b"name: caf\xe9\n").expect("a temporary file");
    let message = load(&path, &[]).expect_err("not text").to_string();
    assert!(message.ends_with("byte 9 is not UTF-8 text"), "{message}");
}

#[test]
fn defaults_are_filled_in() {
    let experiment = resolve(MINIMAL, &[]).experiment;
    assert_eq!((experiment.seed, experiment.input, experiment.batch_size, experiment.accumulate), (0, 224, 32, 1));
    assert_eq!(experiment.data.source, Source::EMBEDDED);
    assert_eq!(experiment.weights, WeightsOptions::Scratch);
    assert_eq!(experiment.optimizer.lr(), 1e-3);
    assert_eq!(experiment.schedule.shape, ScheduleShape::Cosine { min_lr: 0. });
    assert_eq!(experiment.checkpoint.best.metric, "val.top1");
    let [TransformSpec::Resize { size: ResizeTo::Shorter(resize), .. }, _, TransformSpec::Normalize { mean, .. }] =
        experiment.augment.eval.as_slice()
    else {
        panic!("{:?}", experiment.augment.eval)
    };
    assert!(*resize >= 224);
    assert_eq!(mean, &[0.485, 0.456, 0.406]);
    let averaged = resolve(&format!("{MINIMAL}ema: {{}}\n"), &[]).experiment;
    assert_eq!(averaged.checkpoint.best.metric, "val_ema.top1");
}

#[test]
fn the_input_size_reaches_the_transforms() {
    let text = format!("{MINIMAL}input: 64\naugment: {{train: [random_crop: {{padding: 4}}, normalize]}}\n");
    let experiment = resolve(&text, &[]).experiment;
    assert!(matches!(experiment.augment.train[0], TransformSpec::RandomCrop { size: 64, padding: 4, .. }));
    assert!(matches!(experiment.augment.eval[1], TransformSpec::CenterCrop { size: 64 }));
}

#[test]
fn a_resolved_experiment_survives_its_text() {
    let text = format!(
        "{MINIMAL}label_smoothing: 0.1234567890123456789\nclip_norm: 3.3333333333333335\ndescription: \"yes: no\\n~ é\"\n\
         augment: {{train: [normalize: {{mean: 0.1, std: [0.229, 0.3, 0.7]}}, random_erasing: {{value: 0.3}}]}}\n\
         weights: {{file: a b.pth, allow: {{inflate: repeat, unused: [\"x.*\"]}}}}\nema: {{decay: 0.99}}\n\
         freeze: {{stages: 1, batch_norm: update}}\nearly_stopping: {{patience: 3}}\n\
         schedule: {{plateau: {{factor: 0.7}}, warmup: {{steps: 3}}}}\n"
    );
    let experiment = resolve(&text, &[]).experiment;
    let canonical = experiment.canonical();
    assert_eq!(Experiment::from_canonical(&canonical).expect("what was written a line above"), experiment);
    assert!(canonical.contains("[0.229,0.3,0.7]") && canonical.contains("\"eps\":1e-8,\"lr\":0.001"), "{canonical}");
    let keys: Vec<&str> = ["\"accumulate\"", "\"augment\"", "\"batch_size\"", "\"seed\"", "\"weights\""].to_vec();
    assert!(keys.iter().map(|key| canonical.find(key)).is_sorted(), "{canonical}");
    let older = canonical.replace("\"seed\":0,", "\"seed\":0,\"sead\":1,");
    let message = Experiment::from_canonical(&older).expect_err("another key").to_string();
    assert!(message.starts_with("the stored experiment cannot be read by this version"), "{message}");
}

#[test]
fn the_hash_is_of_what_counts() {
    let sha256 = |text: &str, overrides: &[&str]| resolve(text, overrides).experiment.sha256();
    let same = sha256(MINIMAL, &[]);
    assert_eq!(same.len(), 64);
    assert_eq!(sha256(&format!("# a comment\n{MINIMAL}label_smoothing: 0\n"), &[]), same);
    assert_eq!(sha256(MINIMAL, &["optimizer.adamw.lr=0.001"]), same);
    assert_ne!(sha256(MINIMAL, &["optimizer.adamw.lr=0.002"]), same);
    assert_ne!(sha256(MINIMAL, &["seed=1"]), same);
}

#[test]
fn files_and_overrides_are_laid_over_each_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = "optimizer: {adamw: {lr: 0.002, eps: 1e-7}}\nschedule: {cosine: {min_lr: 1e-5}, warmup: {epochs: 1}}\n";
    write(&folder, "base.yaml", &format!("{}{text}", MINIMAL.replace("optimizer: adamw\n", "")));
    write(&folder, "middle.yaml", "extends: base.yaml\nlabel_smoothing: 0.1\noptimizer: {adamw: {lr: 0.004}}\n");
    let top = write(&folder, "top.yaml", "extends: middle.yaml\nname: top\nlabel_smoothing: ~\nsteps: 50\n");
    let loaded = load(&top, &["schedule.step.every.steps=7".to_owned(), "schedule.step.gamma=0.5".to_owned()]);
    let Loaded { experiment, sources, provenance } = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(experiment.name, "top");
    assert_eq!(experiment.label_smoothing, 0., "`~` goes back to the default");
    assert_eq!(experiment.length, Length::Steps(50), "`steps` replaces `epochs`");
    let OptimizerOptions::AdamW(options) = &experiment.optimizer else { panic!("AdamW") };
    assert_eq!((options.lr, options.eps), (0.004, 1e-7));
    assert_eq!(experiment.schedule.shape, ScheduleShape::Step { every: Length::Steps(7), gamma: 0.5 });
    assert_eq!(experiment.schedule.warmup.expect("kept").length, Length::Epochs(1));

    let who = |path: &str| Path::new(&provenance[path]).file_name().expect("a name").to_str().expect("text");
    assert_eq!(who("optimizer.adamw.lr"), "middle.yaml");
    assert_eq!(who("optimizer.adamw.eps"), "base.yaml");
    assert_eq!(who("optimizer.adamw.weight_decay"), "default");
    assert_eq!(who("label_smoothing"), "default");
    assert_eq!(who("steps"), "top.yaml");
    assert_eq!(who("schedule.step.gamma"), "--set");
    assert_eq!(who("schedule.warmup.epochs"), "base.yaml");
    assert_eq!(sources.iter().count(), 5);
}

#[test]
fn another_kind_replaces_the_first() {
    let sgd = resolve(MINIMAL, &["optimizer.sgd.lr=0.1", "optimizer.sgd.momentum=0.9"]).experiment;
    assert!(matches!(&sgd.optimizer, OptimizerOptions::Sgd(options) if options.lr == 0.1 && options.momentum == 0.9));
    let clips = resolve(MINIMAL, &["model=r3d_18", "data.source={moving_garments: {frames: 8}}"]).experiment;
    assert!(matches!(clips.data.source, Source::MovingGarments { frames: 8, train: 2000, .. }));
    let warm = resolve(&format!("{MINIMAL}schedule: cosine\n"), &["schedule.warmup.steps=9"]).experiment;
    assert_eq!(warm.schedule.shape, ScheduleShape::Cosine { min_lr: 0. });
    assert_eq!(warm.schedule.warmup.expect("set").length, Length::Steps(9));
    let tag = format!("{MINIMAL}weights: {{tag: a1_in1k, if_unavailable: scratch}}\n");
    let file = resolve(&tag, &["weights.file=a.pth"]).experiment;
    assert!(matches!(file.weights, WeightsOptions::File { .. }));
}

/// The reference names every key: in what it resolves to nothing comes from a default.
#[test]
fn the_reference_is_complete() {
    let reference = include_str!("../../experiments/README.md");
    let (_, rest) = reference.split_once("```yaml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let loaded = resolve(example, &[]);
    let defaults: Vec<&String> =
        loaded.provenance.iter().filter(|(_, who)| *who == "default").map(|(path, _)| path).collect();
    assert_eq!(defaults, ["weights.allow.inflate"], "which is off by default");
    let Experiment { ema, freeze, clip_norm, early_stopping, .. } = loaded.experiment;
    assert!(ema.is_some() && freeze.is_some() && clip_norm.is_some() && early_stopping.is_some());
}

/// The files that come with the program.
#[test]
fn the_sweeps_are_valid() {
    let mut found = 0;
    for entry in std::fs::read_dir("sweeps").expect("the folder") {
        let path = entry.expect("an entry").path();
        let planned = resnet_zoo::sweep::plan(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(Some(planned.sweep.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        found += 1;
    }
    assert!(found > 0, "there are sweeps");
}

#[test]
fn the_experiments_are_valid() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("experiments").expect("the folder") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let experiment = load(&path, &[]).unwrap_or_else(|error| panic!("{error}")).experiment;
        assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(experiment.name.as_str()));
        names.push(experiment.name);
    }
    for name in ["resnet34_ls", "resnet34_no_ls", "resnet18_frozen", "resnet18_folder", "r3d_18_moving"] {
        assert!(names.iter().any(|known| known == name), "{name} is missing");
    }
}

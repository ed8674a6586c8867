//! `publish`: a run's weights in the layout of the Hugging Face Hub.

use super::{Context, human, models};
use crate::data::TransformSpec;
use crate::data::options::ResizeTo;
use crate::error::{Error, Result};
use crate::experiment::{AugmentOptions, Experiment};
use crate::registry::formats::{new_file, new_folder};
use crate::registry::run::RunDetail;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use zoo::ModelCard;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo publish resnet34_ls --to-folder resnet34_ls
  resnet-zoo predict resnet34 --weights resnet34_ls/model.safetensors photo.png
  python -c \"import timm; timm.create_model('local-dir:resnet34_ls', pretrained=True)\"
  resnet-zoo publish resnet34_ls --to-hub USER/resnet34_ls --private

Both get model.safetensors (the best checkpoint), config.json as timm writes it, and README.md, a model card with the
recipe and the metrics: read it before you publish it. --to-hub needs a token that may write, in HF_TOKEN or as
`hf auth login` leaves it, and makes the repository where there is none. Weights that the Hub has are not sent again.
JSON: {run, folder, step, sha256}, or {run, repository, url, commit, created, private, sent, step, sha256}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Id, short id or name of a run with a checkpoint
    run: String,
    /// A new folder
    #[arg(long, value_name = "FOLDER", required_unless_present = "to_hub")]
    to_folder: Option<PathBuf>,
    /// A repository of the Hugging Face Hub
    #[arg(long, value_name = "OWNER/NAME", conflicts_with = "to_folder")]
    to_hub: Option<String>,
    /// Make the repository so that nobody else sees it; a public one is refused
    #[arg(long, requires = "to_hub", conflicts_with = "to_folder")]
    private: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.run)?;
    let run = reader.detail(listing)?;
    let experiment = Experiment::from_canonical(&run.canonical)?;
    let card = models::find(&run.listing.model)?.card;
    let best = run.best_checkpoint()?;
    let weights = context.location.blobs().get(&best.weights_sha256)?;
    let published = Published { run: &run, experiment: &experiment, card };
    let config = serde_json::to_string_pretty(&published.config())
        .map_err(|error| Error::failed(format!("cannot write config.json: {error}")))?;
    let files: [(&str, &[u8]); 3] = [
        ("model.safetensors", &weights),
        ("config.json", &format!("{config}\n").into_bytes()),
        ("README.md", &published.readme(best.step).into_bytes()),
    ];
    let (name, size, step) = (&run.listing.name, human::bytes(weights.len() as u64), best.step);
    let (said, facts) = match (&arguments.to_folder, &arguments.to_hub) {
        (Some(folder), _) => {
            new_folder(folder, |folder| {
                files
                    .iter()
                    .try_for_each(|(name, content)| new_file(&folder.join(name), |file| file.write_all(content)))
            })?;
            (format!("{} with {size} of weights", folder.display()), json!({"folder": folder}))
        }
        (None, repository) => {
            let repository = repository.as_deref().expect("one of both is required");
            let message = format!("Add {name}, step {}", step + 1);
            let facts = to_hub(repository, arguments.private, &message, &files)?;
            let weights =
                if facts["sent"] == 0 { format!("its {size} of weights were there") } else { format!("{size} sent") };
            let text = |key: &str| facts[key].as_str().unwrap_or_default();
            (format!("{}, commit {}; {weights}", text("url"), text("commit")), facts)
        }
    };
    if context.json {
        let mut object = json!({"run": run.listing.id, "step": step, "sha256": best.weights_sha256});
        object.as_object_mut().expect("made as one").extend(facts.as_object().cloned().unwrap_or_default());
        return context.terminal.print_json(&object);
    }
    context.terminal.print(&format!("{name}, step {}: {said}", step + 1))
}

/// Makes one commit of the files: what came of it.
#[cfg(feature = "hub")]
fn to_hub(repository: &str, private: bool, message: &str, files: &[(&str, &[u8])]) -> Result<Value> {
    use zoo::hub::{Destination, HubConfig, NewFile, Problem};
    let config =
        HubConfig::from_env().map_err(|problem| Error::input(format!("cannot publish {repository}: {problem}")))?;
    let files: Vec<NewFile<'_>> = files.iter().map(|&(path, content)| NewFile { path, content }).collect();
    let to = Destination { repository, private, message };
    match zoo::hub::publish(&to, &files, &config, &mut super::hub::Bar::default()) {
        Ok(done) => Ok(json!({
            "repository": repository, "url": done.url, "commit": done.commit, "created": done.created,
            "private": private, "sent": done.sent,
        })),
        // It names the repository.
        Err(error) if matches!(error.problem, Problem::Invalid(_)) => {
            Err(Error::input(format!("cannot publish {error}")))
        }
        Err(error) => Err(Error::failed(format!("cannot publish {error}"))),
    }
}

/// This build has no hub.
#[cfg(not(feature = "hub"))]
fn to_hub(repository: &str, _: bool, _: &str, _: &[(&str, &[u8])]) -> Result<Value> {
    Err(Error::failed(format!(
        "this build cannot publish {repository}: build with `--features hub`, or pass --to-folder FOLDER"
    )))
}

/// What a folder is made from.
struct Published<'a> {
    run: &'a RunDetail,
    experiment: &'a Experiment,
    card: &'a ModelCard,
}

/// How an image is prepared, as timm says it.
struct Preprocessing {
    crop_pct: f64,
    interpolation: Value,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Published<'_> {
    /// timm's `config.json`.
    fn config(&self) -> Value {
        let (card, classes) = (self.card, self.run.classes.len());
        let Preprocessing { crop_pct, interpolation, mean, std } = preprocessing(&self.experiment.augment);
        let size = self.experiment.input;
        let input: Vec<usize> = card.input.iter().take(1).copied().chain(vec![size; card.dims]).collect();
        json!({
            "architecture": card.name,
            "num_classes": classes,
            "num_features": card.features.last().map(|map| map.channels),
            "label_names": self.run.classes,
            "pretrained_cfg": {
                "tag": self.run.listing.name,
                "custom_load": false,
                "input_size": input,
                "fixed_input_size": false,
                "interpolation": interpolation,
                "crop_pct": crop_pct,
                "crop_mode": "center",
                "mean": mean,
                "std": std,
                "num_classes": classes,
                "pool_size": null,
                "first_conv": card.first_conv,
                "classifier": card.classifier,
            },
        })
    }

    /// The model card: front matter that the Hub reads, then text.
    fn readme(&self, step: u64) -> String {
        let mut text = self.front_matter();
        let run = self.run;
        let line = |text: &mut String, line: String| writeln!(text, "{line}").expect("a String takes everything");
        line(&mut text, format!("\n# {}\n", plain(&run.listing.name)));
        if !self.experiment.description.is_empty() {
            line(&mut text, format!("{}\n", plain(&self.experiment.description)));
        }
        line(
            &mut text,
            format!(
                "A {} trained by resnet-zoo {}: the checkpoint of step {} of run `{}`.\n",
                self.card.name,
                run.build.version,
                step + 1,
                run.listing.id
            ),
        );
        line(&mut text, "```sh".to_owned());
        if self.is_known_to_timm() {
            line(&mut text, "python -c \"import timm; timm.create_model('local-dir:.', pretrained=True)\"".to_owned());
        }
        line(&mut text, format!("resnet-zoo predict {} --weights model.safetensors IMAGE\n```\n", self.card.name));
        line(&mut text, "| metric | best | at step | last |\n|---|---|---|---|".to_owned());
        for (name, summary) in run.listing.metrics.iter().filter(|(name, _)| !name.starts_with("optim.")) {
            let at = summary.best_step.map_or_else(|| "-".to_owned(), |step| (step + 1).to_string());
            let (best, last) = (human::metric(name, summary.best), human::metric(name, summary.last));
            line(&mut text, format!("| {} | {best} | {at} | {last} |", plain(name)));
        }
        line(&mut text, "\n## Images are prepared like this\n\n```yaml".to_owned());
        for transform in run.config["augment"]["eval"].as_array().into_iter().flatten() {
            line(&mut text, format!("- {transform}"));
        }
        line(&mut text, "```\n\n## Recipe\n".to_owned());
        let weights = run.weights.get("from").and_then(Value::as_str).unwrap_or("-");
        line(
            &mut text,
            format!("Started from {}; data sha256 `{}`; seed {}.\n", plain(weights), run.data_sha256, run.listing.seed),
        );
        for file in &run.files {
            line(&mut text, format!("`{}`:\n\n{}", plain(&file.name), fenced(&file.text)));
        }
        if !run.overrides.is_empty() {
            line(&mut text, format!("Overrides:\n\n{}", fenced(&run.overrides.join("\n"))));
        }
        text
    }

    fn front_matter(&self) -> String {
        let mut tags = vec!["image-classification", "resnet-zoo"];
        let mut facts = json!({"pipeline_tag": "image-classification"});
        if self.is_known_to_timm() {
            tags.insert(1, "timm");
            facts["library_name"] = json!("timm");
        }
        facts["tags"] = json!(tags);
        let text = |key: &str| self.run.weights.get(key).and_then(Value::as_str);
        if let (Some(from), Some(licence)) = (text("from"), text("licence")) {
            facts["base_model"] = json!(from);
            facts["license"] = json!(licence);
        }
        if let Some(top1) = self.run.listing.metrics.get("val.top1").and_then(|summary| summary.best) {
            facts["model-index"] = json!([{"name": self.run.listing.name, "results": [{
                "task": {"type": "image-classification"},
                "dataset": {"name": "validation", "type": self.run.data_sha256},
                "metrics": [{"type": "accuracy", "value": top1}],
            }]}]);
        }
        // JSON is YAML, whatever a name contains.
        let lines = facts.as_object().into_iter().flatten().map(|(key, value)| format!("{key}: {value}\n"));
        format!("---\n{}---\n", lines.collect::<String>())
    }

    /// Published weights in timm's repositories mean that timm has the architecture, under this name.
    fn is_known_to_timm(&self) -> bool {
        self.card.weights.iter().any(|weights| weights.repository.starts_with("timm/"))
    }
}

fn preprocessing(augment: &AugmentOptions) -> Preprocessing {
    let mut found =
        Preprocessing { crop_pct: 1.0, interpolation: json!("bilinear"), mean: vec![0.0; 3], std: vec![1.0; 3] };
    let mut shorter = None;
    // timm wants one number a channel; the digits are those of the experiment, not those of its nearest f64.
    let digits = |value: &f32| value.to_string().parse().unwrap_or(f64::from(*value));
    let each = |values: &[f32]| match values {
        [one] => vec![digits(one); 3],
        all => all.iter().map(digits).collect(),
    };
    for transform in &augment.eval {
        match transform {
            TransformSpec::Resize { size, interpolation } => {
                found.interpolation = json!(interpolation);
                shorter = if let ResizeTo::Shorter(side) = size { Some(*side) } else { None };
            }
            TransformSpec::CenterCrop { size } => {
                found.crop_pct = shorter.map_or(1.0, |shorter| (*size as f64 / shorter as f64).min(1.0));
            }
            TransformSpec::Normalize { mean, std } => (found.mean, found.std) = (each(mean), each(std)),
            _ => {}
        }
    }
    found
}

/// Text of a line of Markdown, without what would be markup.
fn plain(text: &str) -> String {
    let one = |c: char| match c {
        c if c.is_control() => " ".to_owned(),
        '|' | '`' | '<' | '*' | '[' | '\\' => format!("\\{c}"),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

/// A block of text in a fence that is longer than any in it.
fn fenced(text: &str) -> String {
    let longest = text.lines().map(|line| line.chars().take_while(|c| *c == '`').count()).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}yaml\n{}\n{fence}\n", text.trim_end())
}

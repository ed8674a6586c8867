//! `pull`.

use super::{Context, human, models, tags};
use crate::error::{Error, Result};
use crate::task::Fetched;
use resnet_codegen::diagnostic::did_you_mean;
use serde_json::{Value, json};
use zoo::WeightCard;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo pull resnet34              the model's first weights
  resnet-zoo pull resnet34:a1_in1k      by their tag
  HF_HUB_OFFLINE=1 resnet-zoo pull resnet34    only what is there already, verified again

The file is kept in the Hugging Face cache (HF_HOME); HF_TOKEN and HF_ENDPOINT are honoured. Size and sha256 are
verified before a byte is used.
JSON: an array of {model, tag, repository, revision, file, sha256, bytes, licence, top1, path}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Models, each with a tag or without
    #[arg(required = true, value_name = "MODEL[:TAG]")]
    models: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    // All names first, so that a wrong one costs no download.
    let wanted = arguments.models.iter().map(|wanted| Ok((wanted, find(wanted)?))).collect::<Result<Vec<_>>>()?;
    let mut pulled = Vec::new();
    for (wanted, weights) in wanted {
        let Fetched { path, commit, sha256, size } = tags::fetch(weights)?;
        if !context.json {
            let size = human::bytes(size);
            context.terminal.print(&format!("{wanted}: {} ({size}, commit {commit}, verified)", path.display()))?;
        }
        let mut object = models::weights_json(weights);
        object["model"] = Value::from(wanted.split(':').next());
        object["revision"] = json!(commit);
        object["sha256"] = json!(sha256);
        object["bytes"] = json!(size);
        object["path"] = json!(path);
        pulled.push(object);
    }
    if context.json { context.terminal.print_json(&pulled) } else { Ok(()) }
}

/// The weights that `MODEL[:TAG]` means.
fn find(wanted: &str) -> Result<&'static WeightCard> {
    let (name, tag) = wanted.split_once(':').map_or((wanted, None), |(name, tag)| (name, Some(tag)));
    let card = models::find(name)?.card;
    let Some(first) = card.weights.first() else {
        return Err(Error::input(format!("{name} has no published weights; `resnet-zoo models` shows who has")));
    };
    let Some(tag) = tag else { return Ok(first) };
    tags::find(card, tag).ok_or_else(|| {
        let known: Vec<&str> = card.weights.iter().map(|weights| weights.tag).collect();
        let hint = match did_you_mean(tag, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known.join(", ")),
        };
        Error::input(format!("{name} has no weights `{tag}`; {hint}"))
    })
}

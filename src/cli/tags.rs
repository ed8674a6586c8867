//! `--weights FILE|TAG`.

use crate::error::{Error, Result};
use crate::task::{Fetched, NotFetched};
#[cfg(feature = "hub")]
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use resnet_codegen::diagnostic::did_you_mean;
use std::path::{Path, PathBuf};
#[cfg(feature = "hub")]
use std::time::Duration;
#[cfg(feature = "hub")]
use zoo::hub::{HubConfig, HubError, Problem};
use zoo::{ModelCard, WeightCard};

/// The model's published weights of that tag.
pub(super) fn find(card: &ModelCard, wanted: &str) -> Option<&'static WeightCard> {
    card.weights.iter().find(|weights| weights.tag == wanted)
}

/// The file `wanted`, which is no tag.
pub(super) fn file(card: &ModelCard, wanted: &str) -> Result<PathBuf> {
    let path = Path::new(wanted);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let hint = match did_you_mean(wanted, card.weights.iter().map(|weights| weights.tag)) {
        Some(tag) => format!("did you mean the tag `{tag}`?"),
        None if card.weights.is_empty() => format!("{} has no published weights", card.name),
        None => {
            let tags: Vec<&str> = card.weights.iter().map(|weights| weights.tag).collect();
            format!("the tags of {} are {}", card.name, tags.join(", "))
        }
    };
    Err(Error::input(format!("`{wanted}` is neither a file nor a weight tag; {hint}")))
}

/// The verified local file of published weights, downloaded where it is not there yet.
#[cfg(feature = "hub")]
pub(super) fn fetch(weights: &WeightCard) -> Result<Fetched, NotFetched> {
    let repository = weights.repository;
    let config = HubConfig::from_env()
        .map_err(|problem| NotFetched::Refused(Error::input(format!("cannot get {repository}: {problem}"))))?;
    // It names repository and file.
    let failed = |error: HubError| match error.problem {
        Problem::Invalid(_) => Error::input(format!("cannot get {error}")),
        _ => Error::failed(format!("cannot get {error}")),
    };
    match zoo::hub::fetch(&weights.into(), &config, &mut Download { bar: None }) {
        Ok(zoo::hub::Fetched { path, commit, sha256, size, .. }) => Ok(Fetched { path, commit, sha256, size }),
        Err(error) if error.problem.is_unavailable() => Err(NotFetched::Unavailable(failed(error))),
        Err(error) => Err(NotFetched::Refused(failed(error))),
    }
}

/// This build has no hub.
#[cfg(not(feature = "hub"))]
pub(super) fn fetch(weights: &WeightCard) -> Result<Fetched, NotFetched> {
    let WeightCard { repository, file, .. } = weights;
    Err(NotFetched::Unavailable(Error::failed(format!(
        "this build cannot download {repository}/{file}: build with `--features hub`, or pass the path of a local file"
    ))))
}

/// Shows a download: a bar on a terminal, nothing elsewhere but what goes wrong.
#[cfg(feature = "hub")]
struct Download {
    bar: Option<ProgressBar>,
}

#[cfg(feature = "hub")]
impl zoo::hub::Progress for Download {
    fn started(&mut self, file: &str, done: u64, size: Option<u64>) {
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        let template = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template").progress_chars("=> "));
        bar.set_prefix(file.to_owned());
        bar.set_position(done);
        self.bar = Some(bar);
    }

    fn advanced(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn retrying(&mut self, problem: &Problem, wait: Duration) {
        eprintln!("{problem}; trying again in {} s", wait.as_secs());
    }

    fn finished(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

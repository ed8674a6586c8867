//! `--weights FILE|TAG`.

use crate::error::{Error, Result};
use crate::task::{Fetched, NotFetched};
use resnet_codegen::diagnostic::did_you_mean;
use std::path::{Path, PathBuf};
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
    match zoo::hub::fetch(&weights.into(), &config, &mut super::hub::Bar::default()) {
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

//! The environment variables that a run records. No other one is ever read for it.

use crate::registry::secrets::strip_credentials;
use std::collections::BTreeMap;

/// What can steer a run, or says which job of a cluster it was. docs/reproduce.md lists them.
pub(super) const RECORDED: [&str; 8] = [
    "CUDA_VISIBLE_DEVICES",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "RAYON_NUM_THREADS",
    "RESNET_ZOO_ISA",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_ID",
];

/// Characters of a value that are kept.
const LONGEST: usize = 200;

/// Those that are set, without credentials of addresses and without tokens.
pub(super) fn recorded() -> BTreeMap<String, String> {
    let value = |name: &str| std::env::var_os(name).map(|value| clean(&value.to_string_lossy()));
    RECORDED.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
}

fn clean(value: &str) -> String {
    strip_credentials(value).chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_without_credentials() {
        assert_eq!(clean("https://me:pw@mirror.example.org/x"), "https://mirror.example.org/x");
        assert_eq!(clean("0,1"), "0,1");
        assert_eq!(clean(&"9".repeat(1000)).len(), LONGEST);
        assert!(RECORDED.iter().all(|name| !name.contains("TOKEN") && !name.contains("KEY") && RECORDED.is_sorted()));
    }
}

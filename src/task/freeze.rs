//! Which parameters an experiment leaves as they are.

use crate::error::{Error, Result};
use crate::experiment::FreezeOptions;
use crate::train::optimizer::{Place, place};
use zoo::params::{Params, is_running_statistic};

/// Freezes what `options` say; to be called before the model is built. `classifier` is the head's path.
///
/// # Errors
/// After the model was built.
pub fn freeze(params: &Params, options: &FreezeOptions, classifier: Option<&'static str>) -> Result<()> {
    let (policy, options) = (options.batch_norm, options.clone());
    Ok(params.freeze(move |name| is_frozen(name, &options, classifier), policy)?)
}

/// Says what is wrong with `options` once the model's names are known.
pub fn check(params: &Params, options: &FreezeOptions) -> Result<()> {
    let names = params.state_dict();
    for pattern in &options.names {
        if !names.keys().any(|name| matches(pattern, name)) {
            let example = names.keys().next().map_or("conv1.weight", String::as_str);
            return Err(Error::input(format!(
                "`freeze.names`: `{pattern}` matches no parameter; names look like `{example}`, and `*` stands for anything"
            )));
        }
    }
    if params.trainable().is_empty() {
        return Err(Error::input("`freeze` leaves nothing to train: freeze less"));
    }
    Ok(())
}

fn is_frozen(name: &str, options: &FreezeOptions, classifier: Option<&str>) -> bool {
    // A norm's running statistics belong to its scale.
    let scale = name.rsplit_once('.').filter(|_| is_running_statistic(name)).map(|(norm, _)| format!("{norm}.weight"));
    let name = scale.as_deref().unwrap_or(name);
    let in_head = classifier.is_some_and(|head| name.strip_prefix(head).is_some_and(|rest| rest.starts_with('.')));
    let in_stages = options.stages.is_some_and(|stages| match place(name) {
        Place::Stem => true,
        Place::Block(stage, _) => stage <= stages,
        Place::Head => false,
    });
    (options.backbone && !in_head) || in_stages || options.names.iter().any(|pattern| matches(pattern, name))
}

/// Whether `name` is `pattern`, in which `*` stands for anything, dots too.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo::params::NormPolicy;

    const NAMES: [&str; 7] = [
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.1.bn2.running_var",
        "layer2.0.conv1.weight",
        "layer2.0.bn1.weight",
        "fc.bias",
    ];

    fn frozen(backbone: bool, stages: Option<usize>, names: &[&str]) -> Vec<&'static str> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let options = FreezeOptions { backbone, stages, names, batch_norm: NormPolicy::Frozen };
        NAMES.into_iter().filter(|name| is_frozen(name, &options, Some("fc"))).collect()
    }

    #[test]
    fn options_name_what_they_freeze() {
        assert_eq!(frozen(true, None, &[]), NAMES[..6]);
        assert_eq!(frozen(false, Some(0), &[]), NAMES[..2]);
        assert_eq!(frozen(false, Some(1), &[]), NAMES[..4]);
        assert_eq!(frozen(false, None, &["layer1.*.bn*.weight", "fc.bias"]), [NAMES[3], NAMES[6]]);
        assert_eq!(frozen(false, Some(0), &["*conv1*"]), [NAMES[0], NAMES[1], NAMES[2], NAMES[4]]);
    }
}

//! The names that one tensor goes by: in timm and torchvision, under wrappers, in Microsoft's files.

use super::target::Target;
use std::collections::{BTreeSet, VecDeque};

/// What `DistributedDataParallel`, Lightning, `torch.compile`, a backbone inside of something and
/// torchvision's detectors write before a name.
const PREFIXES: [&str; 6] = ["module.", "model.", "_orig_mod.", "backbone.", "backbone.body.", "state_dict."];

/// What the last layer is called.
const HEADS: [&str; 7] = ["fc.", "linear.", "classifier.", "classifier.1.", "head.fc.", "head.", "last_linear."];

/// The name under which the model knows the file's `name`, if under any. A name that the model knows
/// stays; a rule is followed only where it leads to one that the model knows.
pub(super) fn resolve(name: &str, target: &Target) -> Option<String> {
    // Wrappers nest; more than a few deep no sane file is, and a hostile one shall not cost time.
    const MOST: usize = 64;
    let mut queue = VecDeque::from([name.to_string()]);
    let mut seen = BTreeSet::new();
    while let Some(name) = queue.pop_front() {
        if target.shapes.contains_key(&name) {
            return Some(name);
        }
        if seen.len() < MOST && seen.insert(name.clone()) {
            queue.extend(aliases(&name, target));
        }
    }
    None
}

/// Whether a name that the model does not know is of a classifier, which a headless model has no use for.
pub(super) fn is_head(name: &str) -> bool {
    let bare = PREFIXES.iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
    HEADS.iter().any(|head| bare.strip_prefix(head).is_some_and(is_weight_or_bias))
}

fn aliases(name: &str, target: &Target) -> Vec<String> {
    let mut aliases: Vec<String> =
        PREFIXES.iter().filter_map(|prefix| name.strip_prefix(prefix)).map(String::from).collect();
    if let Some(classifier) = &target.classifier {
        let leaf = HEADS.iter().filter_map(|head| name.strip_prefix(head)).find(|leaf| is_weight_or_bias(leaf));
        aliases.extend(leaf.map(|leaf| format!("{classifier}.{leaf}")));
    }
    // A classification network as the body of a detector's backbone.
    aliases.extend((!name.starts_with("body.")).then(|| format!("body.{name}")));
    aliases.extend(microsoft(name));
    aliases.extend(pyramid(name));
    aliases.extend(video(name));
    aliases
}

fn is_weight_or_bias(leaf: &str) -> bool {
    leaf == "weight" || leaf == "bias"
}

/// `microsoft/resnet-*`, which transformers wrote.
fn microsoft(name: &str) -> Option<String> {
    let path: Vec<&str> = name.strip_prefix("resnet.")?.split('.').collect();
    let number = |text: &str| text.parse::<u16>().ok();
    match *path.as_slice() {
        ["embedder", "embedder", "convolution", leaf] => Some(format!("conv1.{leaf}")),
        ["embedder", "embedder", "normalization", leaf] => Some(format!("bn1.{leaf}")),
        ["encoder", "stages", stage, "layers", block, ref rest @ ..] => {
            let block = format!("layer{}.{block}", number(stage)? + 1);
            match *rest {
                ["shortcut", "convolution", leaf] => Some(format!("{block}.downsample.0.{leaf}")),
                ["shortcut", "normalization", leaf] => Some(format!("{block}.downsample.1.{leaf}")),
                ["layer", k, "convolution", leaf] => Some(format!("{block}.conv{}.{leaf}", number(k)? + 1)),
                ["layer", k, "normalization", leaf] => Some(format!("{block}.bn{}.{leaf}", number(k)? + 1)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// torchvision's feature pyramids had bare convolutions (`inner_blocks.0.weight`) before 0.13.
fn pyramid(name: &str) -> Option<String> {
    let (path, leaf) = name.rsplit_once('.')?;
    let (blocks, index) = path.rsplit_once('.')?;
    let is_level = index.bytes().all(|byte| byte.is_ascii_digit());
    let is_pyramid = blocks.ends_with("inner_blocks") || blocks.ends_with("layer_blocks");
    (is_level && is_pyramid).then(|| format!("{path}.0.{leaf}"))
}

/// A 2D ResNet's names in torchvision's video ResNets, where a convolution and its norm are one `Sequential`.
fn video(name: &str) -> Option<String> {
    let (path, leaf) = name.rsplit_once('.')?;
    let (block, layer) = path.rsplit_once('.').map_or(("", path), |(block, layer)| (block, layer));
    let (kind, index) = ["conv", "bn"].iter().find_map(|kind| Some((*kind, layer.strip_prefix(kind)?)))?;
    let place = usize::from(kind == "bn");
    match (block, index) {
        ("", "1") => Some(format!("stem.{place}.{leaf}")),
        (block, index) if block.starts_with("layer") => Some(format!("{block}.conv{index}.{place}.{leaf}")),
        _ => None,
    }
}

use super::names;
use super::target::{Target, is_under};
use crate::params::{LoadReport, Loaded, Reshape, Reshaped, abridged};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What may differ between a file and a model. Everything else that differs is an error.
///
/// A pattern is a name, or the start of names followed by `*`: `layer4.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapt {
    /// The head: where its shape differs or the file has none, it is new, from the seed; where the model
    /// has none, the file's is not used.
    pub head: bool,
    /// The input channels of the first convolution, by timm's rule: one channel takes the sum of the
    /// file's, n take the file's in turn, scaled so that the sum of all stays.
    pub first_conv: bool,
    /// 2D kernels where the model has 3D ones.
    pub inflate: Option<Inflate>,
    /// The model's names that may be absent from the file: they start from the seed.
    pub missing: Vec<String>,
    /// The file's names that the model may have no use for.
    pub unused: Vec<String>,
    /// The model's names whose shapes may differ: they start from the seed.
    pub reshaped: Vec<String>,
}

/// How a 2D kernel becomes a 3D kernel of depth T (Carreira and Zisserman, "Quo vadis, action
/// recognition?", CVPR 2017, section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inflate {
    /// T copies, each divided by T: a still video gives what the image gave.
    Repeat,
    /// The kernel in the middle, zeros before and after.
    Centre,
}

/// Why a file does not fit a model, with what would accept it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// The model's names that the file lacks.
    pub missing: Vec<String>,
    /// The file's names that the model has no use for.
    pub unused: Vec<String>,
    /// Names, the shape in the file, the shape in the model, and what accepts the difference.
    pub reshaped: Vec<(String, Vec<usize>, Vec<usize>, &'static str)>,
    /// Two names of the file for one of the model's.
    pub ambiguous: Vec<(String, String, String)>,
    /// Whether nothing in the file is known to the model: it is of something else.
    pub foreign: bool,
}

/// Finds the model's values among a file's tensors.
///
/// # Errors
/// A [`Mismatch`] that lists everything that does not fit and is not allowed.
pub fn adapt(file: BTreeMap<String, Tensor>, target: &Target, allowed: &Adapt) -> Result<Loaded, Mismatch> {
    let mut mismatch = Mismatch::default();
    let (mut found, unused) = by_target_name(file, target, &mut mismatch);
    mismatch.foreign = found.is_empty() && mismatch.ambiguous.is_empty();

    let new_head =
        allowed.head && found.iter().any(|(name, tensor)| target.is_head(name) && tensor.dims() != target.shapes[name]);
    let mut report = LoadReport::default();
    let mut tensors = BTreeMap::new();
    for (name, shape) in &target.shapes {
        let Some(tensor) = found.remove(name) else {
            if !(allows(&allowed.missing, name) || allowed.head && target.is_head(name)) {
                mismatch.missing.push(name.clone());
            }
            report.initialised.push(name.clone());
            continue;
        };
        if new_head && target.is_head(name) {
            report.initialised.push(name.clone());
            if tensor.dims() != shape {
                report.reshaped.push(reshaped(name, &tensor, shape, Reshape::NewHead));
            }
        } else if tensor.dims() == shape {
            report.loaded.push(name.clone());
            tensors.insert(name.clone(), tensor);
        } else {
            match reshape(name, &tensor, shape, target, allowed) {
                Ok((value, how)) => {
                    report.reshaped.push(reshaped(name, &tensor, shape, how));
                    tensors.insert(name.clone(), value);
                }
                Err(_) if allows(&allowed.reshaped, name) => {
                    report.reshaped.push(reshaped(name, &tensor, shape, Reshape::New));
                    report.initialised.push(name.clone());
                }
                Err(key) => mismatch.reshaped.push((name.clone(), tensor.dims().to_vec(), shape.clone(), key)),
            }
        }
    }
    for name in &unused {
        let unwanted_head = allowed.head && target.classifier.is_none() && names::is_head(name);
        if !(unwanted_head || allows(&allowed.unused, name)) {
            mismatch.unused.push(name.clone());
        }
    }
    report.unused = unused;
    if mismatch == Mismatch::default() { Ok(Loaded { tensors, report }) } else { Err(mismatch) }
}

/// The file's tensors under the model's names, and the file's names that the model does not know.
fn by_target_name(
    file: BTreeMap<String, Tensor>,
    target: &Target,
    mismatch: &mut Mismatch,
) -> (BTreeMap<String, Tensor>, Vec<String>) {
    let mut found: BTreeMap<String, (String, Tensor)> = BTreeMap::new();
    let mut unused = Vec::new();
    for (name, tensor) in file {
        let Some(known) = names::resolve(&name, target) else {
            // torch counts batches for norms without a momentum, which none of ours is.
            if !name.ends_with("num_batches_tracked") {
                unused.push(name);
            }
            continue;
        };
        match found.get(&known) {
            // The model's own name wins over one that a rule led to.
            Some((first, _)) if *first == known => unused.push(name),
            Some((first, _)) if name != known => mismatch.ambiguous.push((known, first.clone(), name)),
            Some((first, _)) => {
                unused.push(first.clone());
                found.insert(known, (name, tensor));
            }
            None => {
                found.insert(known, (name, tensor));
            }
        }
    }
    unused.sort_unstable();
    (found.into_iter().map(|(known, (_, tensor))| (known, tensor)).collect(), unused)
}

/// The tensor in the model's shape, or what would have to be allowed.
fn reshape(
    name: &str,
    tensor: &Tensor,
    to: &[usize],
    target: &Target,
    allowed: &Adapt,
) -> Result<(Tensor, Reshape), &'static str> {
    const RENEW: &str = "`reshaped: [NAME]`, which starts it from the seed";
    if target.is_head(name) {
        return Err("`head: true`, which starts a new head from the seed");
    }
    let from = tensor.dims();
    let is_first_conv = is_under(name, &target.first_conv) && from.len() >= 3;
    let inflates = to.len() == 5 && from.len() == 4;
    let spatial = if inflates { 3 } else { 2 };
    let fits = (inflates || to.len() == from.len())
        && from.len() >= 3
        && from[0] == to[0]
        && from[2..] == to[spatial..]
        && tensor.elem_count() > 0;
    let channels_differ = fits && from[1] != to[1];
    if !fits || channels_differ && !is_first_conv {
        return Err(RENEW);
    }
    if channels_differ && !allowed.first_conv {
        return Err("`first_conv: true`, which sums or repeats the input channels");
    }
    let how = match (channels_differ, inflates) {
        (true, true) => Reshape::ChannelsInflated,
        (true, false) => Reshape::Channels,
        (false, _) => Reshape::Inflated,
    };
    let value = match (inflates, allowed.inflate) {
        (false, _) => with_channels(tensor, to[1]),
        (true, Some(inflate)) => with_channels(tensor, to[1]).and_then(|kernel| inflated(&kernel, to[2], inflate)),
        (true, None) => return Err("`inflate: repeat` (or `centre`), which makes 3D kernels of 2D ones"),
    };
    value.map(|value| (value, how)).map_err(|_| RENEW)
}

/// `[O, C, ..]` with another C, as timm's `adapt_input_conv`.
fn with_channels(kernel: &Tensor, channels: usize) -> candle_core::Result<Tensor> {
    let from = kernel.dim(1)?;
    if from == channels {
        return Ok(kernel.clone());
    }
    let kernel = match kernel.dtype() {
        DType::F64 => kernel.clone(),
        _ => kernel.to_dtype(DType::F32)?,
    };
    if channels == 1 {
        return kernel.sum_keepdim(1);
    }
    let copies = vec![kernel; channels.div_ceil(from)];
    Tensor::cat(&copies, 1)?.narrow(1, 0, channels)?.affine(from as f64 / channels as f64, 0.)
}

/// `[O, C, H, W]` as `[O, C, depth, H, W]`.
fn inflated(kernel: &Tensor, depth: usize, inflate: Inflate) -> candle_core::Result<Tensor> {
    let slice = kernel.unsqueeze(2)?;
    match inflate {
        Inflate::Repeat => {
            let slice = if slice.dtype() == DType::F64 { slice } else { slice.to_dtype(DType::F32)? };
            Tensor::cat(&vec![slice.affine(1. / depth as f64, 0.)?; depth], 2)
        }
        Inflate::Centre => slice.pad_with_zeros(2, depth / 2, depth - 1 - depth / 2),
    }
}

fn reshaped(name: &str, tensor: &Tensor, to: &[usize], how: Reshape) -> Reshaped {
    Reshaped { name: name.to_string(), from: tensor.dims().to_vec(), to: to.to_vec(), how }
}

fn allows(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    })
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.foreign {
            return write!(
                f,
                "the weights are of another model: no tensor has a name that this model asks for (the file has {}; the \
                 model asks for {})",
                abridged(&self.unused),
                abridged(&self.missing)
            );
        }
        write!(f, "the weights do not fit the model:")?;
        for (known, first, second) in &self.ambiguous {
            write!(f, "\n  `{first}` and `{second}` could both be `{known}`: keep one of them in the file")?;
        }
        if !self.missing.is_empty() {
            write!(
                f,
                "\n  {} missing in the file: {}\n    an experiment allows them with `missing: [NAME, START*]`, which starts them from the seed",
                self.missing.len(),
                abridged(&self.missing)
            )?;
        }
        if !self.unused.is_empty() {
            write!(
                f,
                "\n  {} of the file unknown to the model: {}\n    an experiment allows them with `unused: [NAME, START*]`",
                self.unused.len(),
                abridged(&self.unused)
            )?;
        }
        const SHOWN: usize = 6;
        for (name, from, to, key) in self.reshaped.iter().take(SHOWN) {
            write!(
                f,
                "\n  `{name}` is {from:?} in the file, {to:?} in the model\n    an experiment allows it with {key}"
            )?;
        }
        match self.reshaped.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  {more} more with other shapes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(shape: &[usize]) -> Tensor {
        let len: usize = shape.iter().product();
        Tensor::from_vec((0..len).map(|i| i as f32).collect(), shape, &Device::Cpu).unwrap()
    }

    fn file(shapes: &[(&str, &[usize])]) -> BTreeMap<String, Tensor> {
        shapes.iter().map(|(name, shape)| (name.to_string(), tensor(shape))).collect()
    }

    fn target(shapes: &[(&str, &[usize])]) -> Target {
        Target {
            shapes: shapes.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect(),
            classifier: Some("fc".into()),
            first_conv: "conv1".into(),
        }
    }

    fn tiny() -> Target {
        target(&[
            ("conv1.weight", &[4, 3, 3, 3]),
            ("bn1.weight", &[4]),
            ("bn1.running_mean", &[4]),
            ("layer1.0.conv2.weight", &[4, 4, 1, 1]),
            ("layer1.0.downsample.0.weight", &[4, 4, 1, 1]),
            ("layer1.0.downsample.1.bias", &[4]),
            ("fc.weight", &[10, 4]),
            ("fc.bias", &[10]),
        ])
    }

    fn same_as(target: &Target, rename: impl Fn(&str) -> String) -> BTreeMap<String, Tensor> {
        target.shapes.iter().map(|(name, shape)| (rename(name), tensor(shape))).collect()
    }

    #[test]
    fn wrappers_and_other_heads_are_seen_through() {
        for prefix in ["", "module.", "backbone.", "model.", "_orig_mod.", "module._orig_mod.", "backbone.body."] {
            for head in ["fc", "linear", "classifier", "classifier.1", "head.fc"] {
                let mut file = same_as(&tiny(), |name| format!("{prefix}{}", name.replace("fc.", &format!("{head}."))));
                file.insert(format!("{prefix}bn1.num_batches_tracked"), Tensor::new(3i64, &Device::Cpu).unwrap());
                let loaded = adapt(file, &tiny(), &Adapt::default()).unwrap();
                assert_eq!(loaded.report.loaded.len(), 8, "{prefix}{head}");
                assert_eq!(loaded.report, LoadReport { loaded: loaded.report.loaded.clone(), ..LoadReport::default() });
            }
        }
    }

    #[test]
    fn microsoft_and_old_pyramid_names_are_known() {
        let microsoft = file(&[
            ("resnet.embedder.embedder.convolution.weight", &[4, 3, 3, 3]),
            ("resnet.embedder.embedder.normalization.weight", &[4]),
            ("resnet.embedder.embedder.normalization.running_mean", &[4]),
            ("resnet.embedder.embedder.normalization.num_batches_tracked", &[]),
            ("resnet.encoder.stages.0.layers.0.layer.1.convolution.weight", &[4, 4, 1, 1]),
            ("resnet.encoder.stages.0.layers.0.shortcut.convolution.weight", &[4, 4, 1, 1]),
            ("resnet.encoder.stages.0.layers.0.shortcut.normalization.bias", &[4]),
            ("classifier.1.weight", &[10, 4]),
            ("classifier.1.bias", &[10]),
        ]);
        assert_eq!(adapt(microsoft, &tiny(), &Adapt::default()).unwrap().report.loaded.len(), 8);

        let pyramid = target(&[("fpn.inner_blocks.0.0.weight", &[1]), ("fpn.layer_blocks.3.0.bias", &[1])]);
        for old in [true, false] {
            let infix = if old { "" } else { ".0" };
            let file = file(&[
                (&format!("backbone.fpn.inner_blocks.0{infix}.weight"), &[1]),
                (&format!("backbone.fpn.layer_blocks.3{infix}.bias"), &[1]),
            ]);
            assert_eq!(adapt(file, &pyramid, &Adapt::default()).unwrap().report.loaded.len(), 2);
        }
    }

    #[test]
    fn a_pyramids_body_takes_a_detectors_and_a_classifiers_weights() {
        let pyramid = target(&[("body.conv1.weight", &[1, 3, 1, 1]), ("fpn.inner_blocks.0.0.bias", &[1])]);
        let detector = file(&[
            ("backbone.body.conv1.weight", &[1, 3, 1, 1]),
            ("backbone.fpn.inner_blocks.0.bias", &[1]),
            ("rpn.head.conv.weight", &[1]),
        ]);
        let without_heads = Adapt { unused: vec!["rpn.*".into()], ..Adapt::default() };
        assert_eq!(adapt(detector, &pyramid, &without_heads).unwrap().report.loaded.len(), 2);
        let classifier = file(&[("resnet.embedder.embedder.convolution.weight", &[1, 3, 1, 1])]);
        let without_pyramid = Adapt { missing: vec!["fpn.*".into()], ..Adapt::default() };
        assert_eq!(adapt(classifier, &pyramid, &without_pyramid).unwrap().report.loaded, ["body.conv1.weight"]);
    }

    #[test]
    fn a_prefix_that_the_model_has_stays() {
        let target = target(&[("backbone.conv1.weight", &[2]), ("module.x", &[1])]);
        let file = file(&[("backbone.conv1.weight", &[2]), ("module.module.x", &[1])]);
        assert_eq!(adapt(file, &target, &Adapt::default()).unwrap().report.loaded.len(), 2);
    }

    #[test]
    fn a_new_head_is_allowed_by_name() {
        let mut of_1000 = same_as(&tiny(), |name| name.to_string());
        of_1000.insert("fc.weight".into(), tensor(&[1000, 4]));
        of_1000.insert("fc.bias".into(), tensor(&[1000]));
        let error = adapt(of_1000.clone(), &tiny(), &Adapt::default()).unwrap_err().to_string();
        assert!(error.contains("`fc.weight` is [1000, 4] in the file, [10, 4] in the model"), "{error}");
        assert!(error.contains("allows it with `head: true`"), "{error}");
        let head = Adapt { head: true, ..Adapt::default() };
        let report = adapt(of_1000, &tiny(), &head).unwrap().report;
        assert_eq!(report.initialised, ["fc.bias", "fc.weight"]);
        assert_eq!(report.reshaped[1].how, Reshape::NewHead);
        assert_eq!(report.loaded.len(), 6);

        let mut headless = same_as(&tiny(), |name| name.to_string());
        headless.retain(|name, _| !name.starts_with("fc."));
        assert!(adapt(headless.clone(), &tiny(), &Adapt::default()).is_err());
        assert_eq!(adapt(headless, &tiny(), &head).unwrap().report.initialised.len(), 2);

        let mut backbone = tiny();
        backbone.shapes.retain(|name, _| !name.starts_with("fc."));
        backbone.classifier = None;
        let whole = same_as(&tiny(), |name| format!("module.{name}"));
        assert!(adapt(whole.clone(), &backbone, &Adapt::default()).is_err());
        assert_eq!(adapt(whole, &backbone, &head).unwrap().report.unused, ["module.fc.bias", "module.fc.weight"]);
    }

    #[test]
    fn input_channels_follow_timms_rule() {
        let kernel = tensor(&[1, 3, 1, 1]);
        let first_conv = Adapt { first_conv: true, ..Adapt::default() };
        for (channels, expected) in [(1, vec![3.]), (2, vec![0., 1.5]), (5, vec![0., 0.6, 1.2, 0., 0.6])] {
            let target = target(&[("conv1.weight", &[1, channels, 1, 1])]);
            let file = BTreeMap::from([("conv1.weight".to_string(), kernel.clone())]);
            let error = adapt(file.clone(), &target, &Adapt::default()).unwrap_err().to_string();
            assert!(error.contains("allows it with `first_conv: true`"), "{error}");
            let loaded = adapt(file, &target, &first_conv).unwrap();
            let values = loaded.tensors["conv1.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{values:?}");
            assert_eq!(loaded.report.reshaped[0].how, Reshape::Channels);
        }
        let other = target(&[("layer1.0.conv2.weight", &[1, 1, 1, 1])]);
        let file = BTreeMap::from([("layer1.0.conv2.weight".to_string(), kernel)]);
        assert!(adapt(file, &other, &first_conv).is_err(), "only the first convolution");
    }

    #[test]
    fn kernels_inflate_to_3d() {
        let file = file(&[("conv1.weight", &[1, 3, 1, 2]), ("layer1.0.bn1.weight", &[1])]);
        let mut video = target(&[("stem.0.weight", &[1, 1, 3, 1, 2]), ("layer1.0.conv1.1.weight", &[1])]);
        video.first_conv = "stem.0".into();
        let mut allowed = Adapt { first_conv: true, ..Adapt::default() };
        assert!(
            adapt(file.clone(), &video, &allowed).unwrap_err().to_string().contains("allows it with `inflate: repeat`")
        );
        for (inflate, expected) in
            [(Inflate::Repeat, [2., 3., 2., 3., 2., 3.]), (Inflate::Centre, [0., 0., 6., 9., 0., 0.])]
        {
            allowed.inflate = Some(inflate);
            let loaded = adapt(file.clone(), &video, &allowed).unwrap();
            let value = loaded.tensors["stem.0.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(value.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{value:?}");
            assert_eq!(loaded.report.reshaped[0].how, Reshape::ChannelsInflated);
            assert_eq!(loaded.report.loaded, ["layer1.0.conv1.1.weight"]);
        }
    }

    #[test]
    fn what_does_not_fit_is_listed_at_once_and_allowed_by_name() {
        let mut file = same_as(&tiny(), |name| name.to_string());
        file.remove("bn1.weight");
        file.insert("aux.weight".into(), tensor(&[1]));
        file.insert("layer1.0.conv2.weight".into(), tensor(&[4, 4, 3, 3]));
        let error = adapt(file.clone(), &tiny(), &Adapt::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights do not fit the model:\n  \
             1 missing in the file: bn1.weight\n    an experiment allows them with `missing: [NAME, START*]`, which starts them from the seed\n  \
             1 of the file unknown to the model: aux.weight\n    an experiment allows them with `unused: [NAME, START*]`\n  \
             `layer1.0.conv2.weight` is [4, 4, 3, 3] in the file, [4, 4, 1, 1] in the model\n    \
             an experiment allows it with `reshaped: [NAME]`, which starts it from the seed"
        );
        let allowed = Adapt {
            missing: vec!["bn1.weight".into()],
            unused: vec!["aux.*".into()],
            reshaped: vec!["layer1.0.conv2.weight".into()],
            ..Adapt::default()
        };
        let report = adapt(file, &tiny(), &allowed).unwrap().report;
        assert_eq!(report.initialised, ["bn1.weight", "layer1.0.conv2.weight"]);
        assert_eq!(report.unused, ["aux.weight"]);
    }

    #[test]
    fn two_candidates_and_foreign_files_are_refused() {
        let target = target(&[("conv1.weight", &[1])]);
        let two = file(&[("model.conv1.weight", &[1]), ("module.conv1.weight", &[1])]);
        let error = adapt(two, &target, &Adapt::default()).unwrap_err().to_string();
        assert!(error.contains("could both be `conv1.weight`"), "{error}");
        let foreign = file(&[("encoder.layer.0.weight", &[1])]);
        let everything = Adapt { missing: vec!["*".into()], unused: vec!["*".into()], ..Adapt::default() };
        assert!(adapt(foreign, &target, &everything).unwrap_err().foreign);
    }
}

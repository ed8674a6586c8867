//! Shapes, parameters and multiply-accumulates at every named point of a network.

use crate::diagnostic::{Diagnostics, Span};
use crate::spec::{Block, Conv, Extent, Layer, Of, Op, Pool, Shortcut, Spec, Stage, Top, Width};

/// Most parameters of a network: 16 GB of f32.
pub const MAX_PARAMS: u128 = 4_000_000_000;
/// Most elements of one activation of one sample: 8 GB of f32.
pub const MAX_ELEMENTS: u128 = 1 << 31;
/// Most channels at one point.
pub const MAX_WIDTH: usize = 1 << 20;

/// What a spec becomes at one input size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Every layer in the order of computation.
    pub rows: Vec<Row>,
    /// Everything a checkpoint holds, in the order of construction.
    pub parameters: Vec<Parameter>,
    /// Trainable parameters.
    pub params: u64,
    /// Multiply-accumulates of convolutions and linear layers, for one sample.
    pub macs: u64,
    /// The feature maps, finest first.
    pub features: Vec<Feature>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `layer2.0.conv1`.
    pub path: String,
    /// `conv 3x3, 64 -> 128, stride 2`.
    pub layer: String,
    /// The same for programs.
    pub computation: Computation,
    /// Channels, then the spatial size; of a vector only its length.
    pub output: Vec<usize>,
    /// Trainable parameters.
    pub params: u64,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
}

/// What a layer computes, as far as it can be computed alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Computation {
    /// A convolution.
    Conv {
        /// How it lies on its input.
        windows: Windows,
        /// Runs of channels that do not see each other.
        groups: usize,
    },
    /// Batch norm, or group norm with so many groups.
    Norm(Option<usize>),
    /// Maximum over windows.
    MaxPool(Windows),
    /// Average over windows, a partial window at the border over what it holds.
    AvgPool(Windows),
    /// Anything else, or several layers.
    Other,
}

/// Sliding windows; one number for each spatial dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Channels, then the spatial size.
    pub input: Vec<usize>,
    /// Taps.
    pub kernel: Vec<usize>,
    /// Cells from one window to the next.
    pub stride: Vec<usize>,
    /// Cells before the first and after the last one.
    pub padding: Vec<usize>,
    /// Cells from one tap to the next.
    pub dilation: Vec<usize>,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// `layer2.0.conv1.weight`.
    pub name: String,
    /// OIHW, OIDHW, `[out, in]` or `[channels]`.
    pub shape: Vec<usize>,
    /// False for running statistics.
    pub trainable: bool,
}

/// One feature map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// `c2` to `c5`, `p2` to `p6`.
    pub name: String,
    /// Channels, then the spatial size.
    pub shape: Vec<usize>,
    /// Input pixels (height and width) a cell.
    pub stride: usize,
}

impl Summary {
    /// The rows summed by field of the network: `conv1`, `bn1`, .., `layer1`, .., `fc`.
    pub fn by_field(&self) -> Vec<Row> {
        let mut fields: Vec<Row> = Vec::new();
        for row in &self.rows {
            let depth = if row.path.starts_with("body.") || row.path.starts_with("fpn.") { 2 } else { 1 };
            let path: Vec<&str> = row.path.split('.').take(depth).collect();
            let path = path.join(".");
            match fields.last_mut().filter(|field| field.path == path) {
                Some(field) => {
                    field.layer.clear();
                    field.computation = Computation::Other;
                    field.output.clone_from(&row.output);
                    field.params += row.params;
                    field.macs += row.macs;
                }
                None => fields.push(Row { path, ..row.clone() }),
            }
        }
        fields
    }
}

/// Follows an input of `input` (channels, then the spatial size) through the network.
///
/// # Errors
/// Where a layer does not fit what comes before it, at that layer, or a bound is exceeded.
pub fn summarize(spec: &Spec, input: &[usize], at: Span) -> Result<Summary, Diagnostics> {
    let mut walk = Walk::new(spec, at);
    let summary = walk.network(input);
    let Walk { diagnostics, .. } = walk;
    diagnostics.into_result(summary)
}

/// A block's numbers, which its layers refer to.
#[derive(Debug, Clone, Copy)]
struct Scope<'a> {
    c_in: usize,
    channels: usize,
    out: usize,
    stride: &'a [usize],
    kernel: &'a [usize],
    first_dilation: usize,
    dilation: usize,
}

impl Scope<'_> {
    /// `None` where the division leaves a remainder or the product a bound.
    fn width(&self, width: Width) -> Option<usize> {
        let of = match width.of {
            Of::One => 1,
            Of::In => self.c_in,
            Of::Channels => self.channels,
            Of::Out => self.out,
            Of::Mid => self.mid(),
        };
        let product = of.checked_mul(width.times)?;
        let width = product / width.over * usize::from(product % width.over == 0);
        (1..=MAX_WIDTH).contains(&width).then_some(width)
    }

    fn mid(&self) -> usize {
        self.c_in * self.channels * 27 / (self.c_in * 9 + 3 * self.channels)
    }

    fn extents(&self, extents: &[Extent]) -> Vec<usize> {
        let one = |extent: &Extent| match *extent {
            Extent::Fixed(value) => value,
            Extent::Kernel(axis) => self.kernel[axis],
            Extent::Stride(axis) => self.stride[axis],
            Extent::FirstDilation => self.first_dilation,
            Extent::Dilation => self.dilation,
        };
        extents.iter().map(one).collect()
    }
}

struct Walk<'a> {
    spec: &'a Spec,
    at: Span,
    rows: Vec<Row>,
    parameters: Vec<Parameter>,
    params: u128,
    macs: u128,
    diagnostics: Diagnostics,
}

impl<'a> Walk<'a> {
    fn new(spec: &'a Spec, at: Span) -> Self {
        let (rows, parameters, diagnostics) = (Vec::new(), Vec::new(), Diagnostics::default());
        Walk { spec, at, rows, parameters, params: 0, macs: 0, diagnostics }
    }

    fn network(&mut self, input: &[usize]) -> Option<Summary> {
        if elements(input) > MAX_ELEMENTS {
            let message = format!("the input has {} elements, more than {MAX_ELEMENTS}", elements(input));
            self.note(self.spec.input_span, message, &sizes(input), "make it smaller");
            return None;
        }
        let ones = vec![1; self.spec.dims];
        let prefix = self.spec.prefix();
        let scope =
            Scope { c_in: input[0], channels: 1, out: 1, stride: &ones, kernel: &ones, first_dilation: 1, dilation: 1 };
        let mut shape = self.chain(&self.spec.stem, prefix, input.to_vec(), &scope)?;
        let mut features = Vec::new();
        let mut stride = stem_stride(&self.spec.stem);
        for (stage, block, _) in self.spec.each_block() {
            shape = self.block(stage, block, shape)?;
            if block + 1 == self.spec.stages[stage].depth {
                stride = stride.saturating_mul(self.spec.stages[stage].stride[self.spec.dims - 1]);
                features.push(Feature { name: format!("c{}", stage + 2), shape: shape.clone(), stride });
            }
        }
        match self.spec.top {
            Top::Backbone => {}
            Top::Classifier { classes, .. } => self.classifier(shape[0], classes)?,
            Top::Pyramid { channels, extra_maxpool } => features = self.pyramid(&features, channels, extra_maxpool)?,
        }
        let params = u64::try_from(self.params).expect("below MAX_PARAMS");
        let macs = u64::try_from(self.macs).unwrap_or(u64::MAX);
        let (rows, parameters) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.parameters));
        Some(Summary { rows, parameters, params, macs, features })
    }

    fn block(&mut self, stage_index: usize, index: usize, x: Vec<usize>) -> Option<Vec<usize>> {
        let stage: &Stage = &self.spec.stages[stage_index];
        let block: &Block = &self.spec.blocks[stage.block];
        let ones = vec![1; self.spec.dims];
        let first = index == 0;
        let out = self.spec.out_channels(stage_index);
        let scope = Scope {
            c_in: x[0],
            channels: stage.channels,
            out,
            stride: if first { &stage.stride } else { &ones },
            kernel: &stage.kernel,
            first_dilation: if first { stage.first_dilation } else { stage.dilation },
            dilation: stage.dilation,
        };
        let prefix = format!("{}layer{}.{index}.", self.spec.prefix(), stage_index + 1);
        let changes = stage.changes_shape(index, x[0], block.expansion);
        let strided: Vec<usize> =
            x[1..].iter().zip(scope.stride).map(|(size, stride)| size.div_ceil(*stride)).collect();
        let branch = self.chain(&block.layers, &prefix, x.clone(), &scope)?;
        let last = block.layers.last().map_or(stage.span, |layer| layer.span);
        let what = format!("block {index} of stage {}", stage_index + 1);
        if branch[0] != out {
            let message = format!("the block ends with {} channels where its stage has {out}", branch[0]);
            self.note(last, message, &what, "give the last convolution `channels: out`");
            return None;
        }
        if branch[1..] != strided {
            let (got, want) = (sizes(&branch[1..]), sizes(&strided));
            let message = format!("the block's layers give {got} where its stride gives {want}");
            self.note(last, message, &what, "give exactly one layer `stride: block`, and odd kernels no `padding`");
            return None;
        }
        match &block.shortcut {
            Shortcut::Layers(layers) if changes => {
                let shortcut = self.chain(layers, &format!("{prefix}downsample."), x, &scope)?;
                if shortcut != branch {
                    let (got, want) = (sizes(&shortcut), sizes(&branch));
                    let message = format!("the shortcut gives {got} where the block's layers give {want}");
                    let at = layers.last().map_or(last, |layer| layer.span);
                    self.note(at, message, &what, "give it `stride: block` once and `channels: out` at last");
                    return None;
                }
            }
            Shortcut::Pad if stage.stride.iter().any(|stride| *stride != stage.stride[0]) => {
                let message = "a padded shortcut has one stride for all axes".to_owned();
                self.note(stage.span, message, &what, "write `stride: 2`, or use `downsample: conv`");
                return None;
            }
            Shortcut::Pad if out < x[0] => {
                let message = format!("a padded shortcut cannot shrink {} channels to {out}", x[0]);
                self.note(stage.span, message, &what, "use `downsample: conv`");
                return None;
            }
            _ => {}
        }
        Some(branch)
    }

    fn chain(&mut self, layers: &[Layer], prefix: &str, mut x: Vec<usize>, scope: &Scope<'_>) -> Option<Vec<usize>> {
        for layer in layers {
            x = self.layer(layer, &format!("{prefix}{}", layer.name), x, scope)?;
        }
        Some(x)
    }

    fn layer(&mut self, layer: &Layer, path: &str, x: Vec<usize>, scope: &Scope<'_>) -> Option<Vec<usize>> {
        match &layer.op {
            Op::Conv(conv) => self.conv(conv, layer.span, path, &x, scope),
            Op::Norm { zero_init: _, channels: _ } => {
                let channels = x[0];
                if let Some(groups) = self.spec.norm.groups
                    && !channels.is_multiple_of(groups)
                {
                    let message = format!("{channels} channels do not split into {groups} groups of a norm");
                    self.note(self.spec.norm_span, message, path, "choose a number of groups that divides every width");
                    return None;
                }
                let kind = match self.spec.norm.groups {
                    Some(groups) => format!("group norm, {groups} groups"),
                    None => "batch norm".to_owned(),
                };
                let mut parameters = vec![("weight", vec![channels], true), ("bias", vec![channels], true)];
                if self.spec.norm.groups.is_none() {
                    let statistics = ["running_mean", "running_var"];
                    parameters.extend(statistics.map(|name| (name, vec![channels], false)));
                }
                let what = What { layer: kind, computation: Computation::Norm(self.spec.norm.groups) };
                self.row(layer.span, path, what, x, parameters, 0)
            }
            Op::Activation(activation) => {
                self.row(layer.span, path, format!("{activation:?}").to_lowercase(), x, Vec::new(), 0)
            }
            Op::MaxPool(pool) => self.pool(pool, false, layer.span, path, &x, scope),
            Op::AvgPool(pool) => self.pool(pool, true, layer.span, path, &x, scope),
            Op::SqueezeExcite { ratio, .. } => {
                let channels = x[0];
                let reduced = reduced_channels(channels, *ratio);
                let pointwise = |out, c_in| vec![out, c_in, 1, 1];
                let parameters = vec![
                    ("fc1.weight", pointwise(reduced, channels), true),
                    ("fc1.bias", vec![reduced], true),
                    ("fc2.weight", pointwise(channels, reduced), true),
                    ("fc2.bias", vec![channels], true),
                ];
                let macs = 2 * channels as u128 * reduced as u128;
                let kind = format!("squeeze-excite, {channels} -> {reduced} -> {channels}");
                self.row(layer.span, path, kind, x, parameters, macs)
            }
            Op::EfficientChannelAttention { .. } => {
                let kernel = eca_kernel(x[0]);
                let parameters = vec![("conv.weight", vec![1, 1, kernel], true)];
                let macs = x[0] as u128 * kernel as u128;
                self.row(layer.span, path, format!("channel attention, {kernel} taps"), x, parameters, macs)
            }
            Op::Dropout(p) => self.row(layer.span, path, format!("dropout {p}"), x, Vec::new(), 0),
            Op::Sequence { layers, .. } => self.chain(layers, &format!("{path}."), x, scope),
        }
    }

    fn conv(&mut self, conv: &Conv, at: Span, path: &str, x: &[usize], scope: &Scope<'_>) -> Option<Vec<usize>> {
        let widths = (scope.width(conv.c_out), scope.width(conv.groups));
        let (Some(c_out), Some(groups)) = widths else {
            let message = format!("the channels or groups of `{path}` are no whole number from 1 to {MAX_WIDTH}");
            self.note(at, message, "here", "choose widths that divide evenly");
            return None;
        };
        let c_in = x[0];
        if !c_in.is_multiple_of(groups) || !c_out.is_multiple_of(groups) {
            let message = format!("{c_in} -> {c_out} channels do not split into {groups} groups");
            self.note(at, message, path, "choose `groups` that divides both");
            return None;
        }
        let (kernel, stride) = (scope.extents(&conv.kernel), scope.extents(&conv.stride));
        let dilation = scope.extents(&conv.dilation);
        let padding = conv.padding.clone().unwrap_or_else(|| same_padding(&kernel, &dilation));
        let windows = Windows { input: x.to_vec(), kernel, stride, padding, dilation };
        let mut output = vec![c_out];
        output.extend(self.windows(&windows, false, at, path)?);
        let mut weight = vec![c_out, c_in / groups];
        weight.extend(&windows.kernel);
        let macs = elements(&output) * elements(&weight[1..]);
        let mut layer = format!("conv {}, {c_in} -> {c_out}", sizes(&windows.kernel));
        for (name, values) in [("stride", &windows.stride), ("dilation", &windows.dilation)] {
            if values.iter().any(|value| *value != 1) {
                layer.push_str(&format!(", {name} {}", sizes(values)));
            }
        }
        if groups != 1 {
            layer.push_str(&format!(", {groups} groups"));
        }
        let mut parameters = vec![("weight", weight, true)];
        if conv.bias {
            parameters.push(("bias", vec![c_out], true));
        }
        let what = What { layer, computation: Computation::Conv { windows, groups } };
        self.row(at, path, what, output, parameters, macs)
    }

    fn pool(
        &mut self,
        pool: &Pool,
        average: bool,
        at: Span,
        path: &str,
        x: &[usize],
        scope: &Scope<'_>,
    ) -> Option<Vec<usize>> {
        let (kernel, stride) = (scope.extents(&pool.kernel), scope.extents(&pool.stride));
        let dilation = vec![1; kernel.len()];
        let windows = Windows { input: x.to_vec(), kernel, stride, padding: pool.padding.clone(), dilation };
        let mut output = vec![x[0]];
        output.extend(self.windows(&windows, average, at, path)?);
        let name = if average { "average pool" } else { "max pool" };
        let layer = format!("{name} {}, stride {}", sizes(&windows.kernel), sizes(&windows.stride));
        let computation = if average { Computation::AvgPool(windows) } else { Computation::MaxPool(windows) };
        self.row(at, path, What { layer, computation }, output, Vec::new(), 0)
    }

    /// The output's spatial size; `ceil` allows partial windows at the border.
    fn windows(&mut self, windows: &Windows, ceil: bool, at: Span, path: &str) -> Option<Vec<usize>> {
        let x = &windows.input[1..];
        let output: Option<Vec<usize>> = (0..x.len()).map(|axis| windows.output(axis, x[axis], ceil)).collect();
        if output.is_none() {
            let message = format!("a window of {} does not fit into {}", sizes(&windows.kernel), sizes(x));
            self.note(at, message, path, "use a larger input, fewer strides or a smaller kernel");
        }
        output
    }

    fn classifier(&mut self, c_in: usize, classes: usize) -> Option<()> {
        let parameters = vec![("weight", vec![classes, c_in], true), ("bias", vec![classes], true)];
        let layer = format!("linear, {c_in} -> {classes}");
        self.row(self.at, "fc", layer, vec![classes], parameters, c_in as u128 * classes as u128)?;
        Some(())
    }

    fn pyramid(&mut self, body: &[Feature], channels: usize, extra_maxpool: bool) -> Option<Vec<Feature>> {
        let ones = vec![1; self.spec.dims];
        for (kernel, blocks) in [(1, "inner_blocks"), (3, "layer_blocks")] {
            for (level, feature) in body.iter().enumerate() {
                let c_in = if kernel == 1 { feature.shape[0] } else { channels };
                let weight = [vec![channels, c_in], vec![kernel; self.spec.dims]].concat();
                let output = [&[channels], &feature.shape[1..]].concat();
                let macs = elements(&output) * elements(&weight[1..]);
                let layer = format!("conv {}, {c_in} -> {channels}", sizes(&weight[2..]));
                let windows = Windows {
                    input: [&[c_in], &feature.shape[1..]].concat(),
                    kernel: weight[2..].to_vec(),
                    stride: ones.clone(),
                    padding: same_padding(&weight[2..], &ones),
                    dilation: ones.clone(),
                };
                let what = What { layer, computation: Computation::Conv { windows, groups: 1 } };
                let parameters = vec![("weight", weight, true), ("bias", vec![channels], true)];
                self.row(self.at, &format!("fpn.{blocks}.{level}.0"), what, output, parameters, macs)?;
            }
        }
        let name = |level: usize| format!("p{}", level + 2);
        let level = |(index, feature): (usize, &Feature)| Feature {
            name: name(index),
            shape: [&[channels], &feature.shape[1..]].concat(),
            stride: feature.stride,
        };
        let mut features: Vec<Feature> = body.iter().enumerate().map(level).collect();
        if extra_maxpool && let Some(coarsest) = features.last() {
            // A window of one cell in two.
            let spatial = coarsest.shape[1..].iter().map(|size| size.div_ceil(2));
            let shape = [channels].into_iter().chain(spatial).collect();
            features.push(Feature { name: name(features.len()), shape, stride: coarsest.stride * 2 });
        }
        Some(features)
    }

    /// Notes a layer; `None` where a bound is exceeded.
    fn row(
        &mut self,
        at: Span,
        path: &str,
        what: impl Into<What>,
        output: Vec<usize>,
        parameters: Vec<(&str, Vec<usize>, bool)>,
        macs: u128,
    ) -> Option<Vec<usize>> {
        let What { layer, computation } = what.into();
        if elements(&output) > MAX_ELEMENTS {
            let message =
                format!("the output of `{path}` has {} elements, more than {MAX_ELEMENTS}", elements(&output));
            self.note(at, message, "here", "make the input, a width or the stride of the stem smaller");
            return None;
        }
        let trainable = parameters.iter().filter(|(_, _, trainable)| *trainable);
        let params: u128 = trainable.map(|(_, shape, _)| elements(shape)).sum();
        self.params += params;
        self.macs += macs;
        if self.params > MAX_PARAMS {
            let message = format!("the network has more than {MAX_PARAMS} parameters, counted up to `{path}`");
            self.note(at, message, "here", "make it narrower or less deep");
            return None;
        }
        for (name, shape, trainable) in parameters {
            self.parameters.push(Parameter { name: format!("{path}.{name}"), shape, trainable });
        }
        let params = u64::try_from(params).expect("below MAX_PARAMS");
        let macs = u64::try_from(macs).unwrap_or(u64::MAX);
        self.rows.push(Row { path: path.to_owned(), layer, computation, output: output.clone(), params, macs });
        Some(output)
    }

    fn note(&mut self, at: Span, message: String, label: &str, help: &str) {
        self.diagnostics.error(at, message).label(label).help(help);
    }
}

/// What a layer computes, in words and for programs.
struct What {
    layer: String,
    computation: Computation,
}

impl From<String> for What {
    fn from(layer: String) -> Self {
        What { layer, computation: Computation::Other }
    }
}

impl Windows {
    /// Positions along `axis` of an input of that `size`; `None` where there is none.
    fn output(&self, axis: usize, size: usize, ceil: bool) -> Option<usize> {
        let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
        let room = (size + 2 * self.padding[axis]).checked_sub(reach);
        match room {
            Some(room) if ceil => Some(room.div_ceil(self.stride[axis]) + 1),
            Some(room) => Some(room / self.stride[axis] + 1),
            // A partial window at the border, where one is allowed.
            None => ceil.then_some(1),
        }
    }
}

/// The padding that keeps the size at stride 1, for odd kernels.
pub fn same_padding(kernel: &[usize], dilation: &[usize]) -> Vec<usize> {
    kernel.iter().zip(dilation).map(|(kernel, dilation)| dilation * (kernel / 2)).collect()
}

/// timm's inner width of squeeze-and-excite: `ratio` of the channels, rounded to a multiple of 8.
pub fn reduced_channels(channels: usize, ratio: (usize, usize)) -> usize {
    ((channels * ratio.0 / ratio.1 + 4) / 8 * 8).max(8)
}

/// The kernel of efficient channel attention (Wang et al. 2020, section 3.3.3): (log2(channels) + 1) / 2, made odd.
pub fn eca_kernel(channels: usize) -> usize {
    let half = ((channels as f64).log2() + 1.0).abs() / 2.0;
    let kernel = half as usize;
    (kernel + usize::from(kernel.is_multiple_of(2))).max(3)
}

/// Input pixels a cell of the stem's output.
fn stem_stride(layers: &[Layer]) -> usize {
    let of = |stride: &[Extent]| match stride.last() {
        Some(Extent::Fixed(stride)) => *stride,
        _ => 1,
    };
    let strides = layers.iter().map(|layer| match &layer.op {
        Op::Conv(conv) => of(&conv.stride),
        Op::MaxPool(pool) | Op::AvgPool(pool) => of(&pool.stride),
        Op::Sequence { layers, .. } => stem_stride(layers),
        _ => 1,
    });
    strides.product()
}

fn elements(shape: &[usize]) -> u128 {
    shape.iter().map(|size| *size as u128).product()
}

/// `3x3`; `2` where all axes agree on a stride.
fn sizes(values: &[usize]) -> String {
    values.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

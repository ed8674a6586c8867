//! Layers as fields, constructor expressions and steps of a forward pass.

use super::Module;
use crate::spec::{Activation, Conv, Extent, Layer, Of, Op, Pool, Width};
use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};
use std::collections::BTreeSet;

/// What a constructor's layers refer to, and so takes as an argument. In the order of the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Argument {
    CIn,
    Channels,
    Mid,
    Kernel,
    Stride,
    FirstDilation,
    Dilation,
    Block,
}

impl Argument {
    pub fn name(self) -> TokenStream {
        match self {
            Argument::CIn => quote!(c_in),
            Argument::Channels => quote!(channels),
            Argument::Mid => quote!(mid),
            Argument::Kernel => quote!(kernel),
            Argument::Stride => quote!(stride),
            Argument::FirstDilation => quote!(first_dilation),
            Argument::Dilation => quote!(dilation),
            Argument::Block => quote!(block),
        }
    }

    pub fn parameter(self, dims: usize) -> TokenStream {
        let name = self.name();
        let dims = Literal::usize_unsuffixed(dims);
        match self {
            Argument::Kernel | Argument::Stride => quote!(#name: [usize; #dims]),
            _ => quote!(#name: usize),
        }
    }
}

/// How a chain's layers write what they refer to.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub dims: usize,
    pub expansion: usize,
    /// The kernel where all stages have the same.
    pub kernel: Option<Vec<usize>>,
    /// Whether a stage is dilated.
    pub dilated: bool,
}

impl Scope {
    /// The arguments that constructing `layers` needs.
    pub fn arguments(&self, layers: &[Layer]) -> BTreeSet<Argument> {
        layers.iter().flat_map(|layer| self.of_op(&layer.op)).collect()
    }

    fn of_op(&self, op: &Op) -> BTreeSet<Argument> {
        match op {
            Op::Conv(conv) => {
                let widths = [conv.c_in, conv.c_out, conv.groups].into_iter().filter_map(of_width);
                let extents = conv.kernel.iter().chain(&conv.stride).chain(&conv.dilation);
                widths.chain(extents.filter_map(|extent| self.of_extent(*extent))).collect()
            }
            Op::Norm { channels, .. }
            | Op::SqueezeExcite { channels, .. }
            | Op::EfficientChannelAttention { channels } => of_width(*channels).into_iter().collect(),
            Op::MaxPool(pool) | Op::AvgPool(pool) => {
                pool.kernel.iter().chain(&pool.stride).filter_map(|extent| self.of_extent(*extent)).collect()
            }
            Op::Activation(_) | Op::Dropout(_) => BTreeSet::new(),
            Op::Sequence { layers, .. } => self.arguments(layers),
        }
    }

    fn of_extent(&self, extent: Extent) -> Option<Argument> {
        match extent {
            Extent::Fixed(_) => None,
            Extent::Kernel(_) => self.kernel.is_none().then_some(Argument::Kernel),
            Extent::Stride(_) => Some(Argument::Stride),
            Extent::FirstDilation => self.dilated.then_some(Argument::FirstDilation),
            Extent::Dilation => self.dilated.then_some(Argument::Dilation),
        }
    }

    /// `64`, `c_in`, `4 * channels`, `channels / 2`.
    pub fn width(&self, width: Width) -> TokenStream {
        let (mut times, of, over) = match width.of {
            Of::Out => (width.times * self.expansion, Of::Channels, width.over),
            of => (width.times, of, width.over),
        };
        let mut divisor = over;
        if times % divisor == 0 {
            (times, divisor) = (times / divisor, 1);
        }
        let number = Literal::usize_unsuffixed(times);
        let base = match of {
            Of::One => return quote!(#number),
            Of::In => quote!(c_in),
            Of::Mid => quote!(mid),
            Of::Channels | Of::Out => quote!(channels),
        };
        let product = if times == 1 { base } else { quote!(#number * #base) };
        if divisor == 1 {
            return product;
        }
        let divisor = Literal::usize_unsuffixed(divisor);
        quote!(#product / #divisor)
    }

    /// `stride` where every axis is the block's, else `[1, stride[1], stride[2]]`.
    fn extents(&self, extents: &[Extent]) -> TokenStream {
        let whole =
            |argument: fn(usize) -> Extent| extents.iter().enumerate().all(|(axis, extent)| *extent == argument(axis));
        if whole(Extent::Stride) {
            return quote!(stride);
        }
        if whole(Extent::Kernel) && self.kernel.is_none() {
            return quote!(kernel);
        }
        let each = extents.iter().map(|extent| self.extent(*extent));
        quote!([#(#each),*])
    }

    fn extent(&self, extent: Extent) -> TokenStream {
        match extent {
            Extent::Fixed(value) => number(value),
            Extent::Kernel(axis) => match &self.kernel {
                Some(kernel) => number(kernel[axis]),
                None => {
                    let axis = Literal::usize_unsuffixed(axis);
                    quote!(kernel[#axis])
                }
            },
            Extent::Stride(axis) => {
                let axis = Literal::usize_unsuffixed(axis);
                quote!(stride[#axis])
            }
            Extent::FirstDilation if self.dilated => quote!(first_dilation),
            Extent::Dilation if self.dilated => quote!(dilation),
            Extent::FirstDilation | Extent::Dilation => number(1),
        }
    }

    /// `dilation * (kernel / 2)`, as a number where both are.
    fn same_padding(&self, kernel: Extent, dilation: Extent) -> TokenStream {
        let known_kernel = match (kernel, &self.kernel) {
            (Extent::Fixed(kernel), _) => Some(kernel),
            (Extent::Kernel(axis), Some(kernel)) => Some(kernel[axis]),
            _ => None,
        };
        let known_dilation = match dilation {
            Extent::Fixed(dilation) => Some(dilation),
            _ => (!self.dilated).then_some(1),
        };
        match (known_kernel, known_dilation) {
            (Some(kernel), Some(dilation)) => number(dilation * (kernel / 2)),
            (Some(1), _) => number(0),
            (Some(kernel), None) => {
                let dilation = self.extent(dilation);
                match kernel / 2 {
                    1 => dilation,
                    half => {
                        let half = Literal::usize_unsuffixed(half);
                        quote!(#half * #dilation)
                    }
                }
            }
            (None, known) => {
                let kernel = self.extent(kernel);
                match known {
                    Some(1) => quote!(#kernel / 2),
                    _ => {
                        let dilation = self.extent(dilation);
                        quote!(#dilation * (#kernel / 2))
                    }
                }
            }
        }
    }

    /// `ConvConfig { stride, padding: [1, 1], ..ConvConfig::new([3, 3]) }`: what is not said is the default.
    fn conv_config(&self, conv: &Conv) -> TokenStream {
        let kernel = self.extents(&conv.kernel);
        let ones = array(&vec![1; self.dims]).to_string();
        let zeros = array(&vec![0; self.dims]).to_string();
        let padding = match &conv.padding {
            Some(padding) => array(padding),
            None => {
                let axes = conv.kernel.iter().zip(&conv.dilation);
                let each = axes.map(|(kernel, dilation)| self.same_padding(*kernel, *dilation));
                quote!([#(#each),*])
            }
        };
        let written = [
            ("stride", self.extents(&conv.stride), ones.as_str()),
            ("padding", padding, &zeros),
            ("dilation", self.extents(&conv.dilation), &ones),
            ("groups", self.width(conv.groups), "1"),
            (
                "bias",
                {
                    let bias = conv.bias;
                    quote!(#bias)
                },
                "false",
            ),
        ];
        let fields: Vec<TokenStream> = written
            .into_iter()
            .filter(|(_, value, default)| value.to_string() != *default)
            .map(|(name, value, _)| field(name, value))
            .collect();
        if fields.is_empty() {
            return quote!(ConvConfig::new(#kernel));
        }
        quote!(ConvConfig { #(#fields,)* ..ConvConfig::new(#kernel) })
    }
}

/// `name: value`, or `name` alone where the value is a variable of that name.
fn field(name: &str, value: TokenStream) -> TokenStream {
    let ident = format_ident!("{name}");
    if value.to_string() == name { quote!(#ident) } else { quote!(#ident: #value) }
}

fn of_width(width: Width) -> Option<Argument> {
    match width.of {
        Of::One => None,
        Of::In => Some(Argument::CIn),
        Of::Channels | Of::Out => Some(Argument::Channels),
        Of::Mid => Some(Argument::Mid),
    }
}

pub(super) fn number(value: usize) -> TokenStream {
    let literal = Literal::usize_unsuffixed(value);
    quote!(#literal)
}

pub(super) fn array(values: &[usize]) -> TokenStream {
    let each = values.iter().map(|value| Literal::usize_unsuffixed(*value));
    quote!([#(#each),*])
}

pub(super) fn activation(activation: Activation) -> TokenStream {
    match activation {
        Activation::Identity => quote!(Activation::Identity),
        Activation::Relu => quote!(Activation::Relu),
        Activation::Silu => quote!(Activation::Silu),
        Activation::Gelu => quote!(Activation::Gelu),
    }
}

impl Module<'_> {
    pub(super) fn conv_type(&mut self) -> TokenStream {
        let name = if self.compiled.spec.dims == 2 { "Conv2d" } else { "Conv3d" };
        self.nn.insert(name);
        let name = format_ident!("{name}");
        quote!(#name)
    }

    fn norm_type(&mut self) -> TokenStream {
        let name = if self.compiled.spec.norm.groups.is_some() { "GroupNorm" } else { "BatchNorm" };
        self.nn.insert(name);
        let name = format_ident!("{name}");
        quote!(#name)
    }

    /// The type of a layer's field; `None` where an activation needs no field.
    fn field_type(&mut self, layer: &Layer, scope: &Scope, in_tuple: bool) -> Option<TokenStream> {
        let dims = Literal::usize_unsuffixed(scope.dims);
        Some(match &layer.op {
            Op::Conv(_) => self.conv_type(),
            Op::Norm { .. } => self.norm_type(),
            Op::Activation(_) if !in_tuple => return None,
            Op::Activation(_) => {
                self.nn.insert("Activation");
                quote!(Activation)
            }
            Op::MaxPool(_) => {
                self.nn.insert("MaxPool");
                quote!(MaxPool<#dims>)
            }
            Op::AvgPool(_) => {
                self.nn.insert("AvgPool");
                quote!(AvgPool<#dims>)
            }
            Op::SqueezeExcite { .. } => {
                self.nn.insert("SqueezeExcite");
                quote!(SqueezeExcite)
            }
            Op::EfficientChannelAttention { .. } => {
                self.nn.insert("EfficientChannelAttention");
                quote!(EfficientChannelAttention)
            }
            Op::Dropout(_) => {
                self.nn.insert("Dropout");
                quote!(Dropout)
            }
            Op::Sequence { type_name, layers } => {
                let name = format_ident!("{}", self.sequence(type_name, layers, scope, false));
                quote!(#name)
            }
        })
    }

    /// The expression that constructs a layer at `vb`'s `name`.
    fn construct(&mut self, layer: &Layer, scope: &Scope) -> TokenStream {
        let name = layer.name.as_str();
        let vb = match name.parse::<usize>() {
            Ok(index) => {
                let index = Literal::usize_unsuffixed(index);
                quote!(vb.pp(#index))
            }
            Err(_) => quote!(vb.pp(#name)),
        };
        match &layer.op {
            Op::Conv(conv) => {
                self.nn.insert("ConvConfig");
                let name = self.conv_type();
                let (c_in, c_out) = (scope.width(conv.c_in), scope.width(conv.c_out));
                let config = scope.conv_config(conv);
                quote!(#name::new(#c_in, #c_out, #config, #vb)?)
            }
            Op::Norm { channels, zero_init } => {
                let channels = scope.width(*channels);
                let name = self.norm_type();
                let config = if *zero_init { quote!(NormConfig { zero_init: true, ..NORM }) } else { quote!(NORM) };
                self.nn.insert("NormConfig");
                match self.compiled.spec.norm.groups {
                    Some(groups) => {
                        let groups = Literal::usize_unsuffixed(groups);
                        quote!(#name::new(#groups, #channels, #config, #vb)?)
                    }
                    None => quote!(#name::new(#channels, #config, #vb)?),
                }
            }
            Op::Activation(kind) => activation(*kind),
            Op::MaxPool(pool) => {
                let (kernel, stride, padding) = pool_fields(pool, scope);
                quote!(MaxPool { kernel: #kernel, #stride, padding: #padding })
            }
            Op::AvgPool(pool) => {
                let (kernel, stride, padding) = pool_fields(pool, scope);
                quote! {
                    AvgPool { kernel: #kernel, #stride, padding: #padding, ceil_mode: true, count_include_pad: false }
                }
            }
            Op::SqueezeExcite { channels, ratio: (times, over) } => {
                let width = scope.width(Width { times: channels.times * times, ..*channels });
                let channels = scope.width(*channels);
                let over = Literal::usize_unsuffixed(*over);
                quote!(SqueezeExcite::new(#channels, ((#width / #over + 4) / 8 * 8).max(8), #vb)?)
            }
            Op::EfficientChannelAttention { channels } => {
                let channels = scope.width(*channels);
                quote!(EfficientChannelAttention::new(#channels, #vb)?)
            }
            Op::Dropout(p) => {
                let p = Literal::f64_unsuffixed(*p);
                quote!(Dropout::new(#p, &#vb)?)
            }
            Op::Sequence { type_name, layers } => {
                let name = format_ident!("{}", self.sequence(type_name, layers, scope, false));
                let arguments = scope.arguments(layers).into_iter().map(Argument::name);
                quote!(#name::new(#(#arguments,)* #vb)?)
            }
        }
    }

    /// `pub conv1: Conv2d` for each layer that has a field, documented by `doc`.
    pub(super) fn fields(
        &mut self,
        layers: &[Layer],
        scope: &Scope,
        doc: &dyn Fn(&Layer) -> String,
    ) -> Vec<TokenStream> {
        let mut fields = Vec::new();
        for layer in layers {
            if let Some(kind) = self.field_type(layer, scope, false) {
                let (name, doc) = (format_ident!("{}", layer.name), doc(layer));
                fields.push(quote!(#[doc = #doc] pub #name: #kind));
            }
        }
        fields
    }

    /// `conv1: Conv2d::new(..)?` for each layer that has a field.
    pub(super) fn initializers(&mut self, layers: &[Layer], scope: &Scope) -> Vec<TokenStream> {
        let mut initializers = Vec::new();
        for layer in layers {
            if !matches!(layer.op, Op::Activation(_)) {
                let (name, value) = (format_ident!("{}", layer.name), self.construct(layer, scope));
                initializers.push(quote!(#name: #value));
            }
        }
        initializers
    }

    /// Defines the tuple struct of a sequence unless it stands, and returns its name.
    pub(super) fn sequence(&mut self, wanted: &str, layers: &[Layer], scope: &Scope, forward: bool) -> String {
        let values: Vec<TokenStream> = layers.iter().map(|layer| self.construct(layer, scope)).collect();
        let kinds: Vec<TokenStream> =
            layers.iter().map(|layer| self.field_type(layer, scope, true).expect("a tuple has all fields")).collect();
        let definition = format!("{wanted} {}", quote!(#(#kinds = #values),*));
        if let Some((_, name)) = self.sequences.iter().find(|(known, _)| *known == definition) {
            return name.clone();
        }
        let name = self.name(wanted);
        self.sequences.push((definition, name.clone()));
        let ident = format_ident!("{name}");
        let docs = layers.iter().map(|layer| describe(&layer.op, scope));
        let parameters = scope.arguments(layers).into_iter().map(|argument| argument.parameter(scope.dims));
        let doc = " In torch a `Sequential`: its fields are the checkpoint's indices.";
        let vb = if needs_vb(layers) { quote!(vb) } else { quote!(_vb) };
        let forward_t = forward.then(|| {
            let steps = self.steps(layers, &quote!(self));
            let (body, train) = (chain(&steps, None), train_name(&steps));
            quote! {
                #[doc = " The layers, one after another."]
                pub fn forward_t(&self, x: &Tensor, #train: bool) -> Result<Tensor> {
                    #body
                }
            }
        });
        self.structs.push(quote! {
            #[doc = #doc]
            #[derive(Debug, Clone)]
            pub struct #ident(#(#[doc = #docs] pub #kinds),*);

            impl #ident {
                #[doc = " Reads or makes the parameters."]
                pub fn new(#(#parameters,)* #vb: VarBuilder) -> Result<Self> {
                    Ok(#ident(#(#values),*))
                }
                #forward_t
            }
        });
        name
    }

    /// The forward pass of `layers`, which are fields of `owner`: sequences inlined, each norm with its activation.
    pub(super) fn steps(&mut self, layers: &[Layer], owner: &TokenStream) -> Vec<Step> {
        let mut steps = Vec::new();
        self.push_steps(layers, owner, false, &mut steps);
        steps
    }

    fn push_steps(&mut self, layers: &[Layer], owner: &TokenStream, in_tuple: bool, steps: &mut Vec<Step>) {
        for layer in layers {
            let path = match layer.name.parse::<usize>() {
                Ok(index) => {
                    let index = Literal::usize_unsuffixed(index);
                    quote!(#owner.#index)
                }
                Err(_) => {
                    let name = format_ident!("{}", layer.name);
                    quote!(#owner.#name)
                }
            };
            match &layer.op {
                Op::Norm { .. } => {
                    let conv = match steps.pop_if(|step| matches!(step, Step::Conv(_))) {
                        Some(Step::Conv(conv)) => Some(conv),
                        _ => None,
                    };
                    steps.push(Step::Norm { path, conv, activation: None });
                }
                Op::Conv(_) => steps.push(Step::Conv(path)),
                Op::Activation(kind) => {
                    let value = if in_tuple { path } else { activation(*kind) };
                    self.nn.insert("Activation");
                    match steps.last_mut() {
                        Some(Step::Norm { activation: slot @ None, .. }) => *slot = Some(value),
                        _ => steps.push(Step::Forward(value)),
                    }
                }
                Op::Dropout(_) => steps.push(Step::ForwardT(path)),
                Op::Sequence { layers, .. } => self.push_steps(layers, &path, true, steps),
                _ => steps.push(Step::Forward(path)),
            }
        }
        if steps.iter().any(|step| matches!(step, Step::Norm { activation: None, .. })) {
            self.nn.insert("Activation");
        }
    }
}

fn pool_fields(pool: &Pool, scope: &Scope) -> (TokenStream, TokenStream, TokenStream) {
    (scope.extents(&pool.kernel), field("stride", scope.extents(&pool.stride)), array(&pool.padding))
}

fn needs_vb(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| !matches!(layer.op, Op::Activation(_) | Op::MaxPool(_) | Op::AvgPool(_)))
}

/// What a layer is, for its field's documentation.
pub(super) fn describe(op: &Op, scope: &Scope) -> String {
    let extents = |extents: &[Extent]| {
        let each: Vec<String> =
            extents.iter().map(|extent| scope.extent(*extent).to_string().replace(' ', "")).collect();
        each.join("x")
    };
    match op {
        Op::Conv(conv) => {
            let groups = match scope.width(conv.groups).to_string().as_str() {
                "1" => String::new(),
                groups => format!(" in {groups} groups"),
            };
            let (c_in, c_out) = (scope.width(conv.c_in), scope.width(conv.c_out));
            format!(" {} convolution, `{c_in}` to `{c_out}` channels{groups}.", extents(&conv.kernel))
        }
        Op::Norm { channels, .. } => format!(" Norm of `{}` channels.", scope.width(*channels)),
        Op::Activation(kind) => format!(" {kind:?}."),
        Op::MaxPool(pool) => format!(" {} maximum.", extents(&pool.kernel)),
        Op::AvgPool(pool) => format!(" {} average.", extents(&pool.kernel)),
        Op::SqueezeExcite { channels, .. } => {
            format!(" Squeeze and excitation of `{}` channels.", scope.width(*channels))
        }
        Op::EfficientChannelAttention { channels } => {
            format!(" Efficient channel attention over `{}` channels.", scope.width(*channels))
        }
        Op::Dropout(p) => format!(" Dropout of {p}."),
        Op::Sequence { layers, .. } => {
            let each: Vec<String> =
                layers.iter().map(|layer| describe(&layer.op, scope).trim().trim_end_matches('.').to_owned()).collect();
            format!(" {}.", each.join("; "))
        }
    }
}

/// One call of a forward pass.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// `path.forward(x)`.
    Forward(TokenStream),
    /// `path.forward(x)`, of a convolution.
    Conv(TokenStream),
    /// `path.forward_t(x, train)`.
    ForwardT(TokenStream),
    /// `path.forward_t(x, activation, train)`, or after a convolution `path.forward_conv_t(&conv, x, activation, train)`.
    Norm { path: TokenStream, conv: Option<TokenStream>, activation: Option<TokenStream> },
}

impl Step {
    /// The call on `x`, of type `Result<Tensor>`.
    pub fn call(&self, x: &TokenStream) -> TokenStream {
        match self {
            Step::Forward(path) | Step::Conv(path) => quote!(#path.forward(#x)),
            Step::ForwardT(path) => quote!(#path.forward_t(#x, train)),
            Step::Norm { path, conv, activation } => {
                let activation = activation.clone().unwrap_or_else(|| quote!(Activation::Identity));
                match conv {
                    Some(conv) => quote!(#path.forward_conv_t(&#conv, #x, #activation, train)),
                    None => quote!(#path.forward_t(#x, #activation, train)),
                }
            }
        }
    }

    fn uses_train(&self) -> bool {
        !matches!(self, Step::Forward(_) | Step::Conv(_))
    }
}

/// `train`, or `_train` where no step asks for it.
pub(super) fn train_name(steps: &[Step]) -> TokenStream {
    if steps.iter().any(Step::uses_train) { quote!(train) } else { quote!(_train) }
}

/// `let x = ..;` for each step from `x: &Tensor` on, then `end` (which reads `x: Tensor`), or the last step as the value.
pub(super) fn chain(steps: &[Step], end: Option<TokenStream>) -> TokenStream {
    let count = if end.is_some() { steps.len() } else { steps.len() - 1 };
    let argument = |index: usize| if index == 0 { quote!(x) } else { quote!(&x) };
    let lets = steps[..count].iter().enumerate().map(|(index, step)| {
        let call = step.call(&argument(index));
        quote!(let x = #call?;)
    });
    let end = end.unwrap_or_else(|| steps[count].call(&argument(count)));
    quote!(#(#lets)* #end)
}

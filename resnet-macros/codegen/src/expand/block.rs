//! Blocks: a struct, its constructor, a stage of it, its forward pass.

use super::Module;
use super::layer::{Argument, Scope, Step, activation, array, chain, describe, number, train_name};
use crate::spec::{Activation, Block, Shortcut, Stage};
use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};
use std::collections::BTreeSet;

/// A block that the module defines.
pub(super) struct Defined {
    pub name: String,
    arguments: BTreeSet<Argument>,
    scope: Scope,
    shortcut: ShortcutKind,
}

/// How a block's shortcut is expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShortcutKind {
    /// `downsample: Option<Downsample>`.
    Downsample,
    /// No block changes its shape.
    Input,
    Pad,
    Same,
    None,
}

impl Defined {
    /// The call that constructs a stage of it; `first` counts the blocks before.
    pub fn stage(&self, stage: &Stage, c_in: usize, first: usize, path: &str) -> TokenStream {
        let name = format_ident!("{}", self.name);
        let mut values = vec![number(stage.depth)];
        for argument in &self.arguments {
            match argument {
                Argument::CIn => values.push(number(c_in)),
                Argument::Channels => values.push(number(stage.channels)),
                Argument::Mid => {}
                Argument::Kernel => values.push(array(&stage.kernel)),
                Argument::Stride => values.push(array(&stage.stride)),
                Argument::FirstDilation => values.push(number(stage.first_dilation)),
                Argument::Dilation => values.push(number(stage.dilation)),
                Argument::Block => values.push(number(first)),
            }
        }
        // A block whose first dilation alone is used still needs its stage's for the blocks after the first.
        if self.needs_stage_dilation() {
            values.push(number(stage.dilation));
        }
        quote!(#name::stage(#(#values,)* vb.pp(#path))?)
    }

    fn needs_stage_dilation(&self) -> bool {
        self.arguments.contains(&Argument::FirstDilation) && !self.arguments.contains(&Argument::Dilation)
    }
}

/// Defines the block of that index.
pub(super) fn define(module: &mut Module<'_>, index: usize) -> Defined {
    let spec = &module.compiled.spec;
    let block: &Block = &spec.blocks[index];
    let stages = || spec.stages.iter().filter(move |stage| stage.block == index);
    let same_kernel = stages().all(|stage| Some(&stage.kernel) == stages().next().map(|stage| &stage.kernel));
    let scope = Scope {
        dims: spec.dims,
        expansion: block.expansion,
        kernel: stages().next().filter(|_| same_kernel).map(|stage| stage.kernel.clone()),
        dilated: stages().any(|stage| stage.dilation != 1 || stage.first_dilation != 1),
    };
    let changes = spec.each_block().any(|(stage, block_index, c_in)| {
        spec.stages[stage].block == index && spec.stages[stage].changes_shape(block_index, c_in, block.expansion)
    });
    let shortcut = match &block.shortcut {
        Shortcut::None => ShortcutKind::None,
        _ if !changes => ShortcutKind::Input,
        Shortcut::Layers(_) => ShortcutKind::Downsample,
        Shortcut::Pad => ShortcutKind::Pad,
        Shortcut::Same => ShortcutKind::Same,
    };
    let mut arguments = scope.arguments(&block.layers);
    if !matches!(shortcut, ShortcutKind::None | ShortcutKind::Input) {
        arguments.extend([Argument::CIn, Argument::Channels, Argument::Stride]);
    }
    if let (Shortcut::Layers(layers), ShortcutKind::Downsample) = (&block.shortcut, shortcut) {
        arguments.extend(scope.arguments(layers));
    }
    let mid = arguments.contains(&Argument::Mid);
    if mid {
        arguments.extend([Argument::CIn, Argument::Channels]);
    }
    let drop_path = spec.drop_path > 0.0 && shortcut != ShortcutKind::None;
    if drop_path {
        arguments.insert(Argument::Block);
    }
    let name = module.name(&block.type_name);
    let defined = Defined { name, arguments, scope, shortcut };
    let item = item(module, block, &defined, mid, drop_path);
    module.structs.push(item);
    defined
}

fn item(module: &mut Module<'_>, block: &Block, defined: &Defined, mid: bool, drop_path: bool) -> TokenStream {
    let scope = &defined.scope;
    let name = format_ident!("{}", defined.name);
    let dims = Literal::usize_unsuffixed(scope.dims);
    let mut fields = module.fields(&block.layers, scope, &|layer| describe(&layer.op, scope));
    let mut initializers = module.initializers(&block.layers, scope);
    let out = scope.width(crate::spec::Width::of(crate::spec::Of::Out));
    let ones = array(&vec![1; scope.dims]);
    let mut before = TokenStream::new();
    if mid {
        before.extend(quote!(let mid = c_in * channels * 27 / (c_in * 9 + 3 * channels);));
    }
    match (defined.shortcut, &block.shortcut) {
        (ShortcutKind::Downsample, Shortcut::Layers(layers)) => {
            let kind = format_ident!("{}", module.sequence("Downsample", layers, scope, true));
            let arguments = scope.arguments(layers).into_iter().map(Argument::name);
            fields.push(quote! {
                #[doc = " The shortcut of a block that changes the shape."]
                pub downsample: Option<#kind>
            });
            initializers.push(quote!(downsample));
            before.extend(quote! {
                let downsample = if stride != #ones || c_in != #out {
                    Some(#kind::new(#(#arguments,)* vb.pp("downsample"))?)
                } else {
                    None
                };
            });
        }
        (ShortcutKind::Pad, _) => {
            fields.push(quote!(#[doc = " Channels of the output."] pub channels: usize));
            fields.push(quote!(#[doc = " Stride of the block."] pub stride: [usize; #dims]));
            initializers.push(if block.expansion == 1 { quote!(channels) } else { quote!(channels: #out) });
            initializers.push(quote!(stride));
        }
        (ShortcutKind::Same, _) => {
            fields.push(
                quote!(#[doc = " Whether the block keeps its input's shape, and so adds it."] pub keeps_shape: bool),
            );
            initializers.push(quote!(keeps_shape: stride == #ones && c_in == #out));
        }
        _ => {}
    }
    if drop_path {
        module.nn.insert("DropPath");
        let last = module.compiled.spec.stages.iter().map(|stage| stage.depth).sum::<usize>() - 1;
        let (rate, last) =
            (Literal::f64_unsuffixed(module.compiled.spec.drop_path), Literal::f64_unsuffixed(last.max(1) as f64));
        fields.push(quote!(#[doc = " Stochastic depth, likelier in later blocks."] pub drop_path: DropPath));
        initializers.push(quote!(drop_path: DropPath::new(#rate * block as f64 / #last, &vb.pp("drop_path"))?));
    }
    let new_parameters = defined.arguments.iter().filter(|argument| **argument != Argument::Mid);
    let new_parameters = new_parameters.map(|argument| argument.parameter(scope.dims));
    let stage = stage_function(defined, &out, &ones);
    let forward = forward(module, block, defined, drop_path);
    let doc = match &block.shortcut {
        Shortcut::None => format!(" A plain block: `[N, .., c_in]` to `[N, .., {out}]`."),
        _ => format!(" A residual block: `[N, .., c_in]` to `[N, .., {out}]`."),
    };
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone)]
        pub struct #name { #(#fields),* }

        impl #name {
            #[doc = " Reads or makes the parameters."]
            pub fn new(#(#new_parameters,)* vb: VarBuilder) -> Result<Self> {
                #before
                Ok(#name { #(#initializers),* })
            }
            #stage
            #forward
        }
    }
}

fn stage_function(defined: &Defined, out: &TokenStream, ones: &TokenStream) -> TokenStream {
    let arguments: Vec<Argument> =
        defined.arguments.iter().copied().filter(|argument| *argument != Argument::Mid).collect();
    let mut parameters: Vec<TokenStream> =
        arguments.iter().map(|argument| argument.parameter(defined.scope.dims)).collect();
    if defined.needs_stage_dilation() {
        parameters.push(quote!(dilation: usize));
    }
    // Where no layer asks for the stage's channels the width never changes.
    let out = if defined.arguments.contains(&Argument::Channels) { out.clone() } else { quote!(c_in) };
    let first = arguments.iter().map(|argument| argument.name());
    let rest = arguments.iter().map(|argument| match argument {
        Argument::CIn => out.clone(),
        Argument::Stride => ones.clone(),
        Argument::FirstDilation => quote!(dilation),
        Argument::Block => quote!(block + index),
        argument => argument.name(),
    });
    quote! {
        #[doc = " `depth` blocks, the first of which changes the shape."]
        pub fn stage(depth: usize, #(#parameters,)* vb: VarBuilder) -> Result<Vec<Self>> {
            let first = Self::new(#(#first,)* vb.pp(0));
            let rest = (1..depth).map(|index| Self::new(#(#rest,)* vb.pp(index)));
            std::iter::once(first).chain(rest).collect()
        }
    }
}

fn forward(module: &mut Module<'_>, block: &Block, defined: &Defined, drop_path: bool) -> TokenStream {
    let mut steps = module.steps(&block.layers, &quote!(self));
    // Where there is no shortcut a dropped path would be a dropped sample.
    let drop_if_added = drop_path && defined.shortcut == ShortcutKind::Same;
    if drop_path && !drop_if_added {
        steps.push(Step::ForwardT(quote!(self.drop_path)));
    }
    let after = activation(block.after);
    let identity = block.after == Activation::Identity;
    let shortcut = match defined.shortcut {
        ShortcutKind::Downsample => quote! {
            let shortcut = match &self.downsample {
                Some(downsample) => downsample.forward_t(x, train)?,
                None => x.clone(),
            };
        },
        ShortcutKind::Pad => {
            module.nn.insert("pad_shortcut");
            quote!(let shortcut = pad_shortcut(x, self.channels, self.stride[0])?;)
        }
        ShortcutKind::Input | ShortcutKind::Same => quote!(let shortcut = x.clone();),
        ShortcutKind::None => TokenStream::new(),
    };
    if defined.shortcut != ShortcutKind::None || !identity {
        module.nn.insert("Activation");
    }
    let mut train =
        if defined.shortcut == ShortcutKind::Downsample || drop_if_added { quote!(train) } else { train_name(&steps) };
    let body = match (defined.shortcut, steps.last().cloned()) {
        (ShortcutKind::None, Some(Step::Norm { path, conv, activation: None })) if !identity => {
            steps.pop();
            steps.push(Step::Norm { path, conv, activation: Some(after) });
            chain(&steps, None)
        }
        (ShortcutKind::None, _) if identity => chain(&steps, None),
        (ShortcutKind::None, _) => {
            steps.push(Step::Forward(after));
            chain(&steps, None)
        }
        (ShortcutKind::Same, _) => {
            module.nn.insert("add_activation");
            let plain = if identity { quote!(Ok(x)) } else { quote!(#after.forward(&x)) };
            let drop = drop_if_added.then(|| quote!(let x = self.drop_path.forward_t(&x, train)?;));
            let end = quote!(if self.keeps_shape { #drop add_activation(&x, &shortcut, #after) } else { #plain });
            chain(&steps, Some(end))
        }
        (_, Some(Step::Norm { path, conv, activation: None })) => {
            steps.pop();
            train = quote!(train);
            let x = if steps.is_empty() { quote!(x) } else { quote!(&x) };
            let end = match conv {
                Some(conv) => quote!(#path.forward_conv_add_t(&#conv, #x, &shortcut, #after, train)),
                None => quote!(#path.forward_add_t(#x, &shortcut, #after, train)),
            };
            chain(&steps, Some(end))
        }
        (_, _) => {
            module.nn.insert("add_activation");
            let x = if steps.is_empty() { quote!(x) } else { quote!(&x) };
            chain(&steps, Some(quote!(add_activation(#x, &shortcut, #after))))
        }
    };
    quote! {
        #[doc = " The block's output; `train` says whether norms use the batch and dropouts draw."]
        pub fn forward_t(&self, x: &Tensor, #train: bool) -> Result<Tensor> {
            #shortcut
            #body
        }
    }
}

//! The network: stem, stages, and a classifier, a pyramid, or nothing.

use super::Module;
use super::block::{self, Defined};
use super::layer::{Scope, chain};
use crate::shape::{Row, Summary};
use crate::spec::camel_case;
use crate::spec::{Layer, Norm, Spec, Top};
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};

pub(super) fn expand(module: &mut Module<'_>) -> TokenStream {
    let compiled = module.compiled;
    let spec = &compiled.spec;
    let wanted = camel_case(&spec.name);
    let wanted = if module.names.contains(&wanted) { format!("{wanted}Model") } else { wanted };
    let name = format_ident!("{}", module.name(&wanted));
    let scope = Scope { dims: spec.dims, expansion: 1, kernel: None, dilated: false };
    let blocks: Vec<Defined> = (0..spec.blocks.len()).map(|index| block::define(module, index)).collect();
    let backbone = Backbone::new(module, spec, &compiled.summary, &scope, &blocks);
    let network = match spec.top {
        Top::Classifier { dropout, .. } => classifier(module, &name, &backbone, dropout),
        Top::Backbone => headless(module, &name, &backbone),
        Top::Pyramid { channels, extra_maxpool } => pyramid(module, &name, &backbone, channels, extra_maxpool),
    };
    let takes_classes = matches!(spec.top, Top::Classifier { .. });
    let build = if takes_classes {
        quote!(|classes, vb| Ok(Box::new(#name::new(classes, vb)?)))
    } else {
        quote!(|_, vb| Ok(Box::new(#name::new(vb)?)))
    };
    let norm = norm(&spec.norm);
    module.nn.insert("channels_first");
    module.nn.insert("channels_last");
    module.nn.insert("segment");
    module.nn.insert("stage");
    quote! {
        #[doc = " The network for a table of models."]
        pub const ENTRY: Entry = Entry { card: &CARD, build: #build };
        #norm
        #network
    }
}

fn norm(norm: &Norm) -> TokenStream {
    let (eps, momentum) = (Literal::f64_unsuffixed(norm.eps), Literal::f64_unsuffixed(norm.momentum));
    quote!(const NORM: NormConfig = NormConfig { zero_init: false, eps: #eps, momentum: #momentum };)
}

/// Stem and stages: what all networks have.
struct Backbone {
    fields: Vec<TokenStream>,
    initializers: Vec<TokenStream>,
    /// `fn stages(&self, x, train) -> Result<[Tensor; 4]>`.
    stages: TokenStream,
    /// `c2`, `c3`, ..
    maps: Vec<Ident>,
    out_channels: usize,
}

impl Backbone {
    fn new(module: &mut Module<'_>, spec: &Spec, summary: &Summary, scope: &Scope, blocks: &[Defined]) -> Self {
        let rows = summary.by_field();
        let shape = |layer: &Layer| shape_doc(&rows, &format!("{}{}", spec.prefix(), layer.name));
        let mut fields = module.fields(&spec.stem, scope, &shape);
        let mut initializers = module.initializers(&spec.stem, scope);
        let mut maps = Vec::new();
        let mut passes = Vec::new();
        let (mut c_in, mut first) = (spec.stem_channels(), 0);
        for (index, stage) in spec.stages.iter().enumerate() {
            let path = format!("layer{}", index + 1);
            let (field, map) = (format_ident!("{path}"), format_ident!("c{}", index + 2));
            let block = &blocks[stage.block];
            let (kind, value) = (format_ident!("{}", block.name), block.stage(stage, c_in, first, &path));
            let doc = shape_doc(&rows, &format!("{}{path}", spec.prefix()));
            fields.push(quote!(#[doc = #doc] pub #field: Vec<#kind>));
            initializers.push(quote!(#field: #value));
            let input = maps.last().map_or_else(|| quote!(x), |map| quote!(#map));
            passes.push(quote! {
                let #map = stage(&#input, &self.#field, move |block, x| block.forward_t(x, train))?;
            });
            maps.push(map);
            (c_in, first) = (spec.out_channels(index), first + stage.depth);
        }
        let steps = module.steps(&spec.stem, &quote!(self));
        let stem = chain(&steps, None);
        let count = Literal::usize_unsuffixed(maps.len());
        let doc = format!(" The channels-last feature maps `{}` to `{}`.", maps[0], maps[maps.len() - 1]);
        let stages = quote! {
            #[doc = #doc]
            fn stages(&self, x: &Tensor, train: bool) -> Result<[Tensor; #count]> {
                let x = segment(&channels_last(x)?, |x| { #stem })?;
                #(#passes)*
                Ok([#(#maps),*])
            }
        };
        Backbone { fields, initializers, stages, maps, out_channels: c_in }
    }

    /// `[_, _, _, c5]`.
    fn last_map(&self) -> TokenStream {
        let last = &self.maps[self.maps.len() - 1];
        let skipped = self.maps[1..].iter().map(|_| quote!(_));
        quote!([#(#skipped,)* #last])
    }

    /// `Features(Vec::from([("c2", channels_first(&c2)?), ..]))`.
    fn features(&self) -> TokenStream {
        let maps = &self.maps;
        let names = maps.iter().map(Ident::to_string);
        quote! {
            let [#(#maps),*] = self.stages(x, train)?;
            Ok(Features(Vec::from([#((#names, channels_first(&#maps)?)),*])))
        }
    }
}

/// `` `f32[N, 56, 56, 64]` ``.
fn shape_doc(rows: &[Row], path: &str) -> String {
    match rows.iter().find(|row| row.path == path) {
        Some(row) => {
            let spatial = row.output[1..].iter().chain(&row.output[..1]).map(usize::to_string);
            format!(" `f32[N, {}]`", spatial.collect::<Vec<_>>().join(", "))
        }
        None => String::new(),
    }
}

fn model_impl(name: &Ident, forward: &TokenStream, features: &TokenStream) -> TokenStream {
    quote! {
        impl ModuleT for #name {
            fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
                #forward
            }
        }

        impl Model for #name {
            fn card(&self) -> &'static ModelCard {
                &CARD
            }

            fn forward_features(&self, x: &Tensor, train: bool) -> Result<Features> {
                #features
            }
        }
    }
}

fn classifier(module: &mut Module<'_>, name: &Ident, backbone: &Backbone, dropout: f64) -> TokenStream {
    module.nn.insert("Linear");
    module.nn.insert("global_avg_pool");
    let Backbone { fields, initializers, stages, .. } = backbone;
    let (field, initializer, pass) = if dropout > 0.0 {
        module.nn.insert("Dropout");
        let p = Literal::f64_unsuffixed(dropout);
        (
            quote!(#[doc = " Before the classifier, in training."] pub dropout: Dropout,),
            quote!(dropout: Dropout::new(#p, &vb.pp("dropout"))?,),
            quote!(let x = self.dropout.forward_t(&x, train)?;),
        )
    } else {
        Default::default()
    };
    let channels = Literal::usize_unsuffixed(backbone.out_channels);
    let (pattern, last) = (backbone.last_map(), &backbone.maps[backbone.maps.len() - 1]);
    let forward = quote! {
        let #pattern = self.stages(x, train)?;
        let x = global_avg_pool(&#last)?;
        #pass
        self.fc.forward(&x)
    };
    let implementation = model_impl(name, &forward, &backbone.features());
    let doc = struct_doc(module, "Logits `f32[N, classes]` of an image");
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone)]
        pub struct #name {
            #(#fields,)*
            #field
            #[doc = " `f32[N, classes]`"]
            pub fc: Linear,
        }

        impl #name {
            #[doc = " Reads or makes the parameters, for so many classes."]
            pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
                Ok(#name {
                    #(#initializers,)*
                    #initializer
                    fc: Linear::new(#channels, classes, vb.pp("fc"))?,
                })
            }
            #stages
        }

        #implementation
    }
}

fn headless(module: &mut Module<'_>, name: &Ident, backbone: &Backbone) -> TokenStream {
    let Backbone { fields, initializers, stages, .. } = backbone;
    let (pattern, last) = (backbone.last_map(), &backbone.maps[backbone.maps.len() - 1]);
    let forward = quote! {
        let #pattern = self.stages(x, train)?;
        channels_first(&#last)
    };
    let implementation = model_impl(name, &forward, &backbone.features());
    let doc = struct_doc(module, "The last feature map of an image");
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone)]
        pub struct #name { #(#fields),* }

        impl #name {
            #[doc = " Reads or makes the parameters."]
            pub fn new(vb: VarBuilder) -> Result<Self> {
                Ok(#name { #(#initializers),* })
            }
            #stages
        }

        #implementation
    }
}

fn pyramid(
    module: &mut Module<'_>,
    name: &Ident,
    backbone: &Backbone,
    channels: usize,
    extra_maxpool: bool,
) -> TokenStream {
    module.nn.insert("FeaturePyramid");
    let Backbone { fields, initializers, stages, .. } = backbone;
    let summary = &module.compiled.summary;
    let names: Vec<&str> = summary.features.iter().map(|feature| feature.name.as_str()).collect();
    let spec = &module.compiled.spec;
    let inputs: Vec<usize> = (0..spec.stages.len()).map(|stage| spec.out_channels(stage)).collect();
    let inputs = super::layer::array(&inputs);
    let channels = Literal::usize_unsuffixed(channels);
    let forward = quote! {
        let levels = self.fpn.forward(&self.body.stages(x, train)?)?;
        channels_first(&levels[levels.len() - 1])
    };
    let features = quote! {
        let levels = self.fpn.forward(&self.body.stages(x, train)?)?;
        let maps = [#(#names),*].into_iter().zip(&levels);
        Ok(Features(maps.map(|(name, level)| Ok((name, channels_first(level)?))).collect::<Result<_>>()?))
    };
    let implementation = model_impl(name, &forward, &features);
    let doc = struct_doc(module, "Feature maps of an image");
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone)]
        pub struct #name {
            #[doc = " The backbone, named as in torchvision's detection models."]
            pub body: Body,
            #[doc = " Lateral and top-down connections."]
            pub fpn: FeaturePyramid,
        }

        impl #name {
            #[doc = " Reads or makes the parameters."]
            pub fn new(vb: VarBuilder) -> Result<Self> {
                Ok(#name {
                    body: Body::new(vb.pp("body"))?,
                    fpn: FeaturePyramid::new(&#inputs, #channels, #extra_maxpool, vb.pp("fpn"))?,
                })
            }
        }

        #implementation

        #[doc = " The backbone."]
        #[derive(Debug, Clone)]
        pub struct Body { #(#fields),* }

        impl Body {
            #[doc = " Reads or makes the parameters."]
            pub fn new(vb: VarBuilder) -> Result<Self> {
                Ok(Body { #(#initializers),* })
            }
            #stages
        }
    }
}

fn struct_doc(module: &Module<'_>, what: &str) -> String {
    let spec = &module.compiled.spec;
    let axes = if spec.dims == 2 { "H, W" } else { "D, H, W" };
    format!(" {what} `f32[N, {}, {axes}]`.", spec.input[0])
}

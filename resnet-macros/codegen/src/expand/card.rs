//! The card: facts that are known when the network is compiled.

use super::Module;
use super::layer::array;
use crate::Compiled;
use crate::spec::{Interpolation, Preprocess, Top, Weights};
use proc_macro2::{Literal, TokenStream};
use quote::quote;

/// The card's part of the imports.
pub(super) fn imports(compiled: &Compiled) -> TokenStream {
    let weights = (!compiled.spec.weights.is_empty()).then(|| quote!(, WeightCard));
    quote!({Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess #weights})
}

pub(super) fn expand(module: &Module<'_>) -> TokenStream {
    let Compiled { spec, summary, files, sha256 } = module.compiled;
    let name = &spec.name;
    let params = Literal::u64_unsuffixed(summary.params);
    let macs = Literal::u64_unsuffixed(summary.macs);
    let dims = Literal::usize_unsuffixed(spec.dims);
    let input = array(&spec.input);
    let classes = Literal::usize_unsuffixed(if let Top::Classifier { classes, .. } = spec.top { classes } else { 0 });
    let features = summary.features.iter().map(|feature| {
        let name = &feature.name;
        let channels = Literal::usize_unsuffixed(feature.shape[0]);
        let stride = Literal::usize_unsuffixed(feature.stride);
        quote!(FeatureCard { name: #name, channels: #channels, stride: #stride })
    });
    let first_conv = summary.parameters[0].name.strip_suffix(".weight").unwrap_or_default();
    let classifier = if matches!(spec.top, Top::Classifier { .. }) { quote!(Some("fc")) } else { quote!(None) };
    let preprocess = preprocess(&spec.preprocess);
    let weights = spec.weights.iter().map(weights);
    let sources = files.iter().map(|file| {
        let (name, text) = (super::file_name(&file.name), verbatim(&file.text));
        quote!((#name, #text))
    });
    quote! {
        #[doc = " What the spec says about this architecture."]
        pub const CARD: ModelCard = ModelCard {
            name: #name,
            params: #params,
            macs: #macs,
            dims: #dims,
            input: &#input,
            classes: #classes,
            features: &[#(#features),*],
            first_conv: #first_conv,
            classifier: #classifier,
            preprocess: #preprocess,
            weights: &[#(#weights),*],
            sources: &[#(#sources),*],
            spec_sha256: #sha256,
        };
    }
}

fn preprocess(preprocess: &Preprocess) -> TokenStream {
    let resize = Literal::usize_unsuffixed(preprocess.resize);
    let crop = Literal::usize_unsuffixed(preprocess.crop);
    let interpolation = match preprocess.interpolation {
        Interpolation::Nearest => quote!(Interpolation::Nearest),
        Interpolation::Bilinear => quote!(Interpolation::Bilinear),
        Interpolation::Bicubic => quote!(Interpolation::Bicubic),
    };
    let mean = preprocess.mean.map(Literal::f32_unsuffixed);
    let std = preprocess.std.map(Literal::f32_unsuffixed);
    quote! {
        Preprocess {
            resize: #resize,
            crop: #crop,
            interpolation: #interpolation,
            mean: [#(#mean),*],
            std: [#(#std),*],
        }
    }
}

fn weights(weights: &Weights) -> TokenStream {
    let Weights { tag, repository, file, licence, .. } = weights;
    let revision = option(weights.revision.as_ref());
    let sha256 = option(weights.sha256.as_ref());
    let size = option(weights.size.map(Literal::u64_unsuffixed));
    let top1 = option(weights.top1.map(Literal::f64_unsuffixed));
    let preprocess = option(weights.preprocess.as_ref().map(preprocess));
    quote! {
        WeightCard {
            tag: #tag,
            repository: #repository,
            revision: #revision,
            file: #file,
            sha256: #sha256,
            size: #size,
            licence: #licence,
            top1: #top1,
            preprocess: #preprocess,
        }
    }
}

fn option<T: quote::ToTokens>(value: Option<T>) -> TokenStream {
    match value {
        Some(value) => quote!(Some(#value)),
        None => quote!(None),
    }
}

/// The text as a raw string literal, so that it reads as it was written.
fn verbatim(text: &str) -> TokenStream {
    let hashes = (1..8).map(|count| "#".repeat(count)).find(|hashes| !text.contains(&format!("\"{hashes}")));
    let raw = hashes.filter(|_| !text.contains('\r')).map(|hashes| format!("r{hashes}\"{text}\"{hashes}"));
    match raw.and_then(|raw| raw.parse::<Literal>().ok()) {
        Some(literal) => quote!(#literal),
        None => quote!(#text),
    }
}

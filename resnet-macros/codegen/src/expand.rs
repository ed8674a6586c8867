//! [`Spec`](crate::spec::Spec) -> Rust. Cannot fail: what could be wrong was found by `check`.
//!
//! The expansion should read as a good engineer would write it by hand: a struct for the network,
//! one for each kind of block, tuple structs where torch has a `Sequential`, and constants where
//! nothing varies. Text of the spec becomes identifiers and literals, nothing else.

mod block;
mod card;
mod layer;
mod network;
mod stub;

use crate::Compiled;
use proc_macro2::TokenStream;
use quote::quote;
use std::collections::BTreeSet;

pub use stub::stub;

/// The items of the module that a spec becomes. `krate` is the path of package `zoo` where the module
/// will stand: `::zoo`, or `crate` inside it.
pub fn expand(compiled: &Compiled, krate: &TokenStream) -> TokenStream {
    let mut module = Module::new(compiled);
    let network = network::expand(&mut module);
    let card = card::expand(&module);
    let doc = module_doc(compiled);
    let Module { structs, nn, .. } = module;
    let names = nn.iter().map(|name| quote::format_ident!("{name}"));
    let model = card::imports(compiled);
    quote! {
        #(#![doc = #doc])*

        use #krate::candle_core::{Result, Tensor};
        use #krate::candle_nn::{ModuleT, VarBuilder};
        use #krate::nn::{#(#names),*};
        use #krate::#model;

        #card
        #network
        #(#structs)*
    }
}

/// The module's documentation, line by line.
fn module_doc(compiled: &Compiled) -> Vec<String> {
    let (spec, summary) = (&compiled.spec, &compiled.summary);
    let input = spec.input.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let facts =
        format!("{} parameters, {} multiply-accumulates at {input}.", grouped(summary.params), grouped(summary.macs));
    let origin = format!("Compiled from `{}`; tensors are channels-last inside.", file_name(&compiled.files[0].name));
    let about = spec.doc.iter().flat_map(|doc| doc.trim().lines().chain([""]));
    about.chain([facts.as_str(), origin.as_str()]).map(|line| format!(" {}", line.trim_end())).collect()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `21,797,672`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The module under construction.
struct Module<'a> {
    compiled: &'a Compiled,
    /// Item names in use.
    names: BTreeSet<String>,
    /// What is imported from `zoo::nn`.
    nn: BTreeSet<&'static str>,
    /// Blocks and sequences.
    structs: Vec<TokenStream>,
    /// Sequences that stand already: their definition and their name.
    sequences: Vec<(String, String)>,
}

/// Names that a module imports or defines whatever the spec says.
const TAKEN: [&str; 40] = [
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Body",
    "Box",
    "CARD",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvConfig",
    "DropPath",
    "Dropout",
    "ENTRY",
    "EfficientChannelAttention",
    "Entry",
    "Err",
    "FeatureCard",
    "FeaturePyramid",
    "Features",
    "GroupNorm",
    "Interpolation",
    "Linear",
    "MaxPool",
    "Model",
    "ModelCard",
    "ModuleT",
    "NORM",
    "None",
    "NormConfig",
    "Ok",
    "Option",
    "Preprocess",
    "Result",
    "Self",
    "Some",
    "SqueezeExcite",
    "Tensor",
    "VarBuilder",
    "Vec",
    "WeightCard",
];

impl<'a> Module<'a> {
    fn new(compiled: &'a Compiled) -> Self {
        let names = TAKEN.iter().map(|name| (*name).to_owned()).collect();
        Module { compiled, names, nn: BTreeSet::new(), structs: Vec::new(), sequences: Vec::new() }
    }

    /// `wanted`, or with a suffix where that name is taken.
    fn name(&mut self, wanted: &str) -> String {
        let name = if self.names.contains(wanted) {
            (2..).map(|suffix| format!("{wanted}{suffix}")).find(|name| !self.names.contains(name)).expect("endless")
        } else {
            wanted.to_owned()
        };
        self.names.insert(name.clone());
        name
    }
}

//! What stands in for a network whose spec is wrong, so that the code that uses it brings no errors of its own.

use crate::spec::camel_case;
use crate::yaml::{Node, Value};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};

/// The items that users name: the network, `CARD`, `ENTRY`. `spec` is the tree as far as it could be read;
/// without a name in it the network is called after its `module`.
pub fn stub(spec: Option<&Node>, module: &str, krate: &TokenStream) -> TokenStream {
    let get = |key: &str| match spec.map(|spec| &spec.value) {
        Some(Value::Map(entries)) => {
            entries.iter().find(|(written, _)| written.name == key).map(|(_, node)| &node.value)
        }
        _ => None,
    };
    let name = match get("name") {
        Some(Value::Str(name)) if syn::parse_str::<syn::Ident>(&camel_case(name)).is_ok() => camel_case(name),
        _ => camel_case(module),
    };
    let name = format_ident!("{name}");
    let headless = get("neck").is_some() || matches!(get("head"), Some(Value::Str(_)));
    let classes = (!headless).then(|| quote!(_classes: usize,));
    let build = if headless {
        quote!(|_, vb| Ok(Box::new(#name::new(vb)?)))
    } else {
        quote!(|classes, vb| Ok(Box::new(#name::new(classes, vb)?)))
    };
    quote! {
        #![allow(missing_docs, unused_qualifications)]

        use #krate::candle_core::{Result, Tensor};
        use #krate::candle_nn::{ModuleT, VarBuilder};
        use #krate::{Entry, Features, Interpolation, Model, ModelCard, Preprocess};

        pub const CARD: ModelCard = ModelCard {
            name: "",
            params: 0,
            macs: 0,
            dims: 2,
            input: &[],
            classes: 0,
            features: &[],
            first_conv: "",
            classifier: None,
            preprocess: Preprocess {
                resize: 1,
                crop: 1,
                interpolation: Interpolation::Nearest,
                mean: [0.0; 3],
                std: [1.0; 3],
            },
            weights: &[],
            sources: &[],
            spec_sha256: "",
        };
        pub const ENTRY: Entry = Entry { card: &CARD, build: #build };

        #[derive(Debug, Clone)]
        pub struct #name;

        impl #name {
            pub fn new(#classes _vb: VarBuilder) -> Result<Self> {
                unreachable!("the spec is wrong, so this never compiles")
            }
        }

        impl ModuleT for #name {
            fn forward_t(&self, _: &Tensor, _: bool) -> Result<Tensor> {
                unreachable!("the spec is wrong, so this never compiles")
            }
        }

        impl Model for #name {
            fn card(&self) -> &'static ModelCard {
                &CARD
            }

            fn forward_features(&self, _: &Tensor, _: bool) -> Result<Features> {
                unreachable!("the spec is wrong, so this never compiles")
            }
        }
    }
}

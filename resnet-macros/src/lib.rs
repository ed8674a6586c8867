//! `zoo!`: compiles YAML architecture specs into candle modules. Use it as `zoo::zoo!`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use resnet_codegen::diagnostic::Sources;
use resnet_codegen::{expand, yaml};
use std::io::Read;
use std::path::Path;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Ident, LitStr, Token, Visibility};

/// Makes a module of each spec.
///
/// ```text
/// zoo::zoo! {
///     pub mod resnet34 = "resnet34.yaml";
///     mod mine = "specs/mine.yaml";
/// }
/// ```
///
/// Paths are relative to the folder of the calling crate's `Cargo.toml`. A module holds the network
/// (`resnet34::ResNet34`), its `CARD` and its `ENTRY` for a table of networks; `resnet-zoo show NAME
/// --expand` prints it. A wrong spec is one compile error for each mistake, with its place in the
/// YAML. `crate = ::renamed;` before the first `mod` says where package `zoo` is, if not at `::zoo`.
#[proc_macro]
pub fn zoo(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let zoo = syn::parse_macro_input!(input as Zoo);
    zoo.expand().into()
}

struct Zoo {
    krate: TokenStream,
    models: Vec<Model>,
}

/// `pub mod resnet34 = "resnet34.yaml";`
struct Model {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    path: LitStr,
}

impl Parse for Zoo {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let krate = if input.peek(Token![crate]) && input.peek2(Token![=]) {
            input.parse::<Token![crate]>()?;
            input.parse::<Token![=]>()?;
            let path = syn::Path::parse_mod_style(input)?;
            input.parse::<Token![;]>()?;
            quote!(#path)
        } else {
            quote!(::zoo)
        };
        let mut models = Vec::new();
        while !input.is_empty() {
            models.push(input.parse()?);
        }
        Ok(Zoo { krate, models })
    }
}

impl Parse for Model {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        input.parse::<Token![mod]>()?;
        let name = input.parse()?;
        input.parse::<Token![=]>()?;
        let path = input.parse()?;
        input.parse::<Token![;]>()?;
        Ok(Model { attributes, visibility, name, path })
    }
}

impl Zoo {
    fn expand(&self) -> TokenStream {
        let folder = match std::env::var("CARGO_MANIFEST_DIR") {
            Ok(folder) => folder,
            Err(_) => {
                return error(Span::call_site(), "`zoo!` finds its specs by CARGO_MANIFEST_DIR: build with cargo");
            }
        };
        self.models.iter().map(|model| model.expand(Path::new(&folder), &self.krate)).collect()
    }
}

impl Model {
    fn expand(&self, crate_folder: &Path, krate: &TokenStream) -> TokenStream {
        let written = self.path.value();
        let file = crate_folder.join(&written);
        let folder = file.parent().unwrap_or(crate_folder);
        let text = match read(&file) {
            Ok(text) => text,
            Err(reason) => {
                let message = format!("cannot read `{written}`, a path from the folder of Cargo.toml: {reason}");
                return [
                    error(self.path.span(), &message),
                    self.module(&expand::stub(None, &self.name.to_string(), krate)),
                ]
                .into_iter()
                .collect();
            }
        };
        let mut sources = Sources::default();
        let root = sources.add(written, text);
        let compiled = resnet_codegen::compile(&mut sources, root, &|path| read(&folder.join(path)));
        // rustc rebuilds when a file changes that an `include_bytes!` names.
        let root_folder = sources.get(root).name.rfind('/').map_or(0, |slash| slash + 1);
        let read = sources.iter().map(|source| folder.join(&source.name[root_folder..]).display().to_string());
        let tracked = quote!(#(const _: &[u8] = ::core::include_bytes!(#read);)*);
        match compiled {
            Ok(compiled) => {
                let items = expand::expand(&compiled, krate);
                self.module(&quote!(#items #tracked))
            }
            Err(diagnostics) => {
                let errors = diagnostics.render_each(&sources).into_iter().map(|text| {
                    let text = text.strip_prefix("error: ").unwrap_or(&text);
                    error(self.path.span(), text)
                });
                let errors: TokenStream = errors.collect();
                let spec = yaml::parse(&sources, root).ok();
                let stub = expand::stub(spec.as_ref(), &self.name.to_string(), krate);
                let module = self.module(&quote!(#stub #tracked));
                quote!(#errors #module)
            }
        }
    }

    fn module(&self, items: &TokenStream) -> TokenStream {
        let Model { attributes, visibility, name, .. } = self;
        quote!(#(#attributes)* #visibility mod #name { #items })
    }
}

/// The file's text; of a file that is too long as much as shows that it is.
fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(yaml::MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn error(span: Span, message: &str) -> TokenStream {
    quote_spanned!(span=> ::core::compile_error! { #message })
}

//! The spec compiler: YAML text -> checked [`Spec`](spec::Spec) -> Rust text. No I/O, no candle, so
//! that `zoo!` (inside rustc) and the `resnet-zoo` binary (`check`, `show --expand`, experiments)
//! share it.
//!
//! ```
//! use resnet_codegen::diagnostic::Sources;
//!
//! let mut sources = Sources::default();
//! let root = sources.add("tiny.yaml", "name: tiny\nblock: basic\ndepths: [1, 1]\n");
//! let no_files = |path: &str| Err(format!("{path} does not exist"));
//! let compiled = resnet_codegen::compile(&mut sources, root, &no_files).expect("a valid spec");
//! assert_eq!(compiled.summary.features[1].shape, [128, 28, 28]);
//! let rust = resnet_codegen::pretty(&compiled);
//! assert!(rust.contains("pub layer2: Vec<BasicBlock>"));
//! ```

pub mod check;
pub mod diagnostic;
pub mod expand;
pub mod fields;
pub mod raw;
pub mod shape;
pub mod spec;
pub mod yaml;

use diagnostic::{Diagnostics, FileId, Source, Sources};
use sha2::{Digest, Sha256};

/// A spec that passed every check.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// What it says.
    pub spec: spec::Spec,
    /// Shapes, parameters and multiply-accumulates at the spec's own input size.
    pub summary: shape::Summary,
    /// The files it was read from, the spec itself first, then what it extends.
    pub files: Vec<Source>,
    /// sha256 over the texts of `files`, one after another, hexadecimal.
    pub sha256: String,
}

/// Compiles the spec `root`.
///
/// `load` reads what the spec `extends`, by its path relative to the folder of `root`, and says why
/// it cannot; what it reads is added to `sources`.
///
/// # Errors
/// Every mistake of the pass, each inside a file of `sources`.
pub fn compile(
    sources: &mut Sources,
    root: FileId,
    load: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Compiled, Diagnostics> {
    let before = sources.iter().count();
    let merged = raw::read(sources, root, load)?;
    let check::Checked { spec, summary } = check::check(&merged)?;
    let extended = sources.iter().skip(before).cloned();
    let files: Vec<Source> = [sources.get(root).clone()].into_iter().chain(extended).collect();
    let mut hash = Sha256::new();
    files.iter().for_each(|file| hash.update(&file.text));
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Compiled { spec, summary, files, sha256 })
}

/// The Rust module that `zoo!` makes of a spec, as text: what `show --expand` prints.
///
/// # Panics
/// Never: what `expand` writes is Rust.
pub fn pretty(compiled: &Compiled) -> String {
    let tokens = expand::expand(compiled, &quote::quote!(::zoo));
    prettyplease::unparse(&syn::parse2(tokens).expect("`expand` writes valid Rust"))
}

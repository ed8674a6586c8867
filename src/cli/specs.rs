//! Specs: those that the binary carries, and files.

use crate::error::{Error, Result};
use crate::task::compile_files;
use resnet_codegen::Compiled;
use resnet_codegen::diagnostic::{Diagnostics, Sources};
use resnet_codegen::yaml::MAX_BYTES;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zoo::ModelCard;

/// Compiles the spec that a card carries.
pub(super) fn compile_card(card: &ModelCard) -> Result<Compiled> {
    compile_files(card.sources)
}

/// Compiles a spec file.
pub(super) fn compile_file(path: &Path) -> Result<Compiled> {
    let text = read(path).map_err(Error::Input)?;
    let (result, sources) = compile_text(path, text);
    result.map_err(|mistakes| Error::diagnostics(&mistakes, &sources))
}

/// Compiles the text of a spec file; what it extends lies in the file's folder.
pub(super) fn compile_text(path: &Path, text: String) -> (Result<Compiled, Diagnostics>, Sources) {
    let mut sources = Sources::default();
    let root = sources.add(path.display().to_string(), text);
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let result = resnet_codegen::compile(&mut sources, root, &|extends| read(&folder.join(extends)));
    (result, sources)
}

/// The text of a regular file that is not longer than a spec or an experiment can be by much.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let wrong = |why: &str| format!("cannot read {}: {why}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        // One byte more than allowed, so that the reader's own message tells of the bound.
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(&error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| wrong(&format!("byte {} is not UTF-8", error.utf8_error().valid_up_to())))
}

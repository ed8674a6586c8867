//! What the text of a model's spec says of it.

use crate::error::{Error, Result};
use resnet_codegen::Compiled;
use resnet_codegen::diagnostic::Sources;
use resnet_codegen::shape::{Summary, summarize};

/// Compiles a spec of these files, by name and text: the first is the spec, the others are what it extends.
///
/// # Errors
/// Where this version does not read it.
pub fn compile_files(files: &[(&str, &str)]) -> Result<Compiled> {
    let mut sources = Sources::default();
    let Some((name, text)) = files.first() else { return Err(Error::input("a spec of no file")) };
    let root = sources.add(*name, *text);
    let load = |path: &str| {
        let found = files.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| format!("{path} is not one of the spec's files"))
    };
    resnet_codegen::compile(&mut sources, root, &load).map_err(|mistakes| Error::diagnostics(&mistakes, &sources))
}

/// The layers, parameters and multiply-accumulates for one sample of `input`: channels, then the spatial size. The number of
/// classes is the spec's own.
///
/// # Errors
/// Where the network has no place for so few pixels, or so many.
pub fn summary_of(compiled: &Compiled, input: &[usize]) -> Result<Summary> {
    let spec = &compiled.spec;
    summarize(spec, input, spec.input_span).map_err(|mistakes| {
        let why: Vec<&str> = mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
        let size = |input: &[usize]| input.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        let (name, size, own) = (&spec.name, size(input), size(&spec.input));
        Error::input(format!("{name} cannot take an input of {size}: {}; its own is {own}", why.join("; ")))
    })
}

/// [`summary_of`] one that is `side` pixels wide and high.
///
/// # Errors
/// As there.
pub fn summary_at(compiled: &Compiled, side: usize) -> Result<Summary> {
    let mut input = compiled.spec.input.clone();
    // Channels, then for clips frames; height and width are the last two.
    input.iter_mut().rev().take(2).for_each(|length| *length = side);
    summary_of(compiled, &input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_times_the_pixels_cost_four_times_as_much() {
        let card = zoo::models::find("resnet34").expect("it is in the zoo").card;
        let compiled = compile_files(card.sources).expect("sound");
        assert_eq!(compiled.summary.macs, card.macs);
        let double = summary_at(&compiled, 448).expect("sound");
        // All but the classifier's 512 x 1000.
        assert_eq!(double.macs - 512_000, 4 * (card.macs - 512_000));
        assert!(compile_files(&[]).is_err() && compile_files(&[("a.yaml", "name: [")]).is_err());
    }
}

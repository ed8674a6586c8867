//! Any one-token mutation of a spec of the zoo gives a network, or mistakes inside the file; never a panic.

use resnet_codegen::diagnostic::Sources;
use std::path::Path;

/// What a slip of the hand or a hostile author puts where a token was.
const REPLACEMENTS: [&str; 24] = [
    "0",
    "-1",
    "1",
    "7",
    "1e9",
    "4294967296",
    "1152921504606846976",
    "0.5",
    ".inf",
    "true",
    "~",
    "''",
    "[",
    "]",
    "{}",
    "[1, 2]",
    ":",
    "basic",
    "none",
    "2plus1d",
    "&a",
    "*a",
    "é",
    "\"\\0\"",
];

/// The text's words and punctuation as byte ranges.
fn tokens(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut tokens = Vec::new();
    let mut start = None;
    for (index, c) in text.char_indices() {
        let word = c.is_alphanumeric() || "_./".contains(c);
        match start {
            Some(from) if !word => {
                tokens.push(from..index);
                start = None;
            }
            None if word => start = Some(index),
            _ => {}
        }
        if !word && !c.is_whitespace() {
            tokens.push(index..index + c.len_utf8());
        }
    }
    tokens.extend(start.map(|from| from..text.len()));
    tokens
}

fn mutations(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let replaced =
        |range: &std::ops::Range<usize>, by: &str| format!("{}{by}{}", &text[..range.start], &text[range.end..]);
    let mut mutated = Vec::new();
    for (index, range) in tokens.iter().enumerate() {
        mutated.push(replaced(range, ""));
        mutated.push(replaced(range, &format!("{0} {0}", &text[range.clone()])));
        if let Some(next) = tokens.get(index + 1) {
            let (here, there) = (&text[range.clone()], &text[next.clone()]);
            mutated.push(format!("{}{there} {here}{}", &text[..range.start], &text[next.end..]));
        }
        // Every replacement is tried somewhere, a few at each token.
        for pick in 0..5 {
            mutated.push(replaced(range, REPLACEMENTS[(index * 5 + pick) % REPLACEMENTS.len()]));
        }
    }
    mutated
}

#[test]
fn a_mutated_spec_is_a_network_or_a_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../zoo");
    let load = |path: &str| std::fs::read_to_string(folder.join(path)).map_err(|error| error.to_string());
    let (mut valid, mut wrong) = (0, 0);
    for name in [
        "cifar_resnet20",
        "ecaresnet50t",
        "mc3_18",
        "r2plus1d_18",
        "resnet34",
        "resnet50_fpn",
        "resnext50_32x4d",
        "seresnet50",
    ] {
        let text = load(&format!("{name}.yaml")).expect("a spec of the zoo");
        for mutated in mutations(&text) {
            let mut sources = Sources::default();
            let root = sources.add("mutated.yaml", mutated);
            match resnet_codegen::compile(&mut sources, root, &load) {
                Ok(compiled) => {
                    valid += 1;
                    if valid % 40 == 0 {
                        resnet_codegen::pretty(&compiled);
                    }
                }
                Err(errors) => {
                    wrong += 1;
                    for error in errors.iter() {
                        let text = &sources.get(error.span.file).text;
                        let inside = text.get(error.span.start as usize..error.span.end as usize);
                        assert!(inside.is_some(), "{error:?} lies outside of\n{text}");
                    }
                    assert!(errors.render(&sources).contains("mutated.yaml:") || sources.iter().count() > 1);
                }
            }
        }
    }
    assert!(valid > 100 && wrong > 1000, "{valid} valid, {wrong} wrong");
}

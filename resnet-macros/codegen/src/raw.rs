//! The spec as written: one node for each key, over the files of an `extends` chain.

use crate::diagnostic::{Diagnostics, FileId, Sources};
use crate::yaml::{self, Key, Node, Value};

/// Longest chain of `extends`.
pub const MAX_FILES: usize = 8;

/// Keys that describe one file and are never inherited: a changed network has neither the name nor
/// the weights of the one it extends.
const OWN: [&str; 4] = ["name", "doc", "extends", "weights"];

/// Reads the spec `root` and what it extends, and merges them: a key of a file replaces the whole
/// value of the same key in the file that it extends.
///
/// `load` reads a file by its path relative to the folder of `root`; the `Err` says why it cannot.
pub fn read(
    sources: &mut Sources,
    root: FileId,
    load: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Node, Diagnostics> {
    let folder = folder_of(&sources.get(root).name).to_owned();
    let mut path = sources.get(root).name[folder.len()..].to_owned();
    let mut seen = vec![path.clone()];
    let mut merged = yaml::parse(sources, root)?;
    let mut next = extends(&merged, &path)?;
    while let Some((parent_path, at)) = next {
        let mut diagnostics = Diagnostics::default();
        if seen.contains(&parent_path) {
            diagnostics
                .error(at, format!("`{path}` extends `{parent_path}`, which leads back to it"))
                .help("let one file of the circle extend nothing");
            return Err(diagnostics);
        }
        if seen.len() == MAX_FILES {
            diagnostics
                .error(at, format!("a chain of `extends` has at most {MAX_FILES} files"))
                .help("write the middle of the chain out");
            return Err(diagnostics);
        }
        let text = match load(&parent_path) {
            Ok(text) => text,
            Err(reason) => {
                diagnostics
                    .error(at, format!("cannot read `{parent_path}`: {reason}"))
                    .help("`extends` is the path of a spec, relative to the file that extends it");
                return Err(diagnostics);
            }
        };
        let file = sources.add(format!("{folder}{parent_path}"), text);
        let parent = yaml::parse(sources, file)?;
        next = extends(&parent, &parent_path)?;
        merged = merge(merged, parent);
        path = parent_path;
        seen.push(path.clone());
    }
    Ok(merged)
}

fn folder_of(path: &str) -> &str {
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

/// The path that a spec extends, relative to the root's folder, and where it says so.
fn extends(spec: &Node, path: &str) -> Result<Option<(String, crate::diagnostic::Span)>, Diagnostics> {
    let Value::Map(entries) = &spec.value else { return Ok(None) };
    let Some((_, node)) = entries.iter().find(|(key, _)| key.name == "extends") else { return Ok(None) };
    let mut diagnostics = Diagnostics::default();
    let Some(target) = node.text("`extends`", &mut diagnostics) else { return Err(diagnostics) };
    let stays_inside = !target.is_empty()
        && !target.contains(['\\', ':', '\0'])
        && target.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
    if !stays_inside {
        diagnostics
            .error(node.span, "`extends` is a relative path that stays in its folder")
            .help("write it like `extends: resnet50.yaml`");
        return Err(diagnostics);
    }
    Ok(Some((format!("{}{target}", folder_of(path)), node.span)))
}

fn merge(child: Node, parent: Node) -> Node {
    let (Value::Map(mut entries), Value::Map(inherited)) = (child.value, parent.value.clone()) else {
        return parent;
    };
    let says = |entries: &[(Key, Node)], name: &str| entries.iter().any(|(key, _)| key.name == name);
    let child_stages = says(&entries, "stages");
    for (key, node) in inherited {
        let overridden = says(&entries, &key.name) || (key.name == "depths" && child_stages);
        if !overridden && !OWN.contains(&key.name.as_str()) {
            entries.push((key, node));
        }
    }
    Node { value: Value::Map(entries), span: child.span }
}

//! Which samples differ.

use super::Layer;
use crate::data::{Sample, read_sample_list};
use crate::error::Result;
use crate::registry::Reader;
use crate::registry::run::RunDetail;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Names that a note gives.
const EXAMPLES: usize = 5;

pub(super) fn layer(a: &RunDetail, b: &RunDetail, reader: &mut Reader) -> Result<Layer> {
    let mut layer = Layer::new("data");
    layer.compare("data", a.data_sha256.clone(), b.data_sha256.clone());
    layer.compare("classes", json!(a.classes), json!(b.classes));
    if a.data_sha256 == b.data_sha256 {
        return Ok(layer);
    }
    let mut list = |run: &RunDetail| -> Result<Option<Vec<Sample>>> {
        let list = reader.samples(&run.data_sha256)?;
        Ok(list.and_then(|list| read_sample_list(&list).ok()))
    };
    let (Some(in_a), Some(in_b)) = (list(a)?, list(b)?) else {
        layer.notes.push("which samples differ is not known: one of the lists was not kept, or is damaged".to_owned());
        return Ok(layer);
    };
    for part in ["train", "val"] {
        let count = |samples: &[Sample]| samples.iter().filter(|sample| sample.0 == part).count();
        layer.compare(&format!("{part} samples"), count(&in_a), count(&in_b));
    }
    for (what, ids) in changes(&in_a, &in_b, &a.classes, &b.classes) {
        let more = if ids.len() > EXAMPLES { ", .." } else { "" };
        layer.notes.push(format!("{} {what}: {}{more}", ids.len(), ids[..ids.len().min(EXAMPLES)].join(", ")));
    }
    Ok(layer)
}

/// What happened to samples between two lists, and to which: a sample is known by its id, or else by its content.
fn changes(a: &[Sample], b: &[Sample], classes_a: &[String], classes_b: &[String]) -> Vec<(&'static str, Vec<String>)> {
    let by_id = |samples: &[Sample]| -> BTreeMap<String, Sample> {
        samples.iter().map(|sample| (sample.3.clone(), sample.clone())).collect()
    };
    let (in_a, in_b) = (by_id(a), by_id(b));
    let only = |some: &BTreeMap<String, Sample>, others: &BTreeMap<String, Sample>| -> Vec<Sample> {
        some.iter().filter(|(id, _)| !others.contains_key(*id)).map(|(_, sample)| sample.clone()).collect()
    };
    let (mut gone, mut new) = (only(&in_a, &in_b), only(&in_b, &in_a));
    let contents = |samples: &[Sample]| samples.iter().map(|sample| sample.2.clone()).collect::<BTreeSet<_>>();
    let (contents_gone, contents_new) = (contents(&gone), contents(&new));
    let renamed: Vec<String> =
        new.iter().filter(|sample| contents_gone.contains(&sample.2)).map(|sample| sample.3.clone()).collect();
    gone.retain(|sample| !contents_new.contains(&sample.2));
    new.retain(|sample| !contents_gone.contains(&sample.2));

    let class = |classes: &[String], label: u32| classes.get(label as usize).cloned();
    let both = || in_a.iter().filter_map(|(id, a)| Some((id, a, in_b.get(id)?)));
    let those = |differs: &dyn Fn(&Sample, &Sample) -> bool| -> Vec<String> {
        both().filter(|(_, a, b)| differs(a, b)).map(|(id, ..)| id.clone()).collect()
    };
    let ids = |samples: Vec<Sample>| samples.into_iter().map(|sample| sample.3).collect::<Vec<_>>();
    let mut found = vec![
        ("only in a", ids(gone)),
        ("only in b", ids(new)),
        ("with another name in b", renamed),
        ("with other content", those(&|a, b| a.2 != b.2)),
        ("with another class", those(&|a, b| class(classes_a, a.1) != class(classes_b, b.1))),
        ("in the other part", those(&|a, b| a.0 != b.0)),
    ];
    found.retain(|(_, ids)| !ids.is_empty());
    if found.is_empty() {
        let moved = a.iter().zip(b).filter(|(a, b)| a.3 != b.3).map(|(a, _)| a.3.clone());
        found.push(("in another order", moved.collect()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(part: &str, label: u32, content: &str, id: &str) -> Sample {
        Sample(part.to_owned(), label, content.to_owned(), id.to_owned())
    }

    #[test]
    fn each_kind_of_change_is_told_apart() {
        let classes = ["cat".to_owned(), "dog".to_owned()];
        let a = [
            sample("train", 0, "01", "same"),
            sample("train", 0, "02", "gone"),
            sample("train", 0, "03", "old name"),
            sample("train", 0, "04", "edited"),
            sample("train", 0, "05", "relabelled"),
            sample("train", 0, "06", "moved"),
        ];
        let b = [
            sample("train", 0, "01", "same"),
            sample("train", 0, "12", "new"),
            sample("train", 0, "03", "new name"),
            sample("train", 0, "14", "edited"),
            sample("train", 1, "05", "relabelled"),
            sample("val", 0, "06", "moved"),
        ];
        let expected = [
            ("only in a", "gone"),
            ("only in b", "new"),
            ("with another name in b", "new name"),
            ("with other content", "edited"),
            ("with another class", "relabelled"),
            ("in the other part", "moved"),
        ];
        assert_eq!(changes(&a, &b, &classes, &classes), expected.map(|(what, id)| (what, vec![id.to_owned()])));
        let swapped = [a[1].clone(), a[0].clone()];
        let order = changes(&a[..2], &swapped, &classes, &classes);
        assert_eq!(order, [("in another order", vec!["same".to_owned(), "gone".to_owned()])]);
    }
}

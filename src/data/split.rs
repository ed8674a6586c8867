//! A seeded split into training and validation.

use super::files::Found;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use zoo::random::{Key, Stream, stream_of};

/// Splits each class on its own: `val_fraction` of it, rounded, validates, but at least one sample and never all. Both
/// parts keep their order.
pub(super) fn seeded(found: Vec<Found>, val_fraction: f64, seed: u64) -> Result<(Vec<Found>, Vec<Found>)> {
    if !(val_fraction > 0.0 && val_fraction < 1.0) {
        return Err(Error::input(format!("val_fraction must be above 0 and below 1, not {val_fraction}")));
    }
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, found) in found.iter().enumerate() {
        classes.entry(found.label).or_default().push(index);
    }
    let mut validates = vec![false; found.len()];
    for (&label, members) in &classes {
        let key = Key { seed, stream: stream_of("data.split"), step: 0, index: u64::from(label) };
        let most = members.len() - 1;
        let count = ((members.len() as f64 * val_fraction).round() as usize).max(1).min(most);
        for &member in &Stream::new(key).permutation(members.len())[..count] {
            validates[members[member]] = true;
        }
    }
    let (val, train): (Vec<_>, Vec<_>) = found.into_iter().zip(validates).partition(|(_, validates)| *validates);
    if val.is_empty() {
        return Err(Error::input("no class has a second sample that could validate: add samples"));
    }
    let bare = |part: Vec<(Found, bool)>| part.into_iter().map(|(found, _)| found).collect();
    Ok((bare(train), bare(val)))
}

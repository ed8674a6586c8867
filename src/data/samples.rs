//! Which samples a data set holds, as a text that two runs can be compared by.

use super::Dataset;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One sample of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample(
    /// `train` or `val`.
    pub String,
    /// The class's index.
    pub u32,
    /// The first 16 hexadecimal digits of its content's sha256: enough to tell samples apart, a quarter of the size.
    pub String,
    /// What a person calls it: its path below the root, or `train/17`.
    pub String,
);

/// A line of JSON for each sample, in the order of the sets: `["train",3,"9f86d081884c7d65","cats/a.png"]`.
pub fn sample_list(train: &dyn Dataset, val: &dyn Dataset) -> String {
    let mut list = String::new();
    for (part, set) in [("train", train), ("val", val)] {
        for index in 0..set.samples() {
            let digest = set.digest(index)[..8].iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a String takes everything");
                hex
            });
            let sample = Sample(part.to_owned(), set.label(index), digest, set.id(index));
            list.push_str(&serde_json::to_string(&sample).expect("texts and a number"));
            list.push('\n');
        }
    }
    list
}

/// Reads what [`sample_list`] wrote.
///
/// # Errors
/// The number of the line that is something else.
pub fn read_sample_list(list: &str) -> Result<Vec<Sample>, usize> {
    list.lines().zip(1..).map(|(line, number)| serde_json::from_str(line).map_err(|_| number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{BadImage, Source, open};

    #[test]
    fn a_list_names_every_sample_once() {
        let data = open(&Source::Embedded { train: 3, val: 2 }, BadImage::Fail).expect("built in");
        let list = sample_list(data.train.as_ref(), data.val.as_ref());
        let samples = read_sample_list(&list).expect("its own text");
        assert_eq!(
            samples.iter().map(|sample| sample.0.as_str()).collect::<Vec<_>>(),
            ["train", "train", "train", "val", "val"]
        );
        for (index, sample) in samples[..3].iter().enumerate() {
            assert_eq!((sample.1, &sample.3), (data.train.label(index), &data.train.id(index)));
            assert_eq!(sample.2.len(), 16);
        }
        assert_eq!(read_sample_list("[\"train\",1,\"00\",\"a\"]\nnonsense\n"), Err(2));
    }
}

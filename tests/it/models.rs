//! The zoo's networks against what the spec compiler says of them.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use resnet_codegen::diagnostic::Sources;
use resnet_codegen::{Compiled, shape};
use std::sync::{Arc, Mutex};
use zoo::models::{self, Entry};

/// Compiles the text that a network carries.
pub fn recompile(entry: &Entry) -> Compiled {
    let mut sources = Sources::default();
    let files = entry.card.sources;
    let root = sources.add(files[0].0, files[0].1);
    let load = |path: &str| {
        let found = files.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| format!("`{path}` is not in the card"))
    };
    let compiled = resnet_codegen::compile(&mut sources, root, &load);
    compiled.unwrap_or_else(|errors| panic!("{}", errors.render(&sources)))
}

/// A parameter's name and shape.
type Named = (String, Vec<usize>);

/// Makes every parameter zero and notes it.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Named>>>);

impl Recorder {
    /// What was asked for, by name.
    pub fn sorted(&self) -> Vec<Named> {
        let mut named = self.0.lock().expect("one thread").clone();
        named.sort();
        named
    }
}

/// What the compiler says that a network has, by name.
pub fn inferred(compiled: &Compiled) -> Vec<Named> {
    let parameters = compiled.summary.parameters.iter();
    let mut named: Vec<Named> = parameters.map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect();
    named.sort();
    named
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.lock().expect("one thread").push((name.to_owned(), shape.dims().to_vec()));
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("the shape of {name} is known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[test]
fn every_yaml_of_the_zoo_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo");
    let files = std::fs::read_dir(folder).expect("the zoo").map(|entry| entry.expect("an entry").file_name());
    let mut files: Vec<String> =
        files.filter_map(|name| Some(name.to_string_lossy().strip_suffix(".yaml")?.to_owned())).collect();
    files.sort();
    let mut listed: Vec<&str> = models::all().iter().map(|entry| entry.card.name).collect();
    listed.sort_unstable();
    assert_eq!(listed, files);
    for name in listed {
        assert_eq!(models::find(name).expect("listed").card.name, name);
    }
}

/// Names, shapes, counts and feature maps of each built network are those that the compiler inferred.
#[test]
fn networks_are_what_their_specs_say() -> Result<()> {
    for entry in models::all() {
        let card = entry.card;
        let compiled = recompile(entry);
        assert_eq!((card.params as u64, card.macs), (compiled.summary.params, compiled.summary.macs), "{}", card.name);
        assert_eq!(card.spec_sha256, compiled.sha256, "{}", card.name);

        let recorder = Recorder::default();
        let vb = VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu);
        let network = (entry.build)(card.classes, vb)?;
        assert_eq!(recorder.sorted(), inferred(&compiled), "{}", card.name);

        let input: &[usize] = if card.dims == 2 { &[3, 40, 33] } else { &[3, 5, 24, 17] };
        let span = compiled.spec.input_span;
        let summary = shape::summarize(&compiled.spec, input, span).expect("fits");
        let x = Tensor::zeros([&[2], input].concat(), DType::F32, &Device::Cpu)?;
        let features = network.forward_features(&x, false)?;
        let maps: Vec<(&str, Vec<usize>)> =
            features.0.iter().map(|(name, map)| (*name, map.dims()[1..].to_vec())).collect();
        let expected: Vec<(&str, Vec<usize>)> =
            summary.features.iter().map(|map| (map.name.as_str(), map.shape.clone())).collect();
        assert_eq!(maps, expected, "{}", card.name);
        let cards: Vec<(&str, usize, usize)> =
            card.features.iter().map(|map| (map.name, map.channels, map.stride)).collect();
        let maps: Vec<(&str, usize, usize)> =
            summary.features.iter().map(|map| (map.name.as_str(), map.shape[0], map.stride)).collect();
        assert_eq!(cards, maps, "{}", card.name);
        let logits = network.forward_t(&x, false)?;
        let last = summary.features.last().map_or(Vec::new(), |map| map.shape.clone());
        let output = if card.classes > 0 { vec![card.classes] } else { last };
        assert_eq!(logits.dims()[1..], output, "{}", card.name);
    }
    Ok(())
}

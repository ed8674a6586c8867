//! Against torchvision: `tests/golden/transforms.py` made the expected images.

use super::auto_augment::Op;
use super::color::Change;
use super::*;
use crate::data::Image;
use safetensors::SafeTensors;
use zoo::random::{Key, stream_of};

static GOLDEN: &[u8] = include_bytes!("../../../tests/golden/transforms.safetensors");

fn golden() -> SafeTensors<'static> {
    SafeTensors::deserialize(GOLDEN).expect("the golden file is a safetensors file")
}

fn image(name: &str) -> Image {
    let golden = golden();
    let tensor = golden.tensor(name).unwrap_or_else(|_| panic!("no golden image {name}"));
    let [height, width, channels] = *tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
    Image::new(height, width, channels, tensor.data().to_vec())
}

fn floats(name: &str) -> Vec<f64> {
    let golden = golden();
    let tensor = golden.tensor(name).unwrap_or_else(|_| panic!("no golden tensor {name}"));
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            tensor.data().as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
        }
        safetensors::Dtype::F64 => tensor.data().as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        safetensors::Dtype::I64 => tensor.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

fn draws(index: u64) -> Stream {
    Stream::new(Key { seed: 5, stream: stream_of("test"), step: 0, index })
}

/// The share of values of two images of one size that differ by more than `tolerance` levels.
fn outliers(name: &str, image: &Image, expected: &Image, tolerance: u8) -> f64 {
    let shape = |image: &Image| (image.height, image.width, image.channels);
    assert_eq!(shape(image), shape(expected), "{name}");
    let far = image.pixels.iter().zip(&expected.pixels).filter(|(a, b)| a.abs_diff(**b) > tolerance);
    far.count() as f64 / image.pixels.len() as f64
}

/// Runs `f` on every golden case `<rgb|grey>.<kind>.<arguments>`: no value differs by more than `tolerance` levels.
fn each_case(kind: &str, tolerance: u8, f: impl Fn(&Image, &[&str]) -> Image) {
    let mut cases = 0;
    for name in golden().names() {
        let mut parts = name.split('.');
        let (Some(color), Some(this)) = (parts.next(), parts.next()) else { continue };
        if this != kind {
            continue;
        }
        let rest = name.splitn(3, '.').nth(2).unwrap_or_default();
        let arguments: Vec<&str> = rest.split('.').collect();
        let expected = image(name);
        let outliers = outliers(name, &f(&image(color), &arguments), &expected, tolerance);
        assert!(outliers == 0.0, "{name}: a share of {outliers} is off by more than {tolerance}");
        cases += 1;
    }
    assert!(cases > 0, "no golden case of {kind}");
}

fn interpolation(name: &str) -> Interpolation {
    match name {
        "nearest" => Interpolation::Nearest,
        "bilinear" => Interpolation::Bilinear,
        "bicubic" => Interpolation::Bicubic,
        other => panic!("{other}"),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a size")
}

/// A factor whose name was split at its point.
fn factor(parts: &[&str]) -> f64 {
    parts.join(".").parse().expect("a factor")
}

#[test]
fn resizes_like_torchvision_within_a_level() {
    each_case("resize", 1, |image, arguments| {
        let size = (number(arguments[1]), number(arguments[2]));
        resize::resize(image, size, interpolation(arguments[0]))
    });
    each_case("resized_crop", 1, |image, arguments| {
        let [top, left, height, width, size] = [1, 2, 3, 4, 5].map(|at| number(arguments[at]));
        resize::resize_part(image, Part { top, left, height, width }, (size, size), interpolation(arguments[0]))
    });
}

#[test]
fn crops_pads_and_flips_like_torchvision() {
    each_case("center_crop", 0, |image, arguments| crop::center(image, number(arguments[0])));
    each_case("pad", 0, |image, arguments| {
        let mode = match arguments[0] {
            "constant" => PaddingMode::Constant(7),
            "edge" => PaddingMode::Edge,
            _ => PaddingMode::Reflect,
        };
        pad::pad(image, 4, mode)
    });
    each_case("flip", 0, |image, _| flip::horizontal(image));
}

/// One level, because torchvision fuses multiplication and addition where the processor can.
#[test]
fn colours_change_like_torchvision() {
    let change = |image: &Image, change| color::adjust(image, change);
    each_case("brightness", 0, |image, x| change(image, Change::Brightness(factor(x) as f32)));
    each_case("contrast", 1, |image, x| change(image, Change::Contrast(factor(x) as f32)));
    each_case("saturation", 1, |image, x| change(image, Change::Saturation(factor(x) as f32)));
    each_case("hue", 1, |image, x| change(image, Change::Hue(factor(x) as f32)));
    let op = |image: &Image, op: Op| op.apply(image, Interpolation::Nearest);
    each_case("sharpness", 1, |image, x| op(image, Op::Sharpness(factor(x) as f32)));
    each_case("posterize", 0, |image, _| op(image, Op::Posterize(3)));
    each_case("solarize", 0, |image, _| op(image, Op::Solarize(100.0)));
    each_case("autocontrast", 0, |image, _| op(image, Op::AutoContrast));
    each_case("equalize", 0, |image, _| op(image, Op::Equalize));
}

#[test]
fn geometry_is_torchvisions() {
    each_case("affine", 1, |image, arguments| {
        let strength = factor(&arguments[2..]);
        let op = match arguments[1] {
            "ShearX" => Op::ShearX(strength),
            "ShearY" => Op::ShearY(strength),
            "TranslateX" => Op::TranslateX(strength),
            "TranslateY" => Op::TranslateY(strength),
            _ => Op::Rotate(strength),
        };
        op.apply(image, interpolation(arguments[0]))
    });
}

#[test]
fn the_shorter_side_is_torchvisions() {
    for row in floats("shorter").as_chunks::<5>().0 {
        let [height, width, side, to_height, to_width] = row.map(|value| value as usize);
        assert_eq!(resize::target(ResizeTo::Shorter(side), height, width).unwrap(), (to_height, to_width), "{row:?}");
    }
    assert!(resize::target(ResizeTo::Shorter(4096), 1, 8192).is_err());
}

#[test]
fn normalized_values_are_torchvisions() {
    let [mean, std] = [vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]];
    let pipeline = Pipeline::new(&[TransformSpec::Normalize { mean, std }], 3).unwrap();
    let frames = pipeline.augment(vec![image("rgb")], &mut draws(0)).unwrap();
    let mut values = vec![0.0; frames[0].pixels.len()];
    pipeline.write(&frames, &mut draws(0), &mut values);
    for (value, expected) in values.iter().zip(floats("rgb.normalize")) {
        assert!((f64::from(*value) - expected).abs() < 1e-6, "{value} {expected}");
    }
}

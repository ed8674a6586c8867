//! Against torchvision: `tests/golden/transforms.py` made the expected images.

use super::auto_augment::Op;
use super::*;
use crate::data::Image;
use pixels::color::Change;
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

fn resampling_named(name: &str) -> Resampling {
    match name {
        "nearest" => Resampling::Nearest,
        "bilinear" => Resampling::Bilinear,
        "bicubic" => Resampling::Bicubic,
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
        pixels::resize::resize(image, size, resampling_named(arguments[0]))
    });
    each_case("resized_crop", 1, |image, arguments| {
        let [top, left, height, width, size] = [1, 2, 3, 4, 5].map(|at| number(arguments[at]));
        let part = Part { top, left, height, width };
        pixels::resize::resize_part(image, part, (size, size), resampling_named(arguments[0]))
    });
}

#[test]
fn crops_pads_and_flips_like_torchvision() {
    each_case("center_crop", 0, |image, arguments| pixels::crop::center(image, number(arguments[0])));
    each_case("pad", 0, |image, arguments| {
        let border = match arguments[0] {
            "constant" => Border::Constant(7),
            "edge" => Border::Edge,
            _ => Border::Reflect,
        };
        pixels::pad::pad(image, 4, border)
    });
    each_case("flip", 0, |image, _| flipped(image));
}

fn flipped(image: &Image) -> Image {
    let mut image = image.clone();
    flip::horizontal(&mut image);
    image
}

/// One level, because torchvision fuses multiplication and addition where the processor can.
#[test]
fn colours_change_like_torchvision() {
    let op = |image: &Image, op: Op| op.apply(image.clone(), Resampling::Nearest);
    let change = |image: &Image, change| op(image, Op::Color(change));
    each_case("brightness", 0, |image, x| change(image, Change::Brightness(factor(x) as f32)));
    each_case("contrast", 1, |image, x| change(image, Change::Contrast(factor(x) as f32)));
    each_case("saturation", 1, |image, x| change(image, Change::Saturation(factor(x) as f32)));
    each_case("hue", 1, |image, x| change(image, Change::Hue(factor(x) as f32)));
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
        op.apply(image.clone(), resampling_named(arguments[0]))
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

/// What a policy passes to an operation at each strength, next to the numbers that torchvision's passes.
fn table(policy: &str, op: &str, of: impl Fn(Op) -> Option<f64>) {
    let golden = golden();
    let prefix = format!("table.{policy}.{op}.");
    let name = golden.names().into_iter().find(|name| name.starts_with(&prefix)).expect("a table of that name");
    let expected = floats(name);
    // Values of the first four hundred draws of each strength: every kind comes up.
    for (bin, expected) in expected.iter().enumerate() {
        let mut found = Vec::new();
        for index in 0..400 {
            let op = match policy {
                "rand" => auto_augment::draw_rand(bin, 31, (23, 31), &mut draws(index)),
                _ => auto_augment::op_at(bin, 31, &mut draws(index)),
            };
            found.extend(of(op));
        }
        assert!(!found.is_empty(), "{name} was never drawn");
        for strength in &found {
            assert!(
                (strength.abs() - expected).abs() < 2e-6 * expected.max(1.0),
                "{name}[{bin}]: {strength}, {expected}"
            );
        }
        if name.ends_with("signed") && *expected > 0.0 {
            assert!(found.iter().any(|x| *x > 0.0) && found.iter().any(|x| *x < 0.0), "{name}[{bin}] has one sign");
        }
    }
}

#[test]
fn strengths_are_torchvisions() {
    for policy in ["trivial", "rand"] {
        table(policy, "ShearX", |op| if let Op::ShearX(x) = op { Some(x) } else { None });
        table(policy, "ShearY", |op| if let Op::ShearY(x) = op { Some(x) } else { None });
        table(policy, "Rotate", |op| if let Op::Rotate(x) = op { Some(x) } else { None });
        let factor = |x: f32| Some(f64::from(x) - 1.0);
        table(policy, "Brightness", |op| if let Op::Color(Change::Brightness(x)) = op { factor(x) } else { None });
        table(policy, "Color", |op| if let Op::Color(Change::Saturation(x)) = op { factor(x) } else { None });
        table(policy, "Contrast", |op| if let Op::Color(Change::Contrast(x)) = op { factor(x) } else { None });
        table(policy, "Sharpness", |op| if let Op::Sharpness(x) = op { factor(x) } else { None });
        table(policy, "Posterize", |op| if let Op::Posterize(x) = op { Some(f64::from(x)) } else { None });
        table(policy, "Solarize", |op| if let Op::Solarize(x) = op { Some(f64::from(x) / 255.0) } else { None });
    }
    // Translations are cut to whole pixels.
    for (policy, strengths) in
        [("trivial", floats("table.trivial.TranslateX.signed")), ("rand", floats("table.rand.TranslateX.signed"))]
    {
        for (bin, strength) in strengths.iter().enumerate() {
            let op = |index| match policy {
                "rand" => auto_augment::draw_rand(bin, 31, (23, 31), &mut draws(index)),
                _ => auto_augment::op_at(bin, 31, &mut draws(index)),
            };
            let moved = (0..400).find_map(|index| if let Op::TranslateX(x) = op(index) { Some(x) } else { None });
            assert_eq!(moved.map(f64::abs), Some(strength.trunc()), "{policy}[{bin}]");
        }
    }
}

/// Fourteen operations, each as likely; the policies differ in nothing else than their tables.
#[test]
fn operations_are_drawn_evenly() {
    let golden = golden();
    for policy in ["trivial", "rand"] {
        let names = golden.names();
        let ops = names.iter().filter(|name| name.starts_with(&format!("table.{policy}."))).count();
        assert_eq!(ops, 14);
    }
    let mut counts = std::collections::BTreeMap::new();
    for index in 0..14_000 {
        let op = format!("{:?}", auto_augment::draw_trivial(31, &mut draws(index)));
        let kind = op.trim_end_matches(|c: char| "()-.".contains(c) || c.is_ascii_digit()).to_owned();
        *counts.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 14, "{counts:?}");
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn random_resized_crops_keep_their_ranges() {
    let (scale, ratio) = ((0.08, 1.0), (0.75, 4.0 / 3.0));
    let mut areas = Vec::new();
    for index in 0..2000 {
        let part = crop::draw_resized(100, 150, scale, ratio, &mut draws(index));
        assert!(part.height >= 1 && part.top + part.height <= 100 && part.left + part.width <= 150, "{part:?}");
        let aspect = part.width as f64 / part.height as f64;
        assert!((0.72..1.38).contains(&aspect), "{part:?}");
        areas.push((part.height * part.width) as f64 / 15_000.0);
    }
    assert!(areas.iter().all(|area| (0.075..=1.0).contains(area)));
    // Large parts of that shape often do not fit, so the mean is below the (0.08 + 1) / 2 of a square image.
    let mean = areas.iter().sum::<f64>() / 2000.0;
    assert!((0.38..0.54).contains(&mean), "{mean}");
    // No part of that shape fits into a line: the central one of the nearest ratio.
    assert_eq!(
        crop::draw_resized(3, 400, (1.0, 1.0), ratio, &mut draws(0)),
        Part { top: 0, left: 198, height: 3, width: 4 }
    );
    assert_eq!(
        crop::draw_resized(400, 3, (1.0, 1.0), ratio, &mut draws(0)),
        Part { top: 198, left: 0, height: 4, width: 3 }
    );
    assert_eq!(crop::draw_resized(1, 1, scale, ratio, &mut draws(0)), Part { top: 0, left: 0, height: 1, width: 1 });
}

#[test]
fn random_crops_and_flips_take_every_place() {
    let places: std::collections::BTreeSet<_> = (0..400)
        .map(|index| crop::draw(12, 12, 8, &mut draws(index)).map(|part| (part.top, part.left)).unwrap())
        .collect();
    assert_eq!(places.len(), 25);
    assert!(matches!(crop::draw(7, 12, 8, &mut draws(0)), Err(Error::Failed(message)) if message.contains("7 x 12")));
    let flips = |p| {
        let pipeline = Pipeline::new(&[TransformSpec::RandomHorizontalFlip { p }], 3).unwrap();
        let original = image("rgb");
        let flipped = flipped(&original);
        (0..1000)
            .map(|index| pipeline.augment(vec![original.clone()], &mut draws(index)).unwrap().remove(0))
            .filter(|result| *result == flipped)
            .count()
    };
    assert_eq!((flips(0.0), flips(1.0)), (0, 1000));
    assert!((240..360).contains(&flips(0.3)));
}

#[test]
fn jitter_draws_its_ranges_in_every_order() {
    let mut orders = std::collections::BTreeSet::new();
    let mut factors: Vec<f32> = Vec::new();
    for index in 0..1000 {
        let changes = jitter::draw(0.4, 2.0, 0.0, 0.1, &mut draws(index));
        orders.insert(changes.iter().map(|change| format!("{change:?}")[..3].to_owned()).collect::<Vec<_>>());
        for change in changes {
            match change {
                Change::Brightness(factor) => factors.push(factor),
                Change::Contrast(factor) => assert!((0.0..=3.0).contains(&factor)),
                Change::Hue(shift) => assert!((-0.1..=0.1).contains(&shift)),
                Change::Saturation(_) => panic!("saturation is off"),
            }
        }
    }
    assert_eq!(orders.len(), 6, "{orders:?}");
    let mean = factors.iter().sum::<f32>() / factors.len() as f32;
    assert!(factors.iter().all(|factor| (0.6..=1.4).contains(factor)) && (mean - 1.0).abs() < 0.03, "{mean}");
    assert!(jitter::draw(0.0, 0.0, 0.0, 0.0, &mut draws(0)).is_empty());
}

#[test]
fn erasing_overwrites_one_rectangle_of_every_frame() {
    let spec = |p, value| TransformSpec::RandomErasing { p, scale: (0.02, 0.33), ratio: (0.3, 3.3), value };
    let frames = vec![image("rgb"), flipped(&image("rgb"))];
    let pixels = frames[0].height * frames[0].width;
    let run = |spec, index| {
        let pipeline = Pipeline::new(&[spec], 3).unwrap();
        let mut values = vec![0.0; 2 * 3 * pixels];
        pipeline.write(&frames, &mut draws(index), &mut values);
        values
    };
    let plain = run(spec(0.0, Erase::Constant(9.0)), 0);
    assert!(plain.iter().all(|&value| (0.0..=1.0).contains(&value)));
    for index in 0..300 {
        let erased = run(spec(1.0, Erase::Constant(9.0)), index);
        let gone: Vec<usize> = (0..2 * pixels).filter(|at| erased[3 * at] == 9.0).collect();
        let (first, second) = gone.split_at(gone.len() / 2);
        assert!(first.iter().zip(second).all(|(a, b)| a + pixels == *b), "both frames alike");
        let share = first.len() as f64 / pixels as f64;
        assert!((0.01..0.36).contains(&share), "{share}");
        let (rows, columns): (Vec<_>, Vec<_>) =
            first.iter().map(|at| (at / frames[0].width, at % frames[0].width)).unzip();
        let extent = |of: &[usize]| of.iter().max().unwrap() - of.iter().min().unwrap() + 1;
        assert_eq!(extent(&rows) * extent(&columns), first.len(), "a full rectangle");
        assert!(erased.iter().zip(&plain).all(|(a, b)| a == b || *a == 9.0), "nothing else changed");
    }
    let noisy = run(spec(1.0, Erase::Random), 0);
    let mut noise: Vec<f32> = noisy.iter().zip(&plain).filter(|(a, b)| a != b).map(|(a, _)| *a).collect();
    assert!(noise.iter().any(|value| *value < 0.0));
    noise.sort_by(f32::total_cmp);
    noise.dedup();
    assert!(noise.len() > 20, "an own draw for each value");
}

/// One draw for all frames: a clip of equal frames stays one.
#[test]
fn a_clip_is_augmented_as_one() {
    let specs = [
        TransformSpec::RandomCrop { size: 20, padding: 3, mode: PaddingMode::Reflect },
        TransformSpec::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.2 },
        TransformSpec::RandAugment {
            num_ops: 2,
            magnitude: 9,
            num_magnitude_bins: 31,
            interpolation: Interpolation::Bilinear,
        },
        TransformSpec::RandomResizedCrop {
            size: 12,
            scale: (0.5, 1.0),
            ratio: (0.75, 1.25),
            interpolation: Interpolation::Bicubic,
        },
    ];
    let pipeline = Pipeline::new(&specs, 3).unwrap();
    assert!(pipeline.is_random());
    let results: Vec<_> = (0..50)
        .map(|index| {
            let frames = pipeline.augment(vec![image("rgb"); 3], &mut draws(index)).unwrap();
            assert!(frames[0] == frames[1] && frames[1] == frames[2]);
            frames[0].clone()
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] != pair[1]), "each sample draws its own");
}

#[test]
fn grey_and_rgb_are_pillows() {
    let grey = image("grey");
    let rgb = channels::convert(grey.clone(), 3);
    assert!(rgb.pixels.chunks(3).zip(&grey.pixels).all(|(rgb, &grey)| rgb == [grey; 3]));
    assert_eq!(channels::convert(rgb, 1), grey);
    let primary = |rgb: [u8; 3]| channels::convert(Image::new(1, 1, 3, rgb.to_vec()), 1).pixels[0];
    // PIL.Image.new("RGB", (1, 1), c).convert("L")
    assert_eq!([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]].map(primary), [76, 150, 29, 255]);
}

#[test]
fn a_cards_evaluation_is_resize_crop_normalize() {
    let preprocess = Preprocess {
        resize: 12,
        crop: 10,
        interpolation: Interpolation::Bicubic,
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.3, 0.4],
    };
    let pipeline = Pipeline::new(&evaluation(&preprocess), 3).unwrap();
    assert!(!pipeline.is_random());
    let frames = pipeline.augment(vec![image("rgb")], &mut draws(0)).unwrap();
    assert_eq!((frames[0].height, frames[0].width), (10, 10));
    let mut values = vec![0.0; 300];
    pipeline.write(&frames, &mut draws(0), &mut values);
    assert_eq!(values[2], (f32::from(frames[0].pixels[2]) / 255.0 - 0.3) / 0.4);
}

/// Whether the crop falls inside, outside, or both.
#[test]
fn a_resize_before_a_crop_computes_what_the_crop_keeps() {
    for (to, side) in [
        (ResizeTo::Shorter(12), 10),
        (ResizeTo::Shorter(40), 17),
        (ResizeTo::Shorter(9), 11),
        (ResizeTo::Exact(20, 8), 12),
        (ResizeTo::Exact(5, 6), 13),
    ] {
        for interpolation in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            let steps = [TransformSpec::Resize { size: to, interpolation }, TransformSpec::CenterCrop { size: side }];
            let run = |steps: &[TransformSpec], frames| {
                Pipeline::new(steps, 3).unwrap().augment(frames, &mut draws(0)).unwrap()
            };
            let apart = run(&steps[1..], run(&steps[..1], vec![image("rgb"); 2]));
            assert!(run(&steps, vec![image("rgb"); 2]) == apart, "{steps:?}");
        }
    }
}

#[test]
fn wrong_pipelines_are_told() {
    let wrong = |specs: &[TransformSpec], rule: &str| match Pipeline::new(specs, 3) {
        Err(Error::Input(message)) => assert!(message.contains(rule), "{message}"),
        other => panic!("{rule}: {other:?}"),
    };
    let normalize = |mean: &[f32], std: &[f32]| TransformSpec::Normalize { mean: mean.to_vec(), std: std.to_vec() };
    let erase = TransformSpec::RandomErasing { p: 0.5, scale: (0.02, 0.3), ratio: (0.3, 3.3), value: Erase::Random };
    let flip = |p| TransformSpec::RandomHorizontalFlip { p };
    let crop = |size, scale, ratio| TransformSpec::RandomResizedCrop {
        size,
        scale,
        ratio,
        interpolation: Interpolation::Bilinear,
    };
    let plain = normalize(&[0.5], &[0.5]);
    wrong(&[plain.clone(), plain.clone()], "normalize stands twice");
    wrong(&[erase.clone(), plain.clone()], "random_erasing works on normalised values: move it behind normalize");
    wrong(&[plain.clone(), flip(0.5)], "random_horizontal_flip works on bytes: move it before");
    wrong(&[erase, flip(0.5)], "random_horizontal_flip works on bytes");
    wrong(&[normalize(&[0.5, 0.5], &[1.0])], "mean must have 1 or 3 values, not 2");
    wrong(&[normalize(&[0.5], &[])], "std must have 1 or 3 values, not 0");
    for std in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        wrong(&[normalize(&[0.5], &[std])], "std finite and above 0");
    }
    wrong(&[flip(1.5)], "random_horizontal_flip: p must be 0 to 1");
    wrong(&[flip(f64::NAN)], "p must be 0 to 1");
    wrong(&[crop(0, (0.1, 1.0), (0.5, 2.0))], "random_resized_crop: a side must be 1 to 4096");
    wrong(&[crop(usize::MAX, (0.1, 1.0), (0.5, 2.0))], "a side must be 1 to 4096");
    wrong(&[crop(8, (0.5, 0.1), (0.5, 2.0))], "0 < low <= high <= 1");
    wrong(&[crop(8, (0.1, 1.0), (0.0, 2.0))], "0 < low <= high <= 1000");
    wrong(&[TransformSpec::Pad { padding: 1 << 40, mode: PaddingMode::Edge }], "padding must be 1 to 1024");
    let rand = |num_ops, magnitude, interpolation| TransformSpec::RandAugment {
        num_ops,
        magnitude,
        num_magnitude_bins: 31,
        interpolation,
    };
    wrong(&[rand(2, 31, Interpolation::Nearest)], "magnitude must be below num_magnitude_bins");
    wrong(&[rand(1000, 9, Interpolation::Nearest)], "num_ops must be 0 to 32");
    wrong(&[rand(2, 9, Interpolation::Bicubic)], "interpolation must be nearest or bilinear");
    wrong(
        &[TransformSpec::ColorJitter { brightness: -0.1, contrast: 0.0, saturation: 0.0, hue: 0.0 }],
        "brightness, contrast and saturation must be 0 to 100",
    );
    wrong(
        &[TransformSpec::ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.6 }],
        "hue must be 0 to 0.5",
    );
    assert!(matches!(Pipeline::new(&[], 4), Err(Error::Input(message)) if message.contains("1 or 3 channels")));
}

/// What a seed means must not change unnoticed: recorded runs could not be repeated.
#[test]
fn the_same_draws_give_the_same_bytes() {
    let specs = [
        TransformSpec::RandomResizedCrop {
            size: 16,
            scale: (0.2, 1.0),
            ratio: (0.75, 4.0 / 3.0),
            interpolation: Interpolation::Bilinear,
        },
        TransformSpec::RandomHorizontalFlip { p: 0.5 },
        TransformSpec::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 },
        TransformSpec::TrivialAugmentWide { num_magnitude_bins: 31, interpolation: Interpolation::Nearest },
        TransformSpec::RandAugment {
            num_ops: 2,
            magnitude: 9,
            num_magnitude_bins: 31,
            interpolation: Interpolation::Bilinear,
        },
        TransformSpec::RandomCrop { size: 16, padding: 2, mode: PaddingMode::Edge },
    ];
    let pipeline = Pipeline::new(&specs, 3).unwrap();
    let mut hash = zoo::random::stream_of("");
    for index in 0..200 {
        for byte in &pipeline.augment(vec![image("rgb")], &mut draws(index)).unwrap()[0].pixels {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    assert_eq!(hash, 0xb2e2_ac49_f5f6_da1b, "{hash:#x}");
}

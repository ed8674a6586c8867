//! Datasets on a real disk, good and hostile, and the batches that come of them.

use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage};
use resnet_zoo::data::options::{CifarLabels, ResizeTo};
use resnet_zoo::data::{
    self, BadImage, Batch, Batchwise, Data, Dataset, Loader, LoaderOptions, Pipeline, Source, Split, TransformSpec,
};
use resnet_zoo::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use zoo::Interpolation;
use zoo::random::{Key, Stream};

// ---- making files ----

/// A picture that differs with its number.
fn picture(number: u32, width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7 + number * 31) as u8, (y * 5 + number * 17) as u8, ((x + y) * 3) as u8])
    })
    .into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an image can be encoded");
    bytes.into_inner()
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn put_image(path: &Path, number: u32) {
    let format = ImageFormat::from_path(path).unwrap();
    put(path, &encoded(&picture(number, 20, 16), format));
}

/// `train` and `val` with the classes cat and dog, four and two images each.
fn small_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut number = 0;
    for (part, count) in [("train", 4), ("val", 2)] {
        for class in ["dog", "cat"] {
            for i in 0..count {
                put_image(&folder.path().join(format!("{part}/{class}/{i}.png")), number);
                number += 1;
            }
        }
    }
    folder
}

fn folder_source(folder: &TempDir) -> Source {
    Source::Folder { path: folder.path().to_owned(), split: Split::Given }
}

fn seeded(val_fraction: f64) -> Split {
    Split::Seeded { val_fraction, seed: 1 }
}

// ---- asking ----

fn ids(set: &dyn Dataset) -> Vec<String> {
    (0..set.samples()).map(|index| set.id(index)).collect()
}

fn labels(set: &dyn Dataset) -> Vec<u32> {
    (0..set.samples()).map(|index| set.label(index)).collect()
}

/// The message of an error that must be one of wrong input.
fn input_error(result: Result<Data>) -> String {
    match result {
        Err(Error::Input(message)) => message,
        Err(other) => panic!("another kind of error: {other:?}"),
        Ok(_) => panic!("no error"),
    }
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn sized(side: usize) -> Vec<TransformSpec> {
    vec![TransformSpec::Resize { size: ResizeTo::Exact(side, side), interpolation: Interpolation::Bilinear }]
}

fn values(batch: &Batch) -> Vec<u32> {
    batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

// ---- the embedded set ----

#[test]
fn the_embedded_set_is_balanced_and_known() {
    let data = data::open(&Source::EMBEDDED, BadImage::Fail).unwrap();
    for (set, per_class) in [(&data.train, 500), (&data.val, 100)] {
        let mut counts = [0; 10];
        labels(set.as_ref()).into_iter().for_each(|label| counts[label as usize] += 1);
        assert_eq!(counts, [per_class; 10]);
        let image = &set.frames(0).unwrap()[0];
        assert_eq!((image.height, image.width, image.channels), (28, 28, 1));
    }
    assert_eq!(data.train.classes()[9], "Ankle boot");
    assert_eq!(data.sha256, EMBEDDED_SHA256);

    let part = data::open(&Source::Embedded { train: 20, val: 10 }, BadImage::Fail).unwrap();
    assert_eq!(labels(part.train.as_ref()), (0..10).chain(0..10).collect::<Vec<u32>>());
    assert_ne!(part.sha256, data.sha256);
    assert_says(&input_error(data::open(&Source::Embedded { train: 5001, val: 1 }, BadImage::Fail)), &["1 to 5000"]);
    assert_says(&input_error(data::open(&Source::Embedded { train: 1, val: 0 }, BadImage::Fail)), &["1 to 1000"]);
}

const EMBEDDED_SHA256: &str = "035f1f0c1c2841152f353f87dd8b19cb10f7ec9f4bb28c2579589f631a90137a";

// ---- image folders ----

#[test]
fn a_folder_gives_sorted_classes_and_files() {
    let folder = small_folder();
    put_image(&folder.path().join("train/cat/deep/er/5.jpg"), 50);
    put(&folder.path().join("train/cat/6.JPEG"), &encoded(&picture(51, 20, 16), ImageFormat::Jpeg));
    put(&folder.path().join("train/cat/notes.txt"), b"not an image");
    put(&folder.path().join("train/.hidden/1.png"), b"not an image");
    put(&folder.path().join("train/cat/.1.png"), b"not an image");
    put(&folder.path().join("train/README.md"), b"not a class");
    let data = data::open(&folder_source(&folder), BadImage::Fail).unwrap();
    assert_eq!(data.train.classes(), ["cat", "dog"]);
    assert_eq!(data.val.classes(), ["cat", "dog"]);
    assert_eq!(data.train.dims(), 2);
    assert_eq!(
        ids(data.train.as_ref())[..7],
        [
            "train/cat/0.png",
            "train/cat/1.png",
            "train/cat/2.png",
            "train/cat/3.png",
            "train/cat/6.JPEG",
            "train/cat/deep/er/5.jpg",
            "train/dog/0.png"
        ]
    );
    assert_eq!(labels(data.val.as_ref()), [0, 0, 1, 1]);
    let image = &data.train.frames(0).unwrap()[0];
    assert_eq!((image.height, image.width, image.channels), (16, 20, 3));
    assert_eq!(image.pixels, picture(4, 20, 16).into_bytes(), "dog's four images were made first");
}

#[test]
fn the_hash_is_of_what_the_set_holds() {
    let folder = small_folder();
    let hash = || data::open(&folder_source(&folder), BadImage::Fail).unwrap().sha256;
    let before = hash();
    assert_eq!(before.len(), 64);
    assert_eq!(before, hash());
    put_image(&folder.path().join("val/dog/1.png"), 99);
    let changed = hash();
    assert_ne!(before, changed);
    std::fs::rename(folder.path().join("val/dog/1.png"), folder.path().join("val/cat/9.png")).unwrap();
    assert_ne!(changed, hash());
}

#[test]
fn a_seeded_split_is_by_class_and_repeatable() {
    let folder = TempDir::new().unwrap();
    for (class, count) in [("a", 10), ("b", 3), ("c", 1)] {
        for i in 0..count {
            put_image(&folder.path().join(format!("{class}/{i}.png")), i);
        }
    }
    let open = |val_fraction, seed| {
        let split = Split::Seeded { val_fraction, seed };
        data::open(&Source::Folder { path: folder.path().to_owned(), split }, BadImage::Fail)
    };
    let data = open(0.2, 0).unwrap();
    assert_eq!(labels(data.val.as_ref()), [0, 0, 1]);
    assert_eq!(labels(data.train.as_ref()).iter().filter(|&&label| label == 2).count(), 1);
    let mut all = [ids(data.train.as_ref()), ids(data.val.as_ref())].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 14);
    assert_eq!(ids(data.val.as_ref()), ids(open(0.2, 0).unwrap().val.as_ref()));
    assert!((1..20).any(|seed| ids(open(0.2, seed).unwrap().val.as_ref()) != ids(data.val.as_ref())));
    assert_eq!(labels(open(0.99, 0).unwrap().train.as_ref()), [0, 1, 2], "a class never validates as a whole");
    for wrong in [0.0, 1.0, -1.0, f64::NAN] {
        assert_says(&input_error(open(wrong, 0)), &["val_fraction", "above 0 and below 1"]);
    }
}

#[test]
fn a_wrong_folder_is_told() {
    let open = |path: &Path, split| data::open(&Source::Folder { path: path.to_owned(), split }, BadImage::Quarantine);
    let folder = small_folder();
    assert_says(&input_error(open(&folder.path().join("nowhere"), Split::Given)), &["nowhere", "No such file"]);
    assert_says(&input_error(open(&folder.path().join("train"), Split::Given)), &["no folders `train` and `val`"]);
    assert_says(&input_error(open(folder.path(), seeded(0.5))), &["leave `val_fraction` out"]);
    std::fs::create_dir(folder.path().join("val/bird")).unwrap();
    assert_says(&input_error(open(folder.path(), Split::Given)), &["val/bird", "no such class", "cat, dog"]);
    std::fs::create_dir(folder.path().join("train/bird")).unwrap();
    assert_says(&input_error(open(folder.path(), Split::Given)), &["train/bird", "holds no image", ".webp"]);
    let empty = TempDir::new().unwrap();
    assert_says(&input_error(open(empty.path(), seeded(0.5))), &["holds no class folders"]);
}

#[cfg(unix)]
#[test]
fn links_and_special_files_cannot_smuggle() {
    let outside = TempDir::new().unwrap();
    put_image(&outside.path().join("secret.png"), 1);
    let folder = small_folder();
    let cat = folder.path().join("train/cat");
    std::os::unix::fs::symlink(outside.path().join("secret.png"), cat.join("out.png")).unwrap();
    std::os::unix::fs::symlink("0.png", cat.join("inside.png")).unwrap();
    std::os::unix::fs::symlink("nowhere.png", cat.join("dangling.png")).unwrap();
    std::os::unix::fs::symlink("loop.png", cat.join("loop.png")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(cat.join("socket.png")).unwrap();
    let data = data::open(&folder_source(&folder), BadImage::Quarantine).unwrap();
    let reasons: BTreeMap<_, _> = data.quarantined.iter().map(|bad| (bad.id.as_str(), bad.reason.as_str())).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert_says(reasons["train/cat/out.png"], &["leads out of the data set"]);
    assert_says(reasons["train/cat/dangling.png"], &["missing"]);
    assert_says(reasons["train/cat/socket.png"], &["not a regular file"]);
    assert!(reasons.contains_key("train/cat/loop.png"));
    assert!(ids(data.train.as_ref()).contains(&"train/cat/inside.png".to_owned()));

    std::os::unix::fs::symlink(outside.path(), cat.join("more")).unwrap();
    let message = input_error(data::open(&folder_source(&folder), BadImage::Quarantine));
    assert_says(&message, &["train/cat/more", "symbolic link to a folder"]);
}

// ---- bad images ----

/// Bytes that are no usable image, and what the message must say.
fn hostile_images() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let jpeg = encoded(&picture(1, 64, 64), ImageFormat::Jpeg);
    let png = encoded(&picture(1, 64, 64), ImageFormat::Png);
    let webp = encoded(&picture(1, 64, 64), ImageFormat::WebP);
    let gif = encoded(&picture(1, 64, 64), ImageFormat::Gif);
    let cut = |bytes: &[u8], part: f64| bytes[..(bytes.len() as f64 * part) as usize].to_vec();
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    // A header's checksum must fit, or it would be refused for that.
    let checksum = crc32(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&checksum);
    let mut wide_jpeg = jpeg.clone();
    let frame = wide_jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a baseline JPEG");
    wide_jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    let mut wide_gif = gif.clone();
    wide_gif[6..10].copy_from_slice(&[0xff; 4]);
    let mut large = jpeg.clone();
    large.resize((16 << 20) + 1, 0);
    let mut checksum = png.clone();
    checksum[60] ^= 0x40;
    vec![
        ("empty.png", Vec::new(), "is empty"),
        ("text.jpg", b"<html>404 not found</html>".to_vec(), "not a JPEG, PNG, WebP or GIF"),
        ("tiff.png", b"II*\0\x08\0\0\0\0\0".to_vec(), "not a JPEG, PNG, WebP or GIF"),
        ("half.jpg", cut(&jpeg, 0.5), "truncated"),
        ("nearly.jpg", cut(&jpeg, 0.98), "truncated"),
        ("header.jpg", jpeg[..20].to_vec(), "truncated"),
        ("half.png", cut(&png, 0.5), "corrupt"),
        ("header.png", png[..30].to_vec(), "corrupt"),
        ("checksum.png", checksum, "corrupt"),
        ("half.webp", cut(&webp, 0.5), "corrupt"),
        ("half.gif", cut(&gif, 0.5), "corrupt"),
        ("bomb.png", bomb, "too large: 65535 x 65535"),
        ("wide.jpg", wide_jpeg, "too large: 65535 x 65535"),
        ("wide.gif", wide_gif, "too large: 65535 x 65535"),
        ("large.jpg", large, "16777217 bytes"),
    ]
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn bad_images_are_named_counted_and_left_out() {
    let clean = small_folder();
    let folder = small_folder();
    for (name, bytes, _) in hostile_images() {
        put(&folder.path().join("train/cat").join(name), &bytes);
    }
    let count = hostile_images().len();
    let Err(Error::Failed(message)) = data::open(&folder_source(&folder), BadImage::Fail) else {
        panic!("bad images must fail")
    };
    assert_says(&message, &[&format!("{count} of the data set's images"), "train/cat/bomb.png", "and 5 more"]);
    assert_says(&message, &["on_bad_image: quarantine"]);

    let data = data::open(&folder_source(&folder), BadImage::Quarantine).unwrap();
    assert_eq!(data.quarantined.len(), count);
    for (name, _, reason) in hostile_images() {
        let id = format!("train/cat/{name}");
        let bad = data.quarantined.iter().find(|bad| bad.id == id).expect("each is named");
        assert_says(&format!("{name}: {}", bad.reason), &[reason]);
    }
    let without = data::open(&folder_source(&clean), BadImage::Fail).unwrap();
    assert_eq!(data.sha256, without.sha256, "what is left is the set");
    assert_eq!(ids(data.train.as_ref()), ids(without.train.as_ref()));
}

#[test]
fn a_set_of_bad_images_only_is_an_error() {
    let folder = TempDir::new().unwrap();
    put(&folder.path().join("train/a/1.png"), b"");
    put_image(&folder.path().join("val/a/1.png"), 1);
    let message = input_error(data::open(&folder_source(&folder), BadImage::Quarantine));
    assert_says(&message, &["no usable training sample", "train/a/1.png", "is empty"]);
}

/// Truncations and flipped bits: an image or a reason, never a panic that escapes, never a hang.
#[test]
fn damaged_images_never_break_the_reader() {
    let folder = TempDir::new().unwrap();
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif] {
        let good = encoded(&picture(3, 12, 9), format);
        let path = folder.path().join("image");
        for end in 0..good.len() {
            put(&path, &good[..end]);
            let read = data::image::read(&path);
            if format == ImageFormat::Jpeg {
                assert!(read.is_err(), "a JPEG of {end} of {} bytes is truncated", good.len());
            }
        }
        for at in (0..good.len()).step_by(3) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            put(&path, &bytes);
            if let Ok(image) = data::image::read(&path) {
                assert_eq!(image.pixels.len(), image.height * image.width * 3);
            }
        }
    }
}

// ---- colours, as Pillow's convert("RGB") ----

#[test]
fn every_kind_of_png_becomes_rgb() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image.png");
    let read = |bytes: &[u8], color| {
        let mut file = Vec::new();
        image::codecs::png::PngEncoder::new(&mut file).write_image(bytes, 2, 1, color).unwrap();
        put(&path, &file);
        data::image::read(&path).unwrap().pixels
    };
    let wide = |values: &[u16]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
    assert_eq!(read(&[7, 200], ExtendedColorType::L8), [7, 7, 7, 200, 200, 200]);
    assert_eq!(read(&[7, 0, 200, 9], ExtendedColorType::La8), [7, 7, 7, 200, 200, 200]);
    assert_eq!(read(&[1, 2, 3, 4, 5, 6], ExtendedColorType::Rgb8), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(&[1, 2, 3, 0, 4, 5, 6, 128], ExtendedColorType::Rgba8), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(&wide(&[254, 40_000]), ExtendedColorType::L16), [254, 254, 254, 255, 255, 255]);
    let rgb16 = read(&wide(&[0x0102, 0x20ff, 0xffff, 0, 0xff, 0x100]), ExtendedColorType::Rgb16);
    assert_eq!(rgb16, [1, 0x20, 0xff, 0, 0, 1]);
}

/// Pillow's default does not turn images as their EXIF orientation says, and neither do we.
#[test]
fn an_orientation_is_not_applied() {
    let folder = TempDir::new().unwrap();
    let jpeg = encoded(&picture(1, 24, 16), ImageFormat::Jpeg);
    let tiff = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut turned = vec![0xff, 0xd8, 0xff, 0xe1];
    turned.extend((tiff.len() as u16 + 2).to_be_bytes());
    turned.extend(tiff);
    turned.extend(&jpeg[2..]);
    put(&folder.path().join("plain.jpg"), &jpeg);
    put(&folder.path().join("turned.jpg"), &turned);
    let read = |name| data::image::read(&folder.path().join(name)).unwrap();
    assert_eq!(read("plain.jpg"), read("turned.jpg"));
    assert_eq!((read("turned.jpg").height, read("turned.jpg").width), (16, 24));
}

#[test]
fn a_missing_image_is_wrong_input_and_a_corrupt_one_a_failure() {
    let folder = TempDir::new().unwrap();
    let missing = data::image::read(&folder.path().join("none.png")).unwrap_err();
    assert!(matches!(&missing, Error::Input(message) if message.contains("no such file")), "{missing:?}");
    assert!(matches!(data::image::read(folder.path()), Err(Error::Input(message)) if message.contains("regular file")));
    put(&folder.path().join("bad.png"), b"text");
    assert!(matches!(data::image::read(&folder.path().join("bad.png")), Err(Error::Input(_))));
}

// ---- manifests ----

fn manifest(text: &str, split: Split) -> (TempDir, Result<Data>) {
    let folder = TempDir::new().unwrap();
    for i in 0..6 {
        put_image(&folder.path().join(format!("images/{i}.png")), i);
    }
    let path = folder.path().join("set.csv");
    put(&path, text.as_bytes());
    let data = data::open(&Source::Csv { path, split }, BadImage::Fail);
    (folder, data)
}

#[test]
fn a_manifest_gives_names_indices_and_splits() {
    let text = "label,path,split\ndog, images/0.png ,train\n\"a,b\",images/1.png,train\ndog,./images/2.png,val\n";
    let (_folder, data) = manifest(text, Split::Given);
    let data = data.unwrap();
    assert_eq!(data.train.classes(), ["a,b", "dog"]);
    assert_eq!((labels(data.train.as_ref()), labels(data.val.as_ref())), (vec![1, 0], vec![1]));
    assert_eq!(ids(data.train.as_ref()), ["images/0.png", "images/1.png"]);

    let text = "path,label\nimages/0.png,0\nimages/1.png,0\nimages/2.png,2\nimages/3.png,2\n";
    let (_folder, data) = manifest(text, seeded(0.5));
    let data = data.unwrap();
    assert_eq!(data.train.classes(), ["0", "1", "2"]);
    assert_eq!((labels(data.train.as_ref()), labels(data.val.as_ref())), (vec![0, 2], vec![0, 2]));
}

#[test]
fn a_wrong_manifest_is_told_with_its_line() {
    let given = [
        ("", &["has no column `path`"][..]),
        ("path,label,split\n", &["lists no samples"]),
        ("path,split\nimages/0.png,train\n", &["has no column `label`"]),
        ("path,label,spilt\nimages/0.png,a,train\n", &["column `spilt` is unknown"]),
        ("path,label,path\nimages/0.png,a,b\n", &["column `path` stands twice"]),
        ("path,label\nimages/0.png,a\n", &[":1: has no column `split`", "val_fraction"]),
        ("path,label,split\nimages/0.png,a,test\n", &[":2: split `test` must be `train` or `val`"]),
        ("path,label,split\nimages/0.png,a,train\n../x.png,a,val\n", &[":3: path `../x.png`", "cannot leave"]),
        ("path,label,split\n/etc/passwd,a,train\n", &[":2: path `/etc/passwd`", "relative"]),
        ("path,label,split\n,a,train\n", &[":2: path ``"]),
        ("path,label,split\nimages/0.png,,train\n", &[":2: the label is empty"]),
        ("path,label,split\nimages/0.png,a\n", &["line: 2"]),
        ("path,label,split\nimages/0.png,70000,train\nimages/1.png,1,val\n", &[":2: label 70000 must be below 65536"]),
        ("path,label,split\nimages/0.png,99999999999,train\n", &[":2: label 99999999999 must be below"]),
        ("path,label,split\nimages/0.png,a,train\nimages/0.png,a,val\n", &[":3: ", "stands in line 2 already"]),
        ("path,label,split\nimages/0.png,a,train\n./images/0.png,a,val\n", &[":3: ", "stands in line 2 already"]),
        ("path,label,split\nimages/0.png,a,train\n", &["no sample with split `val`"]),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,val\n", &["class `b` of `images/1.png`"]),
    ];
    for (text, parts) in given {
        let (_folder, data) = manifest(text, Split::Given);
        assert_says(&input_error(data), parts);
    }
    let (_folder, data) = manifest("path,label,split\nimages/0.png,a,train\n", seeded(0.5));
    assert_says(&input_error(data), &["leave `val_fraction` out"]);
    let (_folder, data) = manifest("path,label\nimages/0.png,a\nimages/77.png,a\n", seeded(0.5));
    let Err(Error::Failed(message)) = data else { panic!("a missing image must fail") };
    assert_says(&message, &["1 of the data set's images", "images/77.png is missing"]);
}

#[cfg(unix)]
#[test]
fn a_manifest_cannot_leave_its_folder_through_a_link() {
    let outside = TempDir::new().unwrap();
    put_image(&outside.path().join("secret.png"), 1);
    let folder = TempDir::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("images")).unwrap();
    put_image(&folder.path().join("own.png"), 1);
    let path = folder.path().join("set.csv");
    put(&path, b"path,label,split\nimages/secret.png,a,train\nown.png,a,val\n");
    let Err(Error::Failed(message)) = data::open(&Source::Csv { path, split: Split::Given }, BadImage::Fail) else {
        panic!("the link must be refused")
    };
    assert_says(&message, &["images/secret.png", "leads out of"]);
}

// ---- IDX and CIFAR ----

fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// Three training and two test images of 2 x 3 pixels.
fn idx_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("train-images-idx3-ubyte"), &idx(&[3, 2, 3], &(0..18).collect::<Vec<u8>>()));
    put(&at("train-labels-idx1-ubyte"), &idx(&[3], &[0, 2, 1]));
    put(&at("t10k-images-idx3-ubyte.gz"), &gzipped(&idx(&[2, 2, 3], &(100..112).collect::<Vec<u8>>())));
    put(&at("t10k-labels-idx1-ubyte.gz"), &gzipped(&idx(&[2], &[1, 2])));
    folder
}

#[test]
fn idx_files_are_read_plain_and_gzipped() {
    let folder = idx_folder();
    let data = data::open(&Source::Idx { path: folder.path().to_owned() }, BadImage::Fail).unwrap();
    assert_eq!(data.train.classes(), ["0", "1", "2"]);
    assert_eq!((labels(data.train.as_ref()), labels(data.val.as_ref())), (vec![0, 2, 1], vec![1, 2]));
    let image = data.val.frames(1).unwrap().remove(0);
    assert_eq!((image.height, image.width, image.channels), (2, 3, 1));
    assert_eq!(image.pixels, [106, 107, 108, 109, 110, 111]);
}

#[test]
fn wrong_idx_files_are_told() {
    let images = "train-images-idx3-ubyte";
    let test_labels = "t10k-labels-idx1-ubyte.gz";
    let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[]);
    let wrong: [(&str, Vec<u8>, &str); 12] = [
        (images, b"\0\0\x08\x01\0\0\0\x03".to_vec(), "begins with [00, 00, 08, 01]"),
        (images, b"PK\x03\x04 a zip file".to_vec(), "begins with"),
        (images, vec![0, 0], "ends inside its header"),
        (images, idx(&[3, 2], &[]), "begins with"),
        (images, idx(&[3, 2, 3], &[0; 17]), "is truncated: [3, 2, 3] need 18 bytes, and 17 are there"),
        (images, idx(&[3, 2, 3], &[0; 19]), "bytes after the 18"),
        (images, idx(&[0, 2, 3], &[]), "it holds nothing"),
        (images, idx(&[1_000_000, 28, 28], &[0; 100]), "is truncated"),
        (images, huge, "more than the 1073741824 bytes"),
        (test_labels, gzipped(&idx(&[3], &[0, 1, 2])), "has 3 labels for 2 images"),
        (test_labels, gzipped(&idx(&[2], &[0, 3])), "label 3 of sample 1 is out of range"),
        (test_labels, gzipped(&idx(&[2], &[0, 1]))[..15].to_vec(), "header"),
    ];
    for (name, bytes, message) in wrong {
        let folder = idx_folder();
        put(&folder.path().join(name), &bytes);
        let error = input_error(data::open(&Source::Idx { path: folder.path().to_owned() }, BadImage::Fail));
        assert_says(&error, &[message]);
    }
    let folder = idx_folder();
    std::fs::remove_file(folder.path().join(images)).unwrap();
    let error = input_error(data::open(&Source::Idx { path: folder.path().to_owned() }, BadImage::Fail));
    assert_says(&error, &["holds neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz"]);
}

/// A record whose planes hold `label`, 1 and 2.
fn cifar_record(labels: &[u8]) -> Vec<u8> {
    [labels, &[labels[0]; 1024], &[1; 1024], &[2; 1024]].concat()
}

#[test]
fn cifar_is_read_with_either_labels() {
    let folder = TempDir::new().unwrap();
    for batch in 1..=5 {
        put(&folder.path().join(format!("data_batch_{batch}.bin")), &cifar_record(&[batch]));
    }
    let test = [cifar_record(&[9]), cifar_record(&[0])].concat();
    put(&folder.path().join("test_batch.bin"), &test);
    let open = |labels| data::open(&Source::Cifar { path: folder.path().to_owned(), labels }, BadImage::Fail);
    let data = open(CifarLabels::Cifar10).unwrap();
    assert_eq!((labels(data.train.as_ref()), labels(data.val.as_ref())), (vec![1, 2, 3, 4, 5], vec![9, 0]));
    let image = data.train.frames(2).unwrap().remove(0);
    assert_eq!((image.height, image.width, &image.pixels[..6]), (32, 32, &[3, 1, 2, 3, 1, 2][..]));
    assert_says(&input_error(open(CifarLabels::Cifar100)), &["train.bin"]);

    put(&folder.path().join("train.bin"), &cifar_record(&[19, 99]));
    put(&folder.path().join("test.bin"), &cifar_record(&[0, 7]));
    assert_eq!(labels(open(CifarLabels::Cifar100).unwrap().train.as_ref()), [99]);
    assert_eq!(labels(open(CifarLabels::Cifar100Coarse).unwrap().train.as_ref()), [19]);
    put(&folder.path().join("test.bin"), &cifar_record(&[20, 7]));
    assert_says(&input_error(open(CifarLabels::Cifar100Coarse)), &["label 20 of record 0 is out of range"]);
    put(&folder.path().join("batches.meta.txt"), b"airplane\nautomobile\n\n");
    assert_says(&input_error(open(CifarLabels::Cifar10)), &["names 2 classes, not 10"]);
    put(&folder.path().join("test_batch.bin"), &test[1..]);
    std::fs::remove_file(folder.path().join("batches.meta.txt")).unwrap();
    assert_says(&input_error(open(CifarLabels::Cifar10)), &["not a whole number of 3073-byte records"]);
    std::fs::remove_file(folder.path().join("data_batch_4.bin")).unwrap();
    assert_says(&input_error(open(CifarLabels::Cifar10)), &["data_batch_4.bin"]);
}

// ---- clips ----

/// A GIF whose frame `i` is grey level `20 * i`.
fn animation(frames: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for level in 0..frames {
        let level = 20 * level;
        let frame = image::RgbaImage::from_pixel(6, 4, image::Rgba([level, level, level, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    bytes
}

fn clips_source(folder: &TempDir, frames: usize) -> Source {
    Source::Clips { path: folder.path().to_owned(), split: Split::Given, frames }
}

#[test]
fn clips_come_from_frame_folders_and_animations() {
    let folder = TempDir::new().unwrap();
    for frame in [1, 2, 10] {
        let image = RgbImage::from_pixel(6, 4, Rgb([frame; 3])).into();
        put(&folder.path().join(format!("train/run/one/f{frame}.png")), &encoded(&image, ImageFormat::Png));
    }
    put(&folder.path().join("train/walk/two.gif"), &animation(8));
    put(&folder.path().join("val/walk/three.GIF"), &animation(1));
    let data = data::open(&clips_source(&folder, 4), BadImage::Fail).unwrap();
    assert_eq!((data.train.dims(), data.train.classes()), (3, &["run".to_owned(), "walk".to_owned()][..]));
    assert_eq!(ids(data.train.as_ref()), ["train/run/one", "train/walk/two.gif"]);
    let levels =
        |set: &dyn Dataset, index| set.frames(index).unwrap().iter().map(|frame| frame.pixels[0]).collect::<Vec<u8>>();
    assert_eq!(levels(data.train.as_ref(), 0), [1, 2, 2, 10], "by the numbers in their names");
    assert_eq!(levels(data.train.as_ref(), 1), [20, 60, 100, 140], "evenly");
    assert_eq!(levels(data.val.as_ref(), 0), [0; 4]);

    let pipeline = Pipeline::new(&sized(8), 3).unwrap();
    let loader = Loader::evaluation(data.train, pipeline, &LoaderOptions::default()).unwrap();
    let batch = loader.epoch(0, 0).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.images.dims(), [2, 3, 4, 8, 8]);
    assert!(batch.images.permute((0, 2, 3, 4, 1)).unwrap().is_contiguous());
}

#[test]
fn bad_clips_are_named() {
    let folder = TempDir::new().unwrap();
    let clip = |name: &str| folder.path().join("train/run").join(name);
    put(&clip("good.gif"), &animation(3));
    put(&folder.path().join("val/run/good.gif"), &animation(2));
    put(&clip("cut.gif"), &animation(9)[..120]);
    put(&clip("png.gif"), &encoded(&picture(1, 4, 4), ImageFormat::Png));
    std::fs::create_dir(clip("empty")).unwrap();
    put(&clip("sizes/1.png"), &encoded(&picture(1, 4, 4), ImageFormat::Png));
    put(&clip("sizes/2.png"), &encoded(&picture(1, 4, 5), ImageFormat::Png));
    put(&clip("torn/1.png"), b"");
    let data = data::open(&clips_source(&folder, 4), BadImage::Quarantine).unwrap();
    assert_eq!(ids(data.train.as_ref()), ["train/run/good.gif"]);
    let reasons: BTreeMap<_, _> = data.quarantined.iter().map(|bad| (bad.id.as_str(), bad.reason.as_str())).collect();
    assert_says(reasons["train/run/cut.gif"], &["corrupt"]);
    assert_says(reasons["train/run/png.gif"], &["not a GIF"]);
    assert_says(reasons["train/run/empty"], &["holds no frames"]);
    assert_says(reasons["train/run/sizes"], &["different sizes", "2.png"]);
    assert_says(reasons["train/run/torn"], &["frame 1.png", "is empty"]);
    assert_says(&input_error(data::open(&clips_source(&folder, 0), BadImage::Fail)), &["1 to 256"]);
    assert_says(&input_error(data::open(&clips_source(&folder, 257), BadImage::Fail)), &["1 to 256"]);
}

/// Each frame is the first one moved around the torus, towards where the label says.
#[test]
fn a_moving_garment_moves_towards_its_class() {
    let source = Source::MovingGarments { train: 16, val: 8, frames: 9, size: 32, seed: 4 };
    let data = data::open(&source, BadImage::Fail).unwrap();
    assert_eq!(data.train.dims(), 3);
    assert_eq!(data.train.classes().len(), 8);
    for index in 0..16 {
        let frames = data.train.frames(index).unwrap();
        assert_eq!((frames.len(), frames[0].height, frames[0].width), (9, 32, 32));
        let moved = |down: usize, right: usize| {
            (0..32)
                .all(|y| (0..32).all(|x| frames[0].pixel(y, x) == frames[8].pixel((y + down) % 32, (x + right) % 32)))
        };
        let signed = |distance: usize| if distance > 16 { distance as i32 - 32 } else { distance as i32 };
        let (down, right) =
            (0..32 * 32).map(|at| (at / 32, at % 32)).find(|&(down, right)| moved(down, right)).expect("it moved");
        let toward = |distance: usize| match signed(distance) {
            -3..=3 => 0,
            distance => distance.signum(),
        };
        let expected = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)];
        assert_eq!((toward(down), toward(right)), expected[data.train.label(index) as usize], "{index}");
    }
    let again = data::open(&source, BadImage::Fail).unwrap();
    assert_eq!(data.sha256, again.sha256);
    let other = Source::MovingGarments { train: 16, val: 8, frames: 9, size: 32, seed: 5 };
    assert_ne!(data.sha256, data::open(&other, BadImage::Fail).unwrap().sha256);
    let wrong = Source::MovingGarments { train: 16, val: 8, frames: 1, size: 32, seed: 5 };
    assert_says(&input_error(data::open(&wrong, BadImage::Fail)), &["`frames` must be 2 to 64, not 1"]);
}

// ---- the loader ----

fn embedded(train: usize, val: usize) -> Data {
    data::open(&Source::Embedded { train, val }, BadImage::Fail).unwrap()
}

fn augmenting() -> Pipeline {
    let specs = [
        TransformSpec::RandomResizedCrop {
            size: 16,
            scale: (0.3, 1.0),
            ratio: (0.75, 4.0 / 3.0),
            interpolation: Interpolation::Bilinear,
        },
        TransformSpec::RandomHorizontalFlip { p: 0.5 },
        TransformSpec::TrivialAugmentWide { num_magnitude_bins: 31, interpolation: Interpolation::Nearest },
        TransformSpec::Normalize { mean: vec![0.5], std: vec![0.5] },
        TransformSpec::RandomErasing {
            p: 0.5,
            scale: (0.02, 0.33),
            ratio: (0.3, 3.3),
            value: data::options::Erase::Random,
        },
    ];
    Pipeline::new(&specs, 3).unwrap()
}

const MIXED: Batchwise = Batchwise { mixup_alpha: 0.8, cutmix_alpha: 1.0, probability: 0.8 };

fn training(train: &Arc<dyn Dataset>, batch_size: usize, workers: usize, seed: u64) -> Loader {
    let options = LoaderOptions { batch_size, workers, ..LoaderOptions::default() };
    Loader::training(Arc::clone(train), augmenting(), MIXED, &options, seed).unwrap()
}

#[test]
fn batches_are_the_same_for_any_workers_and_from_anywhere() {
    let data = embedded(107, 10);
    let all = |workers, epoch, first| -> Vec<_> {
        training(&data.train, 10, workers, 7)
            .epoch(epoch, first)
            .unwrap()
            .map(|batch| {
                let batch = batch.unwrap();
                let targets = batch.targets.as_ref().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                (values(&batch), batch.labels, batch.indices, targets)
            })
            .collect()
    };
    let expected = all(0, 3, 0);
    assert_eq!(expected.len(), 10, "the last seven samples are dropped");
    for workers in 1..=3 {
        assert!(all(workers, 3, 0) == expected, "{workers} workers");
        assert!(all(workers, 3, 4)[..] == expected[4..], "{workers} workers from batch 4");
    }
    assert!(all(2, 3, 10).is_empty() && all(0, 3, 99).is_empty());
    assert_ne!(all(1, 4, 0), expected, "another epoch, other batches");

    let mut indices: Vec<usize> = expected.iter().flat_map(|(_, _, indices, _)| indices.clone()).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 100, "no sample comes twice");
    for (_, labels, indices, targets) in &expected {
        for (label, index) in labels.iter().zip(indices) {
            assert_eq!(*label, data.train.label(*index));
        }
        for row in targets.chunks(10) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6 && row.iter().all(|&p| (0.0..=1.0).contains(&p)));
        }
    }
    assert!(expected.iter().any(|(.., targets)| targets.iter().any(|&target| target > 0.0 && target < 1.0)));
}

/// The rows below a crop are not decoded, which changes no bit of it.
#[test]
fn crops_of_files_are_those_of_whole_images() {
    let folder = TempDir::new().unwrap();
    for number in 0..6 {
        for part in ["train", "val"] {
            let bytes = encoded(&picture(number, 40, 160), ImageFormat::Jpeg);
            put(&folder.path().join(format!("{part}/a/{number}.jpg")), &bytes);
        }
    }
    let data = data::open(&folder_source(&folder), BadImage::Fail).unwrap();
    let upper = data.train.upper_frames(0, &mut |height, _| height / 8).unwrap();
    assert!(upper[0].height < 160, "work is saved");
    let options = LoaderOptions { batch_size: 6, workers: 2, ..LoaderOptions::default() };
    let loader = Loader::training(Arc::clone(&data.train), augmenting(), Batchwise::default(), &options, 7).unwrap();
    for epoch in 0..20 {
        let batch = loader.epoch(epoch, 0).unwrap().next().unwrap().unwrap();
        let mut whole = Vec::new();
        for &index in &batch.indices {
            let stream = zoo::random::stream_of("augment");
            let mut draws = Stream::new(Key { seed: 7, stream, step: epoch, index: index as u64 });
            let frames = augmenting().augment(data.train.frames(index).unwrap(), &mut draws).unwrap();
            let mut values = vec![0.0f32; 3 * 16 * 16];
            augmenting().write(&frames, &mut draws, &mut values);
            whole.extend(values.into_iter().map(f32::to_bits));
        }
        let images = batch.images.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(images.into_iter().map(f32::to_bits).eq(whole), "epoch {epoch}");
    }
}

#[test]
fn evaluation_keeps_order_and_the_last_batch() {
    let data = embedded(10, 25);
    for workers in 0..=2 {
        let options = LoaderOptions { eval_batch_size: 10, workers, ..LoaderOptions::default() };
        let pipeline = Pipeline::new(&[], 3).unwrap();
        let loader = Loader::evaluation(Arc::clone(&data.val), pipeline, &options).unwrap();
        assert_eq!(loader.batches(), 3);
        let batches: Vec<Batch> = loader.epoch(0, 0).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(
            batches.iter().flat_map(|batch| batch.indices.clone()).collect::<Vec<_>>(),
            (0..25).collect::<Vec<_>>()
        );
        assert_eq!(batches[2].images.dims(), [5, 3, 28, 28]);
        assert!(batches[2].images.permute((0, 2, 3, 1)).unwrap().is_contiguous(), "channels-last underneath");
        assert!(batches[2].targets.is_none());
        let image = &data.val.frames(20).unwrap()[0];
        let values = batches[2].images.get(0).unwrap().get(1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().zip(&image.pixels).all(|(value, &byte)| *value == f32::from(byte) / 255.0));
    }
    let options = LoaderOptions::default();
    let random = Loader::evaluation(Arc::clone(&data.val), augmenting(), &options);
    assert!(matches!(random, Err(Error::Input(message)) if message.contains("evaluation must not be random")));
}

#[test]
fn wrong_loader_options_are_told() {
    let data = embedded(20, 10);
    let open = |options: LoaderOptions, batchwise| match Loader::training(
        Arc::clone(&data.train),
        augmenting(),
        batchwise,
        &options,
        0,
    ) {
        Err(Error::Input(message)) => message,
        _ => panic!("no error"),
    };
    let plain = LoaderOptions { batch_size: 4, ..LoaderOptions::default() };
    let mixed = |mixup_alpha, probability| Batchwise { mixup_alpha, probability, ..Batchwise::default() };
    assert_says(&open(LoaderOptions { batch_size: 21, ..plain }, MIXED), &["20 samples", "a batch of 21", "lower"]);
    assert_says(&open(LoaderOptions { batch_size: 0, ..plain }, MIXED), &["batch_size must be 1 to 65536"]);
    assert_says(&open(LoaderOptions { workers: 65, ..plain }, MIXED), &["workers must be 0 to 64"]);
    assert_says(&open(LoaderOptions { prefetch: 0, ..plain }, MIXED), &["prefetch must be 1 to 64"]);
    assert_says(&open(plain, mixed(-1.0, 1.0)), &["mixup_alpha must be 0 (off) to 100"]);
    assert_says(&open(plain, mixed(f64::NAN, 1.0)), &["mixup_alpha"]);
    assert_says(&open(plain, mixed(1.0, 1.5)), &["probability of mixing must be 0 to 1"]);
}

#[test]
fn an_iterator_that_is_dropped_early_does_not_hang() {
    let data = embedded(200, 10);
    for workers in 0..=3 {
        for taken in 0..3 {
            let mut epoch = training(&data.train, 2, workers, 1).epoch(0, 0).unwrap();
            for _ in 0..taken {
                epoch.next().unwrap().unwrap();
            }
        }
    }
}

#[test]
fn a_workers_error_arrives_and_ends_the_epoch() {
    let folder = small_folder();
    let data = data::open(&folder_source(&folder), BadImage::Fail).unwrap();
    put(&folder.path().join("train/dog/3.png"), b"gone bad");
    for workers in 0..=2 {
        let options = LoaderOptions { batch_size: 2, workers, ..LoaderOptions::default() };
        let pipeline = Pipeline::new(&sized(8), 3).unwrap();
        let loader = Loader::training(Arc::clone(&data.train), pipeline, Batchwise::default(), &options, 0).unwrap();
        let results: Vec<_> = loader.epoch(0, 0).unwrap().collect();
        let errors: Vec<String> =
            results.iter().filter_map(|batch| batch.as_ref().err()).map(Error::to_string).collect();
        assert_eq!(errors.len(), 1);
        assert!(results.last().unwrap().is_err());
        assert_says(&errors[0], &["train/dog/3.png", "could be read when the set was opened"]);
    }
}

#[test]
fn samples_of_unequal_size_are_told() {
    let folder = small_folder();
    put(&folder.path().join("val/cat/1.png"), &encoded(&picture(1, 30, 16), ImageFormat::Png));
    let data = data::open(&folder_source(&folder), BadImage::Fail).unwrap();
    let specs = [TransformSpec::Resize { size: ResizeTo::Shorter(8), interpolation: Interpolation::Bilinear }];
    let pipeline = Pipeline::new(&specs, 3).unwrap();
    let loader = Loader::evaluation(data.val, pipeline, &LoaderOptions::default()).unwrap();
    let error = loader.epoch(0, 0).unwrap().next().unwrap().unwrap_err().to_string();
    assert_says(&error, &["val/cat/0.png has 8 x 10", "val/cat/1.png has 8 x 15", "end them with a crop"]);
}

/// A grey set as one channel, and what a network for RGB gets of it.
#[test]
fn channels_are_the_pipelines() {
    let data = embedded(10, 10);
    for channels in [1, 3] {
        let pipeline = Pipeline::new(&[], channels).unwrap();
        let loader = Loader::evaluation(Arc::clone(&data.val), pipeline, &LoaderOptions::default()).unwrap();
        let batch = loader.epoch(0, 0).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.images.dims(), [10, channels, 28, 28]);
    }
}

//! Class folders, of images or of clips.

use super::files::{self, Content, Format, Found, Listing};
use super::options::Split;
use super::split;
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXTENSIONS: [&str; 5] = ["jpeg", "jpg", "png", "webp", "gif"];

/// The images of class folders.
pub(super) fn list_images(root: &Path, split: &Split) -> Result<Listing> {
    list(root, split, Format::Image, "image (.jpeg, .jpg, .png, .webp, .gif)")
}

/// The clips of class folders: folders of frames, and `.gif` files.
pub(super) fn list_clips(root: &Path, split: &Split, frames: usize) -> Result<Listing> {
    if !(1..=256).contains(&frames) {
        return Err(Error::input(format!("a clip's `frames` must be 1 to 256, not {frames}")));
    }
    list(root, split, Format::Clip(frames), "clip (a folder of frames or a .gif)")
}

fn list(root: &Path, split: &Split, format: Format, what: &str) -> Result<Listing> {
    let root = root.canonicalize().map_err(|error| {
        let path = root.display();
        Error::input(format!(
            "cannot read the folder {path}: {error}; the `path` of `data.source` is relative to where the program is started"
        ))
    })?;
    let given = ["train", "val"].map(|part| root.join(part));
    let has_parts = given.iter().all(|part| part.is_dir());
    let (classes, train, val) = match *split {
        Split::Given if has_parts => {
            let classes = class_names(&given[0])?;
            let [train, val] = given;
            let train = samples(&root, &train, &classes, format)?;
            every_class(&train, &classes, &root.join("train"), what)?;
            let known: Vec<_> = class_names(&val)?;
            if let Some(unknown) = known.iter().find(|class| !classes.contains(class)) {
                return Err(Error::input(format!(
                    "{}: there is no such class in {}; the classes there are {}",
                    val.join(unknown).display(),
                    root.join("train").display(),
                    classes.join(", ")
                )));
            }
            let val_samples = samples(&root, &val, &classes, format)?;
            if val_samples.is_empty() {
                return Err(Error::input(format!("{}: holds no {what} in a class folder", val.display())));
            }
            (classes, train, val_samples)
        }
        Split::Given => {
            return Err(Error::input(format!(
                "{}: has no folders `train` and `val`; make them, or give a `val_fraction` to split class folders",
                root.display()
            )));
        }
        Split::Seeded { .. } if has_parts => {
            return Err(Error::input(format!(
                "{}: has folders `train` and `val`, which are the split: leave `val_fraction` out",
                root.display()
            )));
        }
        Split::Seeded { val_fraction, seed } => {
            let classes = class_names(&root)?;
            let found = samples(&root, &root, &classes, format)?;
            every_class(&found, &classes, &root, what)?;
            let (train, val) = split::seeded(found, val_fraction, seed)?;
            (classes, train, val)
        }
    };
    Ok(Listing { classes: Arc::from(classes), format, train, val })
}

fn every_class(found: &[Found], classes: &[String], folder: &Path, what: &str) -> Result<()> {
    let mut counts = vec![0; classes.len()];
    for found in found {
        counts[found.label as usize] += 1;
    }
    match counts.iter().position(|&count| count == 0) {
        Some(empty) => Err(Error::input(format!("{}: holds no {what}", folder.join(&classes[empty]).display()))),
        None => Ok(()),
    }
}

/// The names of the folders in `folder`, sorted.
fn class_names(folder: &Path) -> Result<Vec<String>> {
    let names: Vec<_> = entries(folder)?.into_iter().filter(|entry| entry.is_folder).map(|entry| entry.name).collect();
    if names.is_empty() {
        return Err(Error::input(format!("{}: holds no class folders", folder.display())));
    }
    Ok(names)
}

/// The samples of the class folders in `folder` that exist, class by class.
fn samples(root: &Path, folder: &Path, classes: &[String], format: Format) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let class = folder.join(class);
        if !class.is_dir() {
            continue;
        }
        let label = u32::try_from(label).expect("a folder holds fewer than 2^32 folders");
        let contents = match format {
            Format::Image => images_below(root, class)?,
            Format::Clip(_) => clips_in(root, &class)?,
        };
        found.extend(contents.into_iter().map(|(path, content)| Found { id: id(root, &path), label, content }));
    }
    Ok(found)
}

fn images_below(root: &Path, class: PathBuf) -> Result<Vec<(PathBuf, Result<Content, String>)>> {
    let mut images = Vec::new();
    let mut folders = vec![class];
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder)? {
            let path = folder.join(&entry.name);
            if entry.is_folder {
                folders.push(path);
            } else if is_image(&path) {
                let content = files::vet(root, &path).map(|()| Content::Image(path.clone()));
                images.push((path, content));
            }
        }
    }
    images.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(images)
}

fn clips_in(root: &Path, class: &Path) -> Result<Vec<(PathBuf, Result<Content, String>)>> {
    let mut clips = Vec::new();
    for entry in entries(class)? {
        let path = class.join(&entry.name);
        if entry.is_folder {
            clips.push((path.clone(), frames_of(root, &path)?));
        } else if extension(&path) == "gif" {
            let content = files::vet(root, &path).map(|()| Content::Animation(path.clone()));
            clips.push((path, content));
        }
    }
    Ok(clips)
}

fn frames_of(root: &Path, clip: &Path) -> Result<Result<Content, String>> {
    let mut frames: Vec<PathBuf> = Vec::new();
    for entry in entries(clip)? {
        let path = clip.join(&entry.name);
        if !entry.is_folder && is_image(&path) {
            if let Err(reason) = files::vet(root, &path) {
                return Ok(Err(format!("has a frame {} that {reason}", entry.name)));
            }
            frames.push(path);
        }
    }
    if frames.is_empty() {
        return Ok(Err("holds no frames".to_owned()));
    }
    frames.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(Ok(Content::Frames(frames)))
}

struct FolderEntry {
    name: String,
    is_folder: bool,
}

/// What a folder holds, sorted by name; hidden entries are passed over.
fn entries(folder: &Path) -> Result<Vec<FolderEntry>> {
    let wrong = |error: std::io::Error| Error::input(format!("{}: {error}", folder.display()));
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let kind = entry.file_type().map_err(wrong)?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::input(format!("{}: the name {} is not UTF-8: rename it", folder.display(), name.display()))
        })?;
        if name.starts_with('.') {
            continue;
        }
        // Following them could leave the set, or never end.
        if kind.is_symlink() && entry.path().is_dir() {
            return Err(Error::input(format!(
                "{}: is a symbolic link to a folder, which is not followed: move the folder there, or name it as the path",
                entry.path().display()
            )));
        }
        entries.push(FolderEntry { name, is_folder: kind.is_dir() });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn is_image(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).as_str())
}

/// The path below the root, with `/` on every system.
fn id(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).expect("a sample was found below the root");
    below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Text order, but digits as the numbers that they write: `f2` stands before `f10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a_rest, mut b_rest) = (a, b);
    while let (Some(x), Some(y)) = (a_rest.chars().next(), b_rest.chars().next()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let number = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (a_number, a_after) = a_rest.split_at(number(a_rest));
            let (b_number, b_after) = b_rest.split_at(number(b_rest));
            let (a_value, b_value) = (a_number.trim_start_matches('0'), b_number.trim_start_matches('0'));
            match a_value.len().cmp(&b_value.len()).then_with(|| a_value.cmp(b_value)) {
                Ordering::Equal => (a_rest, b_rest) = (a_after, b_after),
                unequal => return unequal,
            }
        } else if x == y {
            (a_rest, b_rest) = (&a_rest[x.len_utf8()..], &b_rest[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
    a_rest.len().cmp(&b_rest.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f01b.png", "e9.png", "f02.png"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["e9.png", "f1.png", "f01b.png", "f02.png", "f2.png", "f10.png"]);
    }
}

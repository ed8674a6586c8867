//! A folder or a zip, written whole or not at all, and read without trust.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Most files of a bundle.
const MOST_FILES: usize = 10_000;

/// What is being written: under another name until it is whole.
pub(super) struct Target {
    path: PathBuf,
    temporary: PathBuf,
    zip: Option<ZipWriter<File>>,
    finished: bool,
}

impl Target {
    /// A zip where `path` ends in `.zip`, else a folder.
    pub fn create(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::input(format!("{} exists already; name another file or folder", path.display())));
        }
        let name = path.file_name().ok_or_else(|| Error::input(format!("{} has no name", path.display())))?;
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let is_zip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
        let created = match is_zip {
            true => File::options()
                .write(true)
                .read(true)
                .create_new(true)
                .open(&temporary)
                .map(|file| Some(ZipWriter::new(file))),
            false => fs::create_dir(&temporary).map(|()| None),
        };
        let zip = created.map_err(|error| failed("create", path, &error))?;
        Ok(Target { path: path.to_path_buf(), temporary, zip, finished: false })
    }

    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let mut attempt = || -> io::Result<()> {
            if let Some(zip) = &mut self.zip {
                // No time of day: the same run gives the same bytes.
                let options = SimpleFileOptions::default()
                    .compression_method(CompressionMethod::Stored)
                    .last_modified_time(zip::DateTime::default())
                    .unix_permissions(0o644)
                    .large_file(bytes.len() as u64 >= u64::from(u32::MAX));
                zip.start_file(name, options)?;
                return zip.write_all(bytes);
            }
            let path = self.temporary.join(name);
            fs::create_dir_all(path.parent().expect("it lies in the temporary folder"))?;
            let mut file = File::options().write(true).create_new(true).open(path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        attempt().map_err(|error| failed("write", &path, &error))
    }

    pub fn finish(mut self) -> Result<()> {
        let mut attempt = || -> io::Result<()> {
            if let Some(zip) = self.zip.take() {
                zip.finish()?.sync_all()?;
            }
            fs::rename(&self.temporary, &self.path)?;
            match self.path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
                _ => File::open(".")?.sync_all(),
            }
        };
        attempt().map_err(|error| failed("write", &self.path, &error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            // The reason why it is not whole is the error to report.
            let _ = fs::remove_file(&self.temporary).or_else(|_| fs::remove_dir_all(&self.temporary));
        }
    }
}

type Archive = ZipArchive<BufReader<File>>;

/// Files by name, with their bytes.
type Sizes = Vec<(String, u64)>;

/// What is being read.
pub(super) enum Container {
    Zip(Box<Archive>),
    Folder(PathBuf),
}

impl Container {
    /// Opens a bundle and lists its files with their sizes, in bytes. Nothing is unpacked.
    ///
    /// # Errors
    /// Where it is something else, or where a name, a kind of file or the number of files is not one of a bundle.
    pub fn open(path: &Path) -> Result<(Self, Sizes)> {
        let metadata =
            fs::metadata(path).map_err(|error| Error::input(format!("cannot read {}: {error}", path.display())))?;
        let (container, files) = if metadata.is_dir() {
            let mut files = Vec::new();
            list(path, "", &mut files)?;
            (Container::Folder(path.to_path_buf()), files)
        } else if metadata.is_file() {
            let (archive, files) = open_zip(path)?;
            (Container::Zip(Box::new(archive)), files)
        } else {
            return Err(Error::input(format!("{} is neither a zip nor a folder", path.display())));
        };
        for (name, _) in &files {
            check_name(name)?;
        }
        Ok((container, files))
    }

    /// The bytes of a file that [`open`](Self::open) listed.
    pub fn file(&mut self, name: &str) -> Result<Box<dyn Read + '_>> {
        match self {
            Container::Folder(folder) => {
                let path = folder.join(name);
                Ok(Box::new(File::open(&path).map_err(|error| failed("read", &path, &error))?))
            }
            Container::Zip(archive) => {
                let found =
                    archive.by_name(name).map_err(|error| Error::input(format!("cannot read {name}: {error}")))?;
                Ok(Box::new(found))
            }
        }
    }
}

fn open_zip(path: &Path) -> Result<(Archive, Sizes)> {
    let wrong = |why: String| Error::input(format!("{} is no bundle: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed("read", path, &error))?;
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|error| wrong(format!("it is no sound zip: {error}")))?;
    if archive.len() > MOST_FILES {
        return Err(wrong(format!("it has more than {MOST_FILES} files")));
    }
    if archive.has_duplicate_names() {
        return Err(wrong("a name stands twice in it".to_owned()));
    }
    if archive.has_overlapping_files().map_err(|error| wrong(error.to_string()))? {
        return Err(wrong("files lie over one another in it".to_owned()));
    }
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| wrong(format!("it is no sound zip: {error}")))?;
        let name =
            std::str::from_utf8(entry.name_raw()).map_err(|_| wrong("a name is not UTF-8".to_owned()))?.to_owned();
        let kind = entry.unix_mode().map_or(0, |mode| mode & 0o170_000);
        if entry.is_symlink() || ![0, 0o100_000].contains(&kind) {
            return Err(wrong(format!("`{name}` is no plain file")));
        }
        if entry.encrypted() {
            return Err(wrong(format!("`{name}` is encrypted")));
        }
        if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
            return Err(wrong(format!(
                "`{name}` is compressed; unpack it and import the folder, or pack it with `zip -0`"
            )));
        }
        files.push((name, entry.size()));
    }
    Ok((archive, files))
}

/// All plain files below a folder, by their path below it.
fn list(folder: &Path, prefix: &str, files: &mut Sizes) -> Result<()> {
    let unreadable = |error: io::Error| failed("read", folder, &error);
    let mut entries = fs::read_dir(folder).map_err(unreadable)?.collect::<io::Result<Vec<_>>>().map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name =
            entry.file_name().into_string().map_err(|_| Error::input("a file's name in the bundle is not UTF-8"))?;
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        let metadata = entry.metadata().map_err(unreadable)?;
        if metadata.is_dir() && prefix.is_empty() {
            list(&path, &format!("{name}/"), files)?;
        } else if metadata.is_file() {
            files.push((name, metadata.len()));
        } else {
            return Err(Error::input(format!("the bundle holds `{name}`, which is no plain file")));
        }
        if files.len() > MOST_FILES {
            return Err(Error::input(format!("the bundle has more than {MOST_FILES} files")));
        }
    }
    Ok(())
}

/// A relative path of one or two plain names.
fn check_name(name: &str) -> Result<()> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let sound = !name.is_empty()
        && name.len() <= 200
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && name.split('/').count() <= 2
        && Path::new(name).components().all(plain);
    if sound {
        Ok(())
    } else {
        Err(Error::input(format!("the bundle holds a file of the name {name:?}, which is not allowed")))
    }
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::failed(format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for name in ["run.json", "spec/0-a.yaml"] {
            check_name(name).expect("plain");
        }
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/b/c", "./a", "a\\b", "c:x", "a\nb", "a/"] {
            assert_eq!(check_name(name).expect_err(name).exit_code(), 2);
        }
    }
}

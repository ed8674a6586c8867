//! The git working tree that a run was started from, as git tells of it.

use super::secrets::{redact, strip_credentials};
use serde::{Serialize, Serializer};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Bytes of a patch that are kept; a longer one is left out and said so.
const LONGEST_PATCH: usize = 1 << 20;
/// Bytes of any other answer.
const LONGEST_ANSWER: usize = 1 << 20;
/// How long one question to git may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What would make git look at another repository than the one of the folder, or run another program.
const VARIABLES: [&str; 18] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_ATTR_SOURCE",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIFF_OPTS",
    "GIT_DIR",
    "GIT_EXTERNAL_DIFF",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_TRACE",
    "GIT_WORK_TREE",
];
/// A repository's own settings can name programs. None of them is started: these stand above its settings.
const SETTINGS: [&str; 10] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=false",
    "core.quotePath=true",
    "diff.noprefix=false",
    "diff.mnemonicPrefix=false",
    "diff.orderFile=/dev/null",
    "diff.external=",
    "protocol.allow=never",
    "submodule.recurse=false",
];

/// The commit, and what differs from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Code {
    /// 40 hexadecimal digits.
    pub commit: Option<String>,
    /// `main`; none of a detached head.
    pub branch: Option<String>,
    /// Where `origin` (or else the first remote) is, without credentials.
    pub remote: Option<String>,
    /// What `git apply` takes to come from the commit to the working tree; none where nothing differs.
    #[serde(serialize_with = "as_text")]
    pub patch: Option<Vec<u8>>,
    /// The experiment's files that git does not know. Their text is stored with the run, as that of the others.
    pub untracked: Vec<String>,
    /// What is missing here, and why.
    pub note: Option<String>,
}

impl Code {
    /// Asks git about the repository of the experiment's first file, or else of the current directory. Whatever cannot
    /// be known becomes a note, never an error. Neither hooks nor filters nor any other program of the repository run.
    pub fn of(files: &[PathBuf]) -> Self {
        let beside = files.first().and_then(|file| file.parent()).map(Path::to_path_buf).unwrap_or_default();
        let folder = if beside.as_os_str().is_empty() { PathBuf::from(".") } else { beside };
        let mut why = String::new();
        for folder in [folder.as_path(), Path::new(".")] {
            match Git::open(folder) {
                Ok(git) => return git.code(files),
                Err(reason) if why.is_empty() => why = reason,
                Err(_) => {}
            }
        }
        Code { note: Some(why), ..Code::default() }
    }

    /// One line for a person.
    pub fn summary(&self) -> String {
        let Some(commit) = &self.commit else {
            return self.note.clone().unwrap_or_else(|| "not recorded".to_owned());
        };
        let branch = self.branch.as_ref().map(|branch| format!(" ({branch})")).unwrap_or_default();
        let patch = self.patch.as_ref().map(|patch| format!(", a patch of {} bytes", patch.len())).unwrap_or_default();
        let untracked = match self.untracked.len() {
            0 => String::new(),
            many => format!(", {many} untracked experiment file{}", if many == 1 { "" } else { "s" }),
        };
        let note = self.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
        format!("{}{branch}{patch}{untracked}{note}", commit.get(..12).unwrap_or(commit))
    }
}

fn as_text<S: Serializer>(patch: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    patch.as_ref().map(|patch| String::from_utf8_lossy(patch)).serialize(serializer)
}

/// A repository, and how to ask about it without running anything of its own.
struct Git {
    top: PathBuf,
    /// What stands above its own settings.
    settings: Vec<String>,
    /// Its own.
    config: Vec<(String, String)>,
}

impl Git {
    fn open(folder: &Path) -> Result<Self, String> {
        let settings = SETTINGS.map(str::to_owned).to_vec();
        let mut git = Git { top: folder.to_path_buf(), settings, config: Vec::new() };
        let top = git.ask(&["rev-parse", "--show-toplevel"], LONGEST_ANSWER)?;
        git.top = PathBuf::from(text(&top));
        let config = git.ask(&["config", "--null", "--list"], LONGEST_ANSWER)?;
        let config = String::from_utf8_lossy(&config).into_owned();
        git.config = config.split('\0').filter_map(|entry| entry.split_once('\n')).map(owned).collect();
        // A filter is a program that git starts to compare a file. An empty one is none.
        for (name, _) in git.config.iter().filter(|(name, _)| name.starts_with("filter.")) {
            let Some((driver, _)) = name.rsplit_once('.') else { continue };
            if driver.contains('=') {
                return Err(format!("the repository {} has a filter with `=` in its name", git.top.display()));
            }
            let nothing = ["clean=", "smudge=", "process=", "required=false"];
            git.settings.extend(nothing.map(|setting| format!("{driver}.{setting}")));
        }
        Ok(git)
    }

    fn code(&self, files: &[PathBuf]) -> Code {
        let line =
            |arguments: &[&str]| Some(text(&self.ask(arguments, LONGEST_ANSWER).ok()?)).filter(|s| !s.is_empty());
        let mut code = Code {
            commit: line(&["rev-parse", "--verify", "HEAD"]),
            branch: line(&["symbolic-ref", "--short", "-q", "HEAD"]),
            remote: self.remote(),
            untracked: self.untracked(files),
            ..Code::default()
        };
        if code.commit.is_none() {
            code.note = Some(format!("the git repository {} has no commit yet", self.top.display()));
            return code;
        }
        match self.ask(&DIFF, LONGEST_PATCH) {
            Ok(patch) if patch.is_empty() => {}
            Ok(patch) => {
                let (patch, secrets) = redact(&patch);
                if secrets > 0 {
                    code.note = Some(format!(
                        "{secrets} secrets in the patch were replaced by asterisks, so that it does not apply as it is"
                    ));
                }
                code.patch = Some(patch);
            }
            Err(why) => code.note = Some(format!("there are changes, or there may be: {why}")),
        }
        code
    }

    fn remote(&self) -> Option<String> {
        let is_address = |name: &str| name.starts_with("remote.") && name.ends_with(".url");
        let mut addresses = self.config.iter().filter(|(name, _)| is_address(name));
        let origin = addresses.clone().find(|(name, _)| name == "remote.origin.url");
        let (_, url) = origin.or_else(|| addresses.next())?;
        Some(strip_credentials(url))
    }

    /// Those of `files` that lie below the top and that git does not track.
    fn untracked(&self, files: &[PathBuf]) -> Vec<String> {
        let top = self.top.canonicalize().unwrap_or_else(|_| self.top.clone());
        let below =
            files.iter().filter_map(|file| Some(file.canonicalize().ok()?.strip_prefix(&top).ok()?.to_path_buf()));
        let below: Vec<OsString> = below.map(PathBuf::into_os_string).collect();
        if below.is_empty() {
            return Vec::new();
        }
        let mut arguments: Vec<OsString> = ["ls-files", "-z", "--others", "--"].map(OsString::from).to_vec();
        arguments.extend(below);
        let names = self.ask(&arguments, LONGEST_ANSWER).unwrap_or_default();
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// What git answers on standard output, or in a few words why it does not.
    fn ask<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A], longest: usize) -> Result<Vec<u8>, String> {
        let mut command = Command::new("git");
        command.args(["--no-pager", "--no-optional-locks", "--literal-pathspecs", "-C"]).arg(&self.top);
        command.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_NO_LAZY_FETCH", "1"), ("GIT_ALLOW_PROTOCOL", "none")]);
        command.env("LC_ALL", "C");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("git cannot be asked: {error}"))?;
        answer(child, longest)
    }
}

const DIFF: [&str; 12] = [
    "diff",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--no-relative",
    "--binary",
    "--full-index",
    "--ignore-submodules=all",
    "--unified=3",
    "HEAD",
    "--",
];

/// Waits for a child whose output is bounded in length and time.
fn answer(mut child: Child, longest: usize) -> Result<Vec<u8>, String> {
    let (sender, receiver) = channel();
    let stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(longest as u64 + 1).read_to_end(&mut bytes);
        // Nobody waits any more where the time is over.
        let _ = sender.send(read.map(|_| bytes));
    });
    let complaining = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A complaint that cannot be read is an empty one; the rest is read so that git can go on.
        let _ = stderr.by_ref().take(4096).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        bytes
    });
    let answered = receiver.recv_timeout(PATIENCE);
    if !matches!(&answered, Ok(Ok(bytes)) if bytes.len() <= longest) {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
    }
    let status = child.wait();
    let complaint = complaining.join().unwrap_or_default();
    let bytes = match answered {
        Ok(Ok(bytes)) if bytes.len() <= longest => bytes,
        Ok(Ok(_)) => return Err(format!("git's answer is longer than {longest} bytes and was left out")),
        Ok(Err(error)) => return Err(format!("git's answer cannot be read: {error}")),
        Err(_) => return Err(format!("git did not answer in {} s", PATIENCE.as_secs())),
    };
    if status.is_ok_and(|status| status.success()) {
        return Ok(bytes);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let first = complaint.lines().next().unwrap_or("it failed").trim_start_matches("fatal: ");
    Err(format!("git says: {first}"))
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn git(folder: &Path, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.current_dir(folder).args(["-c", "user.name=T", "-c", "user.email=t@example.org"]).args(arguments);
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let output = command.output().expect("git is needed for this test");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A repository with one committed experiment.
    fn repository() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        git(folder.path(), &["init", "-q", "-b", "main"]);
        let file = folder.path().join("a.yaml");
        fs::write(&file, "name: a\n").expect("written");
        git(folder.path(), &["add", "a.yaml"]);
        git(folder.path(), &["commit", "-q", "-m", "one"]);
        (folder, file)
    }

    #[test]
    fn a_clean_tree_is_a_commit() {
        let (_folder, file) = repository();
        let code = Code::of(&[file]);
        assert_eq!(code.commit.as_ref().map(String::len), Some(40));
        assert_eq!((code.branch.as_deref(), &code.patch, &code.note), (Some("main"), &None, &None));
        assert!(code.untracked.is_empty() && code.remote.is_none());
    }

    #[test]
    fn changes_untracked_files_and_remotes_are_kept() {
        let (folder, file) = repository();
        fs::write(&file, "name: b\nbinary: \u{e9}\n").expect("written");
        let new = folder.path().join("new.yaml");
        fs::write(&new, "extends: a.yaml\n").expect("written");
        git(folder.path(), &["remote", "add", "origin", "https://me:s3cret@example.org/x.git?private_token=abc"]);
        let code = Code::of(&[new, file]);
        let patch = code.patch.clone().expect("a change");
        assert!(String::from_utf8_lossy(&patch).contains("-name: a\n+name: b\n"), "{code:?}");
        assert_eq!(code.untracked, ["new.yaml"]);
        assert_eq!(code.remote.as_deref(), Some("https://example.org/x.git"));
        // It takes the commit to the tree.
        git(folder.path(), &["checkout", "-q", "--", "a.yaml"]);
        fs::write(folder.path().join("p"), patch).expect("written");
        git(folder.path(), &["apply", "p"]);
        assert_eq!(fs::read_to_string(folder.path().join("a.yaml")).expect("read"), "name: b\nbinary: \u{e9}\n");
    }

    #[test]
    fn nothing_of_the_repository_runs() {
        let (folder, file) = repository();
        let trap = folder.path().join("sprung");
        let program = folder.path().join("program");
        fs::write(&program, format!("#!/bin/sh\ntouch '{}'\ncat\n", trap.display())).expect("written");
        git(folder.path(), &["config", "core.fsmonitor", program.to_str().expect("UTF-8")]);
        let path = program.display().to_string();
        let mut permissions = fs::metadata(&program).expect("there").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        fs::set_permissions(&program, permissions).expect("executable");
        for hook in ["post-index-change", "post-checkout", "pre-commit"] {
            fs::copy(&program, folder.path().join(".git/hooks").join(hook)).expect("copied");
        }
        for name in ["diff.external", "diff.x.textconv", "diff.x.command", "filter.x.clean", "filter.x.process"] {
            git(folder.path(), &["config", name, &path]);
        }
        fs::write(folder.path().join(".git/info/attributes"), "* filter=x diff=x\n").expect("written");
        fs::write(&file, "name: b\n").expect("written");
        // Setting all this up may have sprung it already.
        let _ = fs::remove_file(&trap);
        let code = Code::of(&[file]);
        assert!(String::from_utf8_lossy(&code.patch.expect("a change")).contains("+name: b"));
        assert!(!trap.exists(), "a program of the repository ran");
    }

    #[test]
    fn what_cannot_be_known_is_a_note() {
        let folder = tempfile::tempdir().expect("a folder");
        let note = Git::open(folder.path()).err().expect("no repository");
        assert!(note.contains("not a git repository"), "{note}");
        git(folder.path(), &["init", "-q"]);
        let code = Code::of(&[folder.path().join("x.yaml")]);
        assert!(code.note.as_ref().is_some_and(|note| note.contains("has no commit yet")), "{code:?}");

        let (_folder, file) = repository();
        fs::write(&file, "x".repeat(LONGEST_PATCH + 1)).expect("written");
        let code = Code::of(&[file]);
        assert!(code.patch.is_none() && code.note.expect("a note").contains("longer than 1048576 bytes"));
    }

    #[test]
    fn secrets_do_not_come_along() {
        let (_folder, file) = repository();
        let token = format!("hf_{}", "aB3".repeat(12));
        fs::write(&file, format!("name: a\ntoken: {token}\n")).expect("written");
        let code = Code::of(&[file]);
        let patch = String::from_utf8(code.patch.expect("a change")).expect("UTF-8");
        assert!(!patch.contains(&token) && patch.contains("+token: ***"), "{patch}");
        assert!(code.note.expect("a note").contains("1 secrets"), "said");
    }
}

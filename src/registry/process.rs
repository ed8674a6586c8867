//! The process that works on a run.

use std::fs;

/// Enough to say later whether the process is still there, and what it ran on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The host's name.
    pub host: String,
    /// Linux's random id of this boot; empty elsewhere. Another boot means that the process is dead.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Linux's start time of the process, in clock ticks since boot; 0 elsewhere.
    pub pid_start: i64,
    /// The processor's model.
    pub cpu: String,
    /// The vector instructions that the kernels use, or `unknown` where `RESNET_ZOO_ISA` names none of this CPU.
    pub isa: &'static str,
}

impl Process {
    /// This process.
    pub fn current() -> Self {
        Process {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            pid: std::process::id(),
            pid_start: start_ticks(&read("/proc/self/stat")).unwrap_or(0),
            cpu: model_name(&read("/proc/cpuinfo")).unwrap_or(std::env::consts::ARCH).to_owned(),
            isa: zoo::ops::Isa::chosen().map_or("unknown", zoo::ops::Isa::name),
        }
    }
}

/// What this process has taken so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Seconds of all its threads.
    pub cpu_seconds: f64,
    /// Bytes of memory that it has now.
    pub rss_bytes: u64,
}

/// The unit of times in /proc, on every architecture that Linux has: a hundredth of a second.
const TICKS_PER_SECOND: f64 = 100.;

impl Usage {
    /// As Linux tells it; `None` elsewhere.
    pub fn current() -> Option<Self> {
        let ticks = cpu_ticks(&read("/proc/self/stat"))?;
        Some(Usage {
            cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
            rss_bytes: resident_bytes(&read("/proc/self/status"))?,
        })
    }
}

/// Fields 14 and 15 of proc(5)'s stat: time in the program and in the kernel.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| 1024 * kib)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Field 22 of proc(5)'s stat; field 2 is a name in parentheses that can hold spaces.
fn start_ticks(stat: &str) -> Option<i64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn model_name(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc() {
        assert_eq!(
            start_ticks("7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 4096 1 18446"),
            Some(987_654)
        );
        assert_eq!(model_name("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n"), Some("Some CPU @ 2 GHz"));
        assert_eq!(start_ticks(""), None);
        assert_eq!(cpu_ticks("7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 1 0 987654 4096 1 18446"), Some(56));
        assert_eq!(resident_bytes("VmHWM:\t  9 kB\nVmRSS:\t  38344 kB\n"), Some(39_264_256));
        assert_eq!((cpu_ticks("7 (x) S 1"), resident_bytes("VmRSS: many")), (None, None));
    }
}

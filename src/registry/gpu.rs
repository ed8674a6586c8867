//! What the GPUs of the machine do, as NVIDIA's management library (NVML) says, which comes with the driver.

use nvml_wrapper::Nvml;

/// The GPUs of this machine.
#[derive(Debug)]
pub(super) struct Gpus {
    nvml: Nvml,
    count: u32,
}

impl Gpus {
    /// Those that the driver knows; nothing on a machine without one, or without NVIDIA's driver.
    pub fn find() -> Option<Self> {
        Self::of(Nvml::init().ok()?)
    }

    /// As [`find`](Self::find), with another library in place of the driver's.
    #[cfg(test)]
    fn through(library: &std::ffi::OsStr) -> Option<Self> {
        Self::of(Nvml::builder().lib_path(library).init().ok()?)
    }

    fn of(nvml: Nvml) -> Option<Self> {
        let count = nvml.device_count().ok().filter(|count| *count > 0)?;
        Some(Gpus { nvml, count })
    }

    /// Of each GPU, by its number in the driver's order: `system.gpu0.percent`, of the last interval (at most a second) in
    /// which it ran anything, and `system.gpu0.memory_bytes`, which all programs hold there. What a GPU does not tell is
    /// left out.
    pub fn sample(&self) -> Vec<(String, f64)> {
        let mut values = Vec::new();
        for number in 0..self.count {
            let Ok(gpu) = self.nvml.device_by_index(number) else { continue };
            if let Ok(utilization) = gpu.utilization_rates() {
                values.push((format!("system.gpu{number}.percent"), f64::from(utilization.gpu)));
            }
            if let Ok(memory) = gpu.memory_info() {
                values.push((format!("system.gpu{number}.memory_bytes"), memory.used as f64));
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::process::Command;

    /// Two GPUs as NVML tells of them; the second one does not tell how busy it is.
    const DRIVER: &str = "
        typedef struct { unsigned gpu, memory; } Utilization;
        typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
        int nvmlInit_v2(void) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
        int nvmlDeviceGetUtilizationRates(void *device, Utilization *of) {
            if ((long)device != 1) return 3;
            of->gpu = 87; of->memory = 12;
            return 0;
        }
        int nvmlDeviceGetMemoryInfo_v2(void *device, Memory *memory) {
            if (memory->version != (sizeof(Memory) | 2 << 24)) return 2;
            memory->used = 1000ull * (long)device;
            return 0;
        }
    ";

    #[test]
    fn each_gpu_says_what_it_knows() {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, library) = (folder.path().join("driver.c"), folder.path().join("driver.so"));
        fs::write(&source, DRIVER).expect("written");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let compiled = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiled.expect("a C compiler").success());
        let gpus = Gpus::through(library.as_os_str()).expect("two of them");
        let expected =
            [("system.gpu0.percent", 87.), ("system.gpu0.memory_bytes", 1000.), ("system.gpu1.memory_bytes", 2000.)];
        assert_eq!(gpus.sample(), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn without_a_driver_there_are_none() {
        assert!(Gpus::through(OsStr::new("there-is-no-such-driver.so")).is_none());
    }
}

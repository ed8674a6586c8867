//! `--device`.

use crate::error::{Error, Result};
use candle_core::Device;
use candle_core::utils::{cuda_is_available, metal_is_available};

/// What `--device` says.
pub(super) const HELP: &str = "auto (the fastest of this build and machine), cpu, cuda:N or metal";

/// The device that `wanted` means. `auto` is the first GPU of a build that can use one, else the CPU.
pub(super) fn choose(wanted: &str) -> Result<Device> {
    if wanted == "cpu" {
        return Ok(Device::Cpu);
    }
    if wanted == "auto" {
        let found = if cuda_is_available() {
            Device::new_cuda(0)
        } else if metal_is_available() {
            Device::new_metal(0)
        } else {
            Ok(Device::Cpu)
        };
        // A build for GPUs also runs where there is none.
        return Ok(found.unwrap_or(Device::Cpu));
    }
    if wanted == "metal" {
        needs_feature("metal", metal_is_available())?;
        return Device::new_metal(0).map_err(|error| unusable(wanted, &error));
    }
    let number = match wanted.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|number| number.parse().ok()),
        None => None,
    };
    let Some(number) = number else {
        return Err(Error::input(format!("`{wanted}` is no device; write {HELP}")));
    };
    needs_feature("cuda", cuda_is_available())?;
    Device::new_cuda(number).map_err(|error| unusable(wanted, &error))
}

/// `cpu`, `cuda:0`, `metal:0`.
pub(super) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// A core can make use of a few threads, not of many.
const MOST_THREADS_A_CORE: usize = 16;

/// Gives the CPU's work so many threads; 0 means one for each core.
pub(super) fn set_threads(threads: usize) -> Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if threads > cores * MOST_THREADS_A_CORE {
        return Err(Error::input(format!(
            "--threads {threads} is too many for {cores} cores: take {cores}, or at most {}",
            cores * MOST_THREADS_A_CORE
        )));
    }
    // The calling thread is one of them: an op that it starts need not wait for another to wake up.
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global();
    built.map_err(|error| Error::failed(format!("cannot start {threads} threads: {error}")))?;
    Ok(rayon::current_num_threads())
}

fn needs_feature(feature: &str, compiled: bool) -> Result<()> {
    if compiled {
        return Ok(());
    }
    Err(Error::input(format!(
        "this build cannot use {feature}: build with `--features {feature}`, or pass `--device cpu`"
    )))
}

fn unusable(wanted: &str, error: &candle_core::Error) -> Error {
    Error::input(format!("the device {wanted} cannot be used: {error}; pass `--device cpu` or another"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_devices_say_what_to_do() {
        assert_eq!(name(&choose("cpu").expect("always there")), "cpu");
        for wanted in ["gpu", "cuda:x", "cuda:-1", ""] {
            let error = choose(wanted).expect_err(wanted);
            assert!(error.to_string().contains("is no device; write auto"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        if !cuda_is_available() {
            let message = choose("cuda:0").expect_err("not compiled").to_string();
            assert!(message.contains("build with `--features cuda`"), "{message}");
        }
    }
}

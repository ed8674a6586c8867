//! Which vector instructions the CPU kernels use.

use candle_core::{Error, Result};
use std::sync::OnceLock;

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AMX-BF16, whose tiles multiply bf16, and numbers of f32 as sums of two bf16 each; the rest is as
    /// [`Isa::Avx512Bf16`].
    Amx,
    /// x86-64 with AVX-512F and AVX512-BF16, which multiplies what is stored in bf16; the rest is as [`Isa::Avx512`].
    Avx512Bf16,
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Plain Rust, vectorised by the compiler for whatever it targets (NEON on aarch64).
    Portable,
}

impl Isa {
    /// What this process uses: the best that the CPU has, or what the environment variable
    /// `RESNET_ZOO_ISA` (`amx`, `avx512bf16`, `avx512`, `avx2` or `portable`) says. Decided once, at the first call.
    ///
    /// # Errors
    /// Where the variable names something else, or a set that this CPU lacks.
    pub fn chosen() -> Result<Isa> {
        static CHOSEN: OnceLock<std::result::Result<Isa, String>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| {
            let wanted = std::env::var_os("RESNET_ZOO_ISA").map(|value| value.to_string_lossy().into_owned());
            resolve(wanted.as_deref(), &Isa::available())
        });
        chosen.clone().map_err(Error::Msg)
    }

    /// What this CPU can run, the fastest first.
    pub fn available() -> Vec<Isa> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                if is_x86_feature_detected!("avx512bf16") {
                    available.extend(super::amx::is_available().then_some(Isa::Amx));
                    available.push(Isa::Avx512Bf16);
                }
                available.push(Isa::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                available.push(Isa::Avx2);
            }
        }
        available.push(Isa::Portable);
        available
    }

    /// Of two bounds of an error of `f32`, that of what this process uses: with AMX, which multiplies numbers in two parts,
    /// `in_parts`.
    #[cfg(test)]
    pub(crate) fn bound(whole: f64, in_parts: f64) -> f64 {
        if Isa::chosen().is_ok_and(|isa| isa == Isa::Amx) { in_parts } else { whole }
    }

    /// The name that `RESNET_ZOO_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }
}

/// Runs `f`, compiled for the instructions that this process uses: loops in it are vectorised for them. What is
/// computed stays the same, bit for bit, because the compiler neither reorders nor fuses floating-point operations.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match Isa::chosen() {
            // SAFETY: `chosen` names only what the CPU has.
            Ok(Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512) => return unsafe { avx512(f) },
            // SAFETY: as above.
            Ok(Isa::Avx2) => return unsafe { avx2(f) },
            Ok(Isa::Portable) | Err(_) => {}
        }
    }
    f()
}

fn resolve(wanted: Option<&str>, available: &[Isa]) -> std::result::Result<Isa, String> {
    let Some(wanted) = wanted else { return Ok(available[0]) };
    let known = [Isa::Amx, Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Portable];
    match known.into_iter().find(|isa| isa.name() == wanted) {
        Some(isa) if available.contains(&isa) => Ok(isa),
        Some(_) => Err(format!(
            "RESNET_ZOO_ISA={wanted}: this CPU has no {wanted}; it has {}",
            available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
        )),
        None => Err(format!(
            "RESNET_ZOO_ISA={wanted:?} must be amx, avx512bf16, avx512, avx2 or portable; unset it to use the best"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_picks_an_available_set_or_says_what_it_may_be() {
        let available = [Isa::Avx2, Isa::Portable];
        assert_eq!(resolve(None, &available), Ok(Isa::Avx2));
        assert_eq!(resolve(Some("portable"), &available), Ok(Isa::Portable));
        assert_eq!(
            resolve(Some("avx512"), &available),
            Err("RESNET_ZOO_ISA=avx512: this CPU has no avx512; it has avx2, portable".into())
        );
        assert_eq!(
            resolve(Some("AVX"), &available),
            Err("RESNET_ZOO_ISA=\"AVX\" must be amx, avx512bf16, avx512, avx2 or portable; unset it to use the best"
                .into())
        );
    }
}

//! What the CPU kernels read and write: `f32`, or `bf16`, which takes half the memory. Both are computed with in `f32`.

use candle_core::{DType, Tensor, WithDType};
use half::bf16;

/// What buffers are made of.
///
/// # Safety
/// Any bits are one of it, and it needs no stricter alignment than `f32`.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

/// A number as it is stored.
///
/// # Safety
/// As of [`Plain`].
pub(crate) unsafe trait Number: WithDType {
    /// Its value.
    fn wide(self) -> f32;

    /// The number nearest to `value`, of two equally near ones the even one.
    fn narrow(value: f32) -> Self;
}

// SAFETY: what numbers are.
unsafe impl<N: Number> Plain for N {}

// SAFETY: any 32 bits are an f32.
unsafe impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

// SAFETY: any 16 bits are a bf16, which is a `u16` in memory.
unsafe impl Number for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // As `bf16::from_f32`, without jumps: loops over it are vectorised.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // The upper half of a NaN may be that of an infinity.
        let bits = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
        bf16::from_bits((bits >> 16) as u16)
    }
}

/// A type for which there are kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    Bf16,
}

impl Stored {
    /// The type of `maps`, where the `cpu` kernels take them with such `parameters`: maps of one type for which there
    /// are kernels, `f32` parameters, all in main memory. Otherwise `reference` does.
    pub(crate) fn of(maps: &[&Tensor], parameters: &[&Tensor]) -> Option<Stored> {
        let stored = match maps.first()?.dtype() {
            DType::F32 => Stored::F32,
            DType::BF16 => Stored::Bf16,
            _ => return None,
        };
        let dtype = maps[0].dtype();
        let fits = maps.iter().all(|map| map.dtype() == dtype) && parameters.iter().all(|p| p.dtype() == DType::F32);
        (fits && maps.iter().chain(parameters).all(|operand| operand.device().is_cpu())).then_some(stored)
    }
}

/// Evaluates an expression for the type of numbers that was found, or another where there is none.
macro_rules! by_number {
    ($stored:expr, $number:ident => $kernel:expr, else $other:expr) => {
        match $stored {
            Some($crate::ops::number::Stored::F32) => {
                type $number = f32;
                $kernel
            }
            Some($crate::ops::number::Stored::Bf16) => {
                type $number = half::bf16;
                $kernel
            }
            None => $other,
        }
    };
}
pub(crate) use by_number;

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn narrow_is_that_of_half_for_every_pattern_near_a_border() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                let (ours, theirs) = (bf16::narrow(value), bf16::from_f32(value));
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{value} {:x}", value.to_bits());
            }
            let number = bf16::from_bits(high);
            assert_eq!(number.wide().to_bits(), u32::from(high) << 16);
        }
        assert_eq!(f32::narrow(0.1f32.wide()), 0.1);
    }

    #[test]
    fn kernels_take_maps_of_one_type_with_f32_parameters() -> candle_core::Result<()> {
        let of = |dtype| Tensor::zeros(3, dtype, &Device::Cpu);
        let (single, half, double) = (of(DType::F32)?, of(DType::BF16)?, of(DType::F64)?);
        assert_eq!(Stored::of(&[&single, &single], &[&single]), Some(Stored::F32));
        assert_eq!(Stored::of(&[&half], &[&single]), Some(Stored::Bf16));
        assert_eq!(Stored::of(&[&half, &single], &[]), None);
        assert_eq!(Stored::of(&[&half], &[&half]), None);
        assert_eq!(Stored::of(&[&double], &[]), None);
        Ok(())
    }
}

//! A convolution whose shapes fit together, lifted to three spatial dimensions.

use super::Geometry;
use crate::ops::node::computing;
use candle_core::{Error, Result, Shape, Tensor};

/// A checked convolution. Axes are depth, height, width; those that are absent have size 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Problem {
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    pub groups: usize,
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub padding: [usize; 3],
    pub dilation: [usize; 3],
    /// Whether only the direct sum will do.
    pub direct: bool,
}

impl Problem {
    pub(crate) fn new<const D: usize>(x: &Tensor, weight: &Tensor, geometry: &Geometry<D>) -> Result<Problem> {
        const { assert!(1 <= D && D <= 3, "a convolution has 1 to 3 spatial dimensions") };
        let (x_type, weight_type) = (x.dtype().as_str(), weight.dtype().as_str());
        let typed = weight.dtype() == x.dtype() || weight.dtype() == computing(x.dtype());
        let problem = if !typed {
            Err(format!("x is {x_type} and the weight {weight_type}; cast one of them with to_dtype"))
        } else if !x.dtype().is_float() {
            Err(format!("x is {x_type}, which is no float type; cast x and the weight with to_dtype"))
        } else {
            Problem::of_shapes(x.dims(), weight.dims(), geometry)
        };
        match problem {
            Ok(problem) => Ok(Problem { direct: super::are_convolutions_direct(), ..problem }),
            Err(rule) => Err(Error::Msg(format!("conv{D}d: {rule}"))),
        }
    }

    pub(super) fn of_shapes<const D: usize>(
        x: &[usize],
        weight: &[usize],
        geometry: &Geometry<D>,
    ) -> std::result::Result<Problem, String> {
        let axes = &["D", "H", "W"][3 - D..].join(", ");
        if x.len() != D + 2 {
            return Err(format!("x must be [N, {axes}, C], channels last, and is {x:?}"));
        }
        if weight.len() != D + 2 {
            return Err(format!("the weight must be [O, C / groups, {axes}], and is {weight:?}"));
        }
        let (batch, channels, out_channels, groups) = (x[0], x[D + 1], weight[0], geometry.groups);
        if groups == 0 || channels == 0 || out_channels == 0 {
            return Err(format!(
                "groups, channels and output channels must be at least 1: x {x:?}, weight {weight:?}, {groups} groups"
            ));
        }
        if !channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Err(format!(
                "{groups} groups must divide the {channels} input and the {out_channels} output channels"
            ));
        }
        if weight[1] != channels / groups {
            return Err(format!(
                "a weight {weight:?} in {groups} group(s) takes {} input channels, and x {x:?} has {channels} (channels last)",
                weight[1].saturating_mul(groups)
            ));
        }
        let mut problem = Problem {
            batch,
            channels,
            out_channels,
            groups,
            input: [1; 3],
            output: [1; 3],
            kernel: [1; 3],
            stride: [1; 3],
            padding: [0; 3],
            dilation: [1; 3],
            direct: false,
        };
        for axis in 0..D {
            let (name, at) = (["depth", "height", "width"][3 - D + axis], 3 - D + axis);
            let (input, kernel) = (x[axis + 1], weight[axis + 2]);
            let (stride, padding, dilation) = (geometry.stride[axis], geometry.padding[axis], geometry.dilation[axis]);
            if input == 0 || kernel == 0 || stride == 0 || dilation == 0 {
                return Err(format!(
                    "{name}: input {input}, kernel {kernel}, stride {stride} and dilation {dilation} must be at least 1"
                ));
            }
            // Far above any tensor, far below what overflows in the sums and products below.
            const LIMIT: usize = 1 << 31;
            if input >= LIMIT || padding >= LIMIT || stride >= LIMIT || kernel.saturating_mul(dilation) >= LIMIT {
                return Err(format!(
                    "{name}: input {input}, padding {padding}, stride {stride} and kernel {kernel} x dilation {dilation} must be below 2^31"
                ));
            }
            let span = dilation * (kernel - 1) + 1;
            if span > input + 2 * padding {
                return Err(format!(
                    "a kernel of {kernel} with dilation {dilation} spans {span} positions, but the {name} is {input} + 2 x {padding} of padding: give it a larger input or padding, or a smaller kernel"
                ));
            }
            problem.input[at] = input;
            problem.output[at] = (input + 2 * padding - span) / stride + 1;
            problem.kernel[at] = kernel;
            problem.stride[at] = stride;
            problem.padding[at] = padding;
            problem.dilation[at] = dilation;
        }
        let outputs =
            problem.output.iter().chain([&batch, &out_channels]).try_fold(4usize, |all, &n| all.checked_mul(n));
        if outputs.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(format!(
                "the output {:?} does not fit into memory: reduce the padding or the batch",
                problem.output_shape(D).dims()
            ));
        }
        Ok(problem)
    }

    /// Taps of the whole kernel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Input channels of one group.
    pub(crate) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Output channels of one group.
    pub(crate) fn group_out_channels(&self) -> usize {
        self.out_channels / self.groups
    }

    /// The shape of the result, with `dims` spatial dimensions.
    pub(crate) fn output_shape(&self, dims: usize) -> Shape {
        Shape::from([&[self.batch], &self.output[3 - dims..], &[self.out_channels]].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<const D: usize>(x: &[usize], weight: &[usize], geometry: Geometry<D>) -> String {
        Problem::of_shapes(x, weight, &geometry).expect_err("the shapes do not fit")
    }

    #[test]
    fn what_does_not_fit_says_what_to_do() {
        let plain = Geometry::<2>::default();
        for (got, want) in [
            (error(&[1, 3, 8], &[4, 3, 3, 3], plain), "x must be [N, H, W, C], channels last, and is [1, 3, 8]"),
            (error(&[1, 8, 8, 3], &[4, 3, 3], plain), "the weight must be [O, C / groups, H, W], and is [4, 3, 3]"),
            (
                error(&[1, 3, 8, 8], &[4, 3, 3, 3], plain),
                "a weight [4, 3, 3, 3] in 1 group(s) takes 3 input channels, and x [1, 3, 8, 8] has 8 (channels last)",
            ),
            (
                error(&[1, 8, 8, 6], &[4, 1, 3, 3], Geometry { groups: 3, ..plain }),
                "3 groups must divide the 6 input and the 4 output channels",
            ),
            (
                error(&[1, 2, 8, 6], &[4, 6, 3, 3], Geometry { dilation: [2, 1], ..plain }),
                "a kernel of 3 with dilation 2 spans 5 positions, but the height is 2 + 2 x 0 of padding: give it a larger input or padding, or a smaller kernel",
            ),
            (
                error(&[1, 8, 6], &[4, 6, 3], Geometry { stride: [0], ..Geometry::<1>::default() }),
                "width: input 8, kernel 3, stride 0 and dilation 1 must be at least 1",
            ),
            (
                error(&[1, 8, 6], &[4, 6, 3], Geometry { padding: [usize::MAX], ..Geometry::<1>::default() }),
                "width: input 8, padding 18446744073709551615, stride 1 and kernel 3 x dilation 1 must be below 2^31",
            ),
            (
                error(
                    &[1, 8, 8, 8, 6],
                    &[4, 6, 3, 3, 3],
                    Geometry { padding: [1 << 30; 3], ..Geometry::<3>::default() },
                ),
                "the output [1, 2147483654, 2147483654, 2147483654, 4] does not fit into memory: reduce the padding or the batch",
            ),
        ] {
            assert_eq!(got, want);
        }
    }
}

//! The border between candle's channels-first tensors and ours.

use candle_core::{DType, Result, Tensor, bail};

/// `[N, C, spatial..]` to contiguous `[N, spatial.., C]`; free where the memory already lies so.
///
/// # Errors
/// Where there are not one to three spatial axes.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    match x.rank() {
        3 => x.permute((0, 2, 1)),
        4 => x.permute((0, 2, 3, 1)),
        5 => x.permute((0, 2, 3, 4, 1)),
        _ => bail!("a batch is [N, C, spatial..] with one to three spatial axes, not {:?}", x.shape()),
    }?
    .contiguous()
}

/// `[N, spatial.., C]` to `[N, C, spatial..]`, a view: it moves no memory.
///
/// # Errors
/// Where there are not one to three spatial axes.
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    match x.rank() {
        3 => x.permute((0, 2, 1)),
        4 => x.permute((0, 3, 1, 2)),
        5 => x.permute((0, 4, 1, 2, 3)),
        _ => bail!("a feature map is [N, spatial.., C] with one to three spatial axes, not {:?}", x.shape()),
    }
}

/// A batch `[N, C, spatial..]` in another type, its memory channels-last. A network computes in the type of its input:
/// in `bf16` with `f32` parameters, if that is what it gets.
///
/// # Errors
/// Where there are not one to three spatial axes.
pub fn to_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x.clone()) } else { channels_first(&channels_last(x)?.to_dtype(dtype)?) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn there_and_back_with_gradients() -> Result<()> {
        for shape in [vec![2, 3, 4], vec![2, 3, 4, 5], vec![2, 3, 4, 5, 6]] {
            let count = shape.iter().product::<usize>() as u32;
            let x =
                Tensor::arange(0, count, &Device::Cpu)?.reshape(shape.as_slice())?.to_dtype(candle_core::DType::F32)?;
            let x = Var::from_tensor(&x)?;
            let last = channels_last(&x)?;
            assert!(last.is_contiguous() && last.dims().ends_with(&[3]));
            let back = channels_first(&last)?;
            assert_eq!(back.flatten_all()?.to_vec1::<f32>()?, x.flatten_all()?.to_vec1::<f32>()?);
            let gradient = (&back * &back)?.sum_all()?.backward()?.get(&x).cloned().expect("x is a variable");
            assert_eq!(gradient.flatten_all()?.to_vec1::<f32>()?, (x.flatten_all()? * 2.)?.to_vec1::<f32>()?);
        }
        assert!(channels_last(&Tensor::new(&[[1f32]], &Device::Cpu)?).is_err());
        Ok(())
    }
}

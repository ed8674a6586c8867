use crate::ops::node::{TASK, fill_rows, record, values, values_of};
use crate::ops::number::Number;
use crate::ops::tasks;
use candle_core::{Device, Result, Tensor};

pub(super) fn scale<N: Number>(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    let (x, s) = (x.contiguous()?, s.contiguous()?);
    let y = product::<N>(&values_of(&x)?, &values(&s)?, s.dims2()?);
    let wants = [x.track_op(), s.track_op()];
    let (x_saved, s_saved) = (x.detach(), s.detach());
    record("scale", [&x, &s], y, x.shape(), move |dy| {
        let (x, s, dy_values) = (values_of::<N>(&x_saved)?, values(&s_saved)?, values_of::<N>(dy)?);
        let size = s_saved.dims2()?;
        let dx = wants[0].then(|| Tensor::from_vec(product(&dy_values, &s, size), dy.shape(), &Device::Cpu));
        let ds = wants[1].then(|| Tensor::from_vec(sums(&dy_values, &x, size), size, &Device::Cpu));
        Ok([dx.transpose()?, ds.transpose()?])
    })
}

fn product<N: Number>(x: &[N], s: &[f32], (samples, channels): (usize, usize)) -> Vec<N> {
    let rows = x.len() / channels;
    let per_sample = (rows / samples.max(1)).max(1);
    fill_rows(rows, channels, x.len(), |row, y: &mut [N]| {
        let (x, s) = (&x[row * channels..][..channels], &s[row / per_sample * channels..][..channels]);
        for ((y, x), s) in y.iter_mut().zip(x).zip(s) {
            *y = N::narrow(x.wide() * s);
        }
    })
}

/// The sums of `a * b` over the rows of each sample: pieces of a fixed number of rows in f32, their sums
/// in f64.
fn sums<N: Number>(a: &[N], b: &[N], (samples, channels): (usize, usize)) -> Vec<f32> {
    let sample = (a.len() / samples.max(1)).max(1);
    let piece = (TASK / channels).clamp(1, 256) * channels;
    let of_sample = |i: usize| {
        let [a, b] = [a, b].map(|values| &values[i * sample..][..sample]);
        let mut sums = vec![0f64; channels];
        for (a, b) in a.chunks(piece).zip(b.chunks(piece)) {
            let mut partial = vec![0f32; channels];
            for (a, b) in a.chunks_exact(channels).zip(b.chunks_exact(channels)) {
                for ((sum, a), b) in partial.iter_mut().zip(a).zip(b) {
                    *sum += a.wide() * b.wide();
                }
            }
            sums.iter_mut().zip(&partial).for_each(|(sum, &partial)| *sum += f64::from(partial));
        }
        sums.into_iter().map(|sum| sum as f32).collect::<Vec<f32>>()
    };
    let mut all = tasks::map(a.len() / sample, of_sample).concat();
    all.resize(samples * channels, 0.);
    all
}

use super::Activation;
use crate::ops::node::{TASK, fill, record_with_result, values_of};
use crate::ops::number::Number;
use candle_core::{Device, Result, Tensor};
use std::f32::consts::{FRAC_1_SQRT_2, TAU};

pub(super) fn forward<N: Number>(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Relu => apply::<N>(x, rectify, |_, y| rectified(1., y)),
        Activation::Silu => apply::<N>(x, |x| x * sigmoid(x), |x, _| sigmoid(x) * (1. + x * sigmoid(-x))),
        Activation::Gelu => {
            apply::<N>(x, |x| x * normal(x), |x, _| normal(x) + x * (-0.5 * x * x).exp() * (1. / TAU.sqrt()))
        }
        Activation::Sigmoid => apply::<N>(x, sigmoid, |x, _| sigmoid(x) * sigmoid(-x)),
    }
}

pub(super) fn add_relu<N: Number>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let y = {
        let (a, b) = (values_of(&a)?, values_of(&b)?);
        let (a, b): (&[N], &[N]) = (&a, &b);
        fill(a.len(), TASK, |task, y: &mut [N]| {
            let (a, b) = (&a[task * TASK..][..y.len()], &b[task * TASK..][..y.len()]);
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = N::narrow(rectify(a.wide() + b.wide()));
            }
        })
    };
    let wants = [a.track_op(), b.track_op()];
    record_with_result("activation", [&a, &b], y, a.shape(), move |y, dy| {
        let dx = {
            let (y, dy) = (values_of(y)?, values_of(dy)?);
            let (y, dy): (&[N], &[N]) = (&y, &dy);
            fill(dy.len(), TASK, |task, dx: &mut [N]| {
                let (y, dy) = (&y[task * TASK..][..dx.len()], &dy[task * TASK..][..dx.len()]);
                for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = N::narrow(rectified(dy.wide(), y.wide()));
                }
            })
        };
        let dx = Tensor::from_vec(dx, dy.shape(), &Device::Cpu)?;
        Ok(wants.map(|wanted| wanted.then(|| dx.clone())))
    })
}

/// `y = f(x)` with `dy / dx = derivative(x, y)`.
fn apply<N: Number>(
    x: &Tensor,
    f: impl Fn(f32) -> f32 + Sync,
    derivative: impl Fn(f32, f32) -> f32 + Send + Sync + 'static,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = {
        let x = values_of(&x)?;
        let x: &[N] = &x;
        fill(x.len(), TASK, |task, y: &mut [N]| {
            for (y, x) in y.iter_mut().zip(&x[task * TASK..]) {
                *y = N::narrow(f(x.wide()));
            }
        })
    };
    let saved = x.detach();
    record_with_result("activation", [&x], y, x.shape(), move |y, dy| {
        let (x, y, dy_values) = (values_of(&saved)?, values_of(y)?, values_of(dy)?);
        let (x, y, dy_values): (&[N], &[N], &[N]) = (&x, &y, &dy_values);
        let dx = fill(x.len(), TASK, |task, dx: &mut [N]| {
            let at = task * TASK;
            let (x, y, dy) = (&x[at..][..dx.len()], &y[at..][..dx.len()], &dy_values[at..][..dx.len()]);
            for i in 0..dx.len() {
                dx[i] = N::narrow(dy[i].wide() * derivative(x[i].wide(), y[i].wide()));
            }
        });
        Ok([Some(Tensor::from_vec(dx, dy.shape(), &Device::Cpu)?)])
    })
}

/// ReLU. A NaN stays one.
pub(in crate::ops) fn rectify(x: f32) -> f32 {
    if x <= 0. { 0. } else { x }
}

/// The gradient before a ReLU that gave `y`, from the gradient after it.
pub(in crate::ops) fn rectified(dy: f32, y: f32) -> f32 {
    if y <= 0. { 0. } else { dy }
}

fn sigmoid(x: f32) -> f32 {
    1. / (1. + (-x).exp())
}

/// The standard normal distribution function.
fn normal(x: f32) -> f32 {
    0.5 * (1. + candle_core::cpu::erf::erf_f32(x * FRAC_1_SQRT_2))
}

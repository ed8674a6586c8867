//! Weights, inputs and labels from a formula: the same bits as tests/golden/generate.py, so that no
//! weights need to be stored.

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use candle_nn::var_builder::SimpleBackend;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use zoo::random::stream_of;

/// A model's parameters and buffers, all of them `Var`s under their names, filled in by the formula as
/// its constructor asks for them.
#[derive(Clone, Default)]
pub struct Formula(Arc<Mutex<BTreeMap<String, Var>>>);

impl Formula {
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    /// Everything but running statistics, sorted by name.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        self.vars(|name| !name.contains("running_"))
    }

    /// The running statistics, sorted by name.
    pub fn statistics(&self) -> Vec<(String, Var)> {
        self.vars(|name| name.contains("running_"))
    }

    fn vars(&self, matches: impl Fn(&str) -> bool) -> Vec<(String, Var)> {
        let vars = self.0.lock().unwrap();
        vars.iter().filter(|(name, _)| matches(name)).map(|(name, var)| (name.clone(), var.clone())).collect()
    }
}

impl SimpleBackend for Formula {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, device: &Device) -> Result<Tensor> {
        let mut vars = self.0.lock().unwrap();
        if let Some(var) = vars.get(name) {
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_vec(parameter(name, shape.dims()), shape, device)?;
        let tensor = var.as_tensor().clone();
        vars.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("the formula needs to know the shape of `{name}`")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// An input of a network, in (-2, 2).
pub fn input(name: &str, dims: &[usize]) -> Tensor {
    let values: Vec<f32> = units(name, dims.iter().product()).into_iter().map(|u| u * 2.).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// `u32[count]`, each below `classes`.
pub fn labels(name: &str, count: usize, classes: usize) -> Tensor {
    let labels: Vec<u32> = (0..count as u64).map(|i| (bits(stream_of(name), i) % classes as u64) as u32).collect();
    Tensor::from_vec(labels, count, &Device::Cpu).unwrap()
}

/// What a golden file holds of a tensor: its norm, two random projections, and some of its values.
pub fn summary(name: &str, tensor: &Tensor, samples: usize) -> Vec<f64> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let norm = values.par_iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let projection = |probe: usize| -> f64 {
        let directions = units(&format!("{name}/probe{probe}"), values.len());
        values.par_iter().zip(directions).map(|(v, d)| f64::from(*v) * f64::from(d)).sum()
    };
    let pick = |i: usize| match values.len() <= samples {
        true => i,
        false => (bits(stream_of(&format!("{name}/pick")), i as u64) % values.len() as u64) as usize,
    };
    let picks = (0..samples.min(values.len())).map(|i| f64::from(values[pick(i)]));
    [norm, projection(0), projection(1)].into_iter().chain(picks).collect()
}

fn parameter(name: &str, dims: &[usize]) -> Vec<f32> {
    let units = units(name, dims.iter().product());
    let fill = |value: &(dyn Fn(f32) -> f32 + Sync)| units.par_iter().map(|u| value(*u)).collect();
    if name.ends_with("running_mean") {
        fill(&|u| 0.125 * u)
    } else if name.ends_with("running_var") {
        fill(&|u| 0.25 + 0.0625 * u)
    } else if dims.len() > 1 {
        let bound = (3. * dims[0] as f64 / units.len() as f64).sqrt() as f32;
        fill(&|u| bound * u)
    } else if name.ends_with(".weight") {
        fill(&|u| 0.5 + 0.125 * u)
    } else {
        fill(&|u| 1f32.copysign(u) + 0.25 * u)
    }
}

/// In (-1, 1), each exact: an odd multiple of 2^-24.
fn units(name: &str, count: usize) -> Vec<f32> {
    let stream = stream_of(name);
    let unit = |i| ((bits(stream, i) >> 40) as i32 * 2 + 1 - (1 << 24)) as f32 / (1 << 24) as f32;
    (0..count as u64).into_par_iter().map(unit).collect()
}

/// Element `index` of SplitMix64 started at `stream`.
fn bits(stream: u64, index: u64) -> u64 {
    let z = stream.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Printed by generate.py.
#[test]
fn the_formula_is_pythons() {
    let parameters: [(&str, &[usize], [u32; 3]); 5] = [
        ("conv1.weight", &[4, 3, 3], [0x3d55_3061, 0x3e90_f0f6, 0xbf0d_06a3]),
        ("bn1.weight", &[3], [0x3eee_1b2a, 0x3f14_c31e, 0x3f04_6d93]),
        ("bn1.bias", &[3], [0xbf94_fabd, 0xbf9d_6e1b, 0x3f97_cecd]),
        ("bn1.running_mean", &[3], [0x3d70_13a6, 0x3cce_112c, 0x3c2c_6e68]),
        ("bn1.running_var", &[3], [0x3e89_1b91, 0x3e92_5a2b, 0x3e9e_213e]),
    ];
    for (name, dims, expected) in parameters {
        assert_eq!(parameter(name, dims)[..3].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), expected, "{name}");
    }
    assert_eq!(labels("x/labels0", 6, 10).to_vec1::<u32>().unwrap(), [8, 2, 1, 6, 4, 9]);
    let ramp = Tensor::arange(0f32, 10., &Device::Cpu).unwrap();
    let expected = [16.881943, 15.8469715, 4.451923, 3., 2., 2., 9.];
    for (found, expected) in summary("t", &ramp, 4).into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    }
}

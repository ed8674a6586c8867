//! Layers together, and against values that PyTorch, timm and torchvision give.

use super::*;
use crate::ops::oracle::{assert_values, check, flat, normal};
use crate::ops::{self, Epilogue, Geometry, Isa, Target};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};

/// A network of every kind of op that a ResNet has, from images to loss.
#[test]
fn a_small_network_is_right() {
    let classes = Tensor::new(&[1u32, 0], &Device::Cpu).unwrap();
    let inputs = [
        normal(&[2, 9, 7, 3], 1),
        normal(&[4, 3, 3, 3], 2),
        normal(&[2, 4], 3),
        normal(&[4, 4, 3, 3], 4),
        normal(&[3, 8], 5),
        normal(&[3], 6),
    ];
    check(&inputs, |inputs| {
        let [x, stem, affine, weight, classifier, bias] = inputs else { unreachable!("there are six inputs") };
        let relu = Epilogue { residual: None, relu: true };
        let x = ops::conv(x, stem, &Geometry { stride: [2; 2], padding: [1; 2], ..Geometry::default() })?;
        let (x, _) = ops::batch_norm(&x, affine, 1e-5, relu)?;
        let x = ops::max_pool(&x, &MaxPool { kernel: [3; 2], stride: [2; 2], padding: [1; 2] })?;
        let y = ops::conv(&x, weight, &Geometry { padding: [1; 2], ..Geometry::default() })?;
        let (x, _) = ops::batch_norm(&y, affine, 1e-5, Epilogue { residual: Some(&x), relu: true })?;
        let x = ops::scale(&x, &Activation::Sigmoid.forward(&global_avg_pool(&x)?)?)?;
        let x = add_activation(&pad_shortcut(&x, 8, 2)?, &pad_shortcut(&x, 8, 2)?, Activation::Silu)?;
        let logits = ops::linear(&global_avg_pool(&x)?, classifier, Some(bias))?;
        ops::cross_entropy(&logits, Target::Classes(&classes), 0.1)
    });
}

/// Sines of 0, 1, 2, ..: numbers that every framework can make.
fn sines(shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f64).sin() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape says")
}

/// A layer whose parameters are [`sines`].
fn layer<L>(new: impl FnOnce(VarBuilder) -> Result<L>) -> Result<(L, VarMap)> {
    let vars = VarMap::new();
    let layer = new(VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
    for var in vars.all_vars() {
        var.set(&sines(var.dims()))?;
    }
    Ok((layer, vars))
}

/// Asserts that exactly these parameters have a gradient, with this sum.
fn assert_gradient_sums(y: &Tensor, vars: &VarMap, expected: &[(&str, f64)]) -> Result<()> {
    let gradients = y.sum_all()?.backward()?;
    let vars = vars.data().lock().expect("no thread panicked");
    assert_eq!(vars.len(), expected.len());
    for (name, expected) in expected {
        let gradient = gradients.get(&vars[*name]).unwrap_or_else(|| panic!("{name} has no gradient"));
        let sum: f64 = flat(gradient).iter().sum();
        assert!(
            (sum - expected).abs() < Isa::bound(1e-5, 5e-5) * expected.abs().max(1.),
            "{name}: {sum} is not {expected}"
        );
    }
    Ok(())
}

/// `timm.layers.SEModule(4, rd_channels=2)`.
#[test]
fn squeeze_excite_as_timm() -> Result<()> {
    let (se, vars) = layer(|vb| SqueezeExcite::new(4, 2, vb))?;
    let y = se.forward(&sines(&[1, 2, 2, 4]))?;
    assert_values(
        &y,
        &[
            0.000_000, 0.663_733, 0.432_405, 0.087_952, -0.490_531, -0.756_377, -0.132_872, 0.409_461, 0.641_265,
            0.325_070, -0.258_702, -0.623_235, -0.347_787, 0.331_418, 0.471_071, 0.405_286,
        ],
    );
    assert_gradient_sums(
        &y,
        &vars,
        &[("fc1.weight", -0.171_361), ("fc1.bias", -0.354_110), ("fc2.weight", 0.481_545), ("fc2.bias", 0.423_530)],
    )
}

/// `timm.layers.EcaModule(4)`.
#[test]
fn efficient_channel_attention_as_timm() -> Result<()> {
    let (eca, vars) = layer(|vb| EfficientChannelAttention::new(4, vb))?;
    let y = eca.forward(&sines(&[1, 2, 2, 4]))?;
    assert_values(
        &y,
        &[
            0.000_000, 0.502_784, 0.528_635, 0.073_885, -0.397_031, -0.572_963, -0.162_443, 0.343_975, 0.519_033,
            0.246_243, -0.316_276, -0.523_560, -0.281_495, 0.251_052, 0.575_906, 0.340_468,
        ],
    );
    assert_gradient_sums(&y, &vars, &[("conv.weight", 0.245_469)])
}

/// `torchvision.ops.FeaturePyramidNetwork([1, 2], 2, extra_blocks=LastLevelMaxPool())`.
#[test]
fn feature_pyramid_as_torchvision() -> Result<()> {
    let (fpn, vars) = layer(|vb| FeaturePyramid::new(&[1, 2], 2, true, vb))?;
    let levels = fpn.forward(&[sines(&[1, 5, 3, 1]), sines(&[1, 3, 2, 2])])?;
    assert_values(
        &levels[0],
        &[
            1.521_277, 1.855_547, 2.443_876, 1.504_358, 0.189_434, -0.958_810, -4.370_231, -1.105_406, -4.619_637,
            1.430_838, 0.279_973, 5.679_989, 0.013_945, 2.515_419, 1.953_022, 2.894_564, -0.004_114, 0.300_772,
            -3.813_522, -0.265_423, -4.827_583, 1.100_159, 0.060_475, 5.953_460, 0.820_391, 0.514_157, 1.962_045,
            1.305_708, 0.130_059, -1.322_021,
        ],
    );
    assert_values(
        &levels[1],
        &[
            0.783_848, 1.524_344, 0.608_715, 0.837_379, -2.065_365, 0.279_192, -0.217_833, 2.435_867, 0.637_990,
            0.874_213, -0.090_639, 0.168_528,
        ],
    );
    assert_values(&levels[2], &[0.783_848, 1.524_344, 0.637_990, 0.874_213]);
    let all = levels.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    assert_gradient_sums(
        &Tensor::cat(&all, 0)?,
        &vars,
        &[
            ("inner_blocks.0.0.weight", -1.612_758),
            ("inner_blocks.0.0.bias", 11.295_649),
            ("inner_blocks.1.0.weight", -11.928_574),
            ("inner_blocks.1.0.bias", 13.491_940),
            ("layer_blocks.0.0.weight", 297.931_661),
            ("layer_blocks.0.0.bias", 30.000_000),
            ("layer_blocks.1.0.weight", 56.959_459),
            ("layer_blocks.1.0.bias", 16.000_000),
        ],
    )
}

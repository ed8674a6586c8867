//! candle-transformers' own ResNet, written by other people for evaluation only, gives the same logits.

use crate::it::formula::{Formula, input};
use candle_core::{DType, Tensor};
use candle_nn::{Func, ModuleT, VarBuilder};
use candle_transformers::models::resnet;
use zoo::models;
use zoo::ops::Isa;

type Build = fn(usize, VarBuilder<'static>) -> candle_core::Result<Func<'static>>;

#[test]
fn logits_equal_candle_transformers() {
    let theirs: [(&str, Build); 5] = [
        ("resnet18", resnet::resnet18),
        ("resnet34", resnet::resnet34),
        ("resnet50", resnet::resnet50),
        ("resnet101", resnet::resnet101),
        ("resnet152", resnet::resnet152),
    ];
    for (name, build) in theirs {
        let formula = Formula::default();
        let ours = (models::find(name).unwrap().build)(10, formula.var_builder()).unwrap();
        let theirs = build(10, formula.var_builder()).unwrap();
        let x = input(&format!("{name}/oracle"), &[2, 3, 64, 64]);
        let ours = zoo::no_grad(|| ours.forward_t(&x, false)).unwrap();
        let difference = rms(&(&ours - theirs.forward_t(&x, false).unwrap()).unwrap()) / rms(&ours);
        // Where nothing is recorded, AMX multiplies numbers of f32 in two parts, which have 16 bits.
        let bound = if Isa::chosen().unwrap() == Isa::Amx { 5e-5 } else { 1e-5 };
        assert!(difference < bound, "{name}: logits differ by {difference:.1e} of their rms");
    }
}

fn rms(tensor: &Tensor) -> f64 {
    let mean = tensor.to_dtype(DType::F64).unwrap().sqr().unwrap().mean_all().unwrap();
    mean.to_scalar::<f64>().unwrap().sqrt()
}

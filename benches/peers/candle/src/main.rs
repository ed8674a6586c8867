//! Stock candle's side of `resnet-zoo bench`: one JSON line a result, under the same keys.
//!
//!     candle-bench train|infer MODEL BATCH SIZE
//!
//! As a plain user would write it: candle-transformers' ResNet to infer, and layers of candle-nn to train, which
//! candle-transformers' cannot.

use candle_core::{D, DType, Device, IndexOp, Module, Result, Tensor};
use candle_nn::{
    AdamW, BatchNorm, Conv2d, Conv2dConfig, Linear, ModuleT, Optimizer, ParamsAdamW, VarBuilder, VarMap, batch_norm,
    conv2d_no_bias, linear,
};
use candle_transformers::models::resnet;
use std::time::Instant;

fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Median and best seconds. One warm-up call; stops after `reps` or when `limit_s` is spent.
fn time(reps: usize, limit_s: f64, mut f: impl FnMut() -> Result<()>) -> Result<(f64, f64, usize)> {
    let t = Instant::now();
    f()?;
    let warm = t.elapsed().as_secs_f64();
    if warm > 60.0 {
        return Ok((warm, warm, 1));
    }
    let start = Instant::now();
    let mut v = Vec::new();
    while v.len() < reps && start.elapsed().as_secs_f64() < limit_s {
        let t = Instant::now();
        f()?;
        v.push(t.elapsed().as_secs_f64());
    }
    v.sort_by(f64::total_cmp);
    Ok((v[v.len() / 2], v[0], v.len()))
}

struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    down: Option<(Conv2d, BatchNorm)>,
}

fn conv(i: usize, o: usize, k: usize, stride: usize, vb: VarBuilder) -> Result<Conv2d> {
    let cfg = Conv2dConfig { stride, padding: k / 2, ..Default::default() };
    conv2d_no_bias(i, o, k, cfg, vb)
}

impl Block {
    fn new(i: usize, o: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        let down = if stride != 1 || i != o {
            let d = vb.pp("downsample");
            Some((conv(i, o, 1, stride, d.pp(0))?, batch_norm(o, 1e-5, d.pp(1))?))
        } else {
            None
        };
        Ok(Self {
            conv1: conv(i, o, 3, stride, vb.pp("conv1"))?,
            bn1: batch_norm(o, 1e-5, vb.pp("bn1"))?,
            conv2: conv(o, o, 3, 1, vb.pp("conv2"))?,
            bn2: batch_norm(o, 1e-5, vb.pp("bn2"))?,
            down,
        })
    }
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let y = self.bn1.forward_t(&self.conv1.forward(x)?, train)?.relu()?;
        let y = self.bn2.forward_t(&self.conv2.forward(&y)?, train)?;
        let id = match &self.down {
            Some((c, b)) => b.forward_t(&c.forward(x)?, train)?,
            None => x.clone(),
        };
        (y + id)?.relu()
    }
}

struct TrainNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
}

impl TrainNet {
    fn new(depths: [usize; 4], classes: usize, vb: VarBuilder) -> Result<Self> {
        let mut blocks = Vec::new();
        let mut cin = 64;
        for (s, &n) in depths.iter().enumerate() {
            let cout = 64 << s;
            for b in 0..n {
                let stride = if s > 0 && b == 0 { 2 } else { 1 };
                blocks.push(Block::new(cin, cout, stride, vb.pp(format!("layer{}.{b}", s + 1)))?);
                cin = cout;
            }
        }
        Ok(Self {
            conv1: conv(3, 64, 7, 2, vb.pp("conv1"))?,
            bn1: batch_norm(64, 1e-5, vb.pp("bn1"))?,
            blocks,
            fc: linear(512, classes, vb.pp("fc"))?,
        })
    }
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.bn1.forward_t(&self.conv1.forward(x)?, train)?.relu()?;
        // candle's max-pool has no overlapping backward (kernel must equal stride), so a user who trains
        // must write the 3x3/2 pool from slices; maximum() has a backward.
        let mut x = if train { pool_from_slices(&x)? } else { max_pool(&x)? };
        for b in &self.blocks {
            x = b.forward_t(&x, train)?;
        }
        self.fc.forward(&x.mean(D::Minus1)?.mean(D::Minus1)?)
    }
}

fn max_pool(x: &Tensor) -> Result<Tensor> {
    x.pad_with_same(2, 1, 1)?.pad_with_same(3, 1, 1)?.max_pool2d_with_stride(3, 2)
}

/// 3x3 stride-2 max pool of even sizes: the values after ReLU are >= 0, so zero padding is exact.
fn pool_from_slices(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let (ho, wo) = (h / 2, w / 2);
    let p = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    let mut best: Option<Tensor> = None;
    for dy in 0..3 {
        for dx in 0..3 {
            let s = p.i((.., .., dy..dy + 2 * ho, dx..dx + 2 * wo))?;
            let s = s.contiguous()?.reshape((n, c, ho, 2, wo, 2))?.i((.., .., .., 0, .., 0))?.contiguous()?;
            best = Some(match best {
                None => s,
                Some(b) => b.maximum(&s)?,
            });
        }
    }
    best.ok_or_else(|| candle_core::Error::Msg("empty pool".into()))
}

fn smoothed_cross_entropy(logits: &Tensor, y: &Tensor, eps: f64) -> Result<Tensor> {
    let lp = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let nll = lp.gather(&y.unsqueeze(1)?, 1)?.mean_all()?.neg()?;
    let uniform = lp.mean_all()?.neg()?;
    (nll * (1.0 - eps))? + (uniform * eps)?
}

fn build(model: &str, vb: VarBuilder<'static>) -> Result<candle_nn::Func<'static>> {
    match model {
        "resnet18" => resnet::resnet18(1000, vb),
        "resnet34" => resnet::resnet34(1000, vb),
        "resnet50" => resnet::resnet50(1000, vb),
        "resnet101" => resnet::resnet101(1000, vb),
        other => panic!("candle-transformers has no {other}"),
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bench, model, batch, size] = arguments.as_slice() else {
        panic!("candle-bench train|infer MODEL BATCH SIZE");
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let (batch, size) = (number(batch), number(size));
    let (median, best, reps) = match bench.as_str() {
        "train" => train(model, batch, size)?,
        "infer" => infer(model, batch, size)?,
        other => panic!("{other} is neither train nor infer"),
    };
    println!(
        "{{\"bench\": \"{bench}\", \"model\": \"{model}\", \"variant\": \"candle\", \"batch\": {batch}, \"size\": {size}, \
         \"img_s\": {:.3}, \"best_img_s\": {:.3}, \"ms\": {:.1}, \"reps\": {reps}, \"rss_mib\": {}}}",
        batch as f64 / median,
        batch as f64 / best,
        median * 1e3,
        peak_rss_mib()
    );
    Ok(())
}

fn infer(model: &str, batch: usize, size: usize) -> Result<(f64, f64, usize)> {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    build(model, vb)?;
    // Vars would make candle record the graph; constants are what loading a safetensors file gives.
    let vars = map.data().lock().expect("one thread").clone();
    let constants = vars.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    let net = build(model, VarBuilder::from_tensors(constants, DType::F32, &Device::Cpu))?;
    let x = Tensor::randn(0f32, 1f32, (batch, 3, size, size), &Device::Cpu)?;
    time(10, 15.0, || net.forward(&x).map(drop))
}

fn train(model: &str, batch: usize, size: usize) -> Result<(f64, f64, usize)> {
    let depths = match model {
        "resnet18" => [2, 2, 2, 2],
        "resnet34" => [3, 4, 6, 3],
        other => panic!("{other} is not made of basic blocks"),
    };
    let map = VarMap::new();
    let net = TrainNet::new(depths, 1000, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    // Running statistics are Vars of the map too; a plain user passes all_vars().
    let parameters = ParamsAdamW { lr: 1e-3, weight_decay: 0.01, ..Default::default() };
    let mut optimizer = AdamW::new(map.all_vars(), parameters)?;
    let x = Tensor::randn(0f32, 1f32, (batch, 3, size, size), &Device::Cpu)?;
    let y = Tensor::new((0..batch as u32).map(|i| i * 7 % 1000).collect::<Vec<_>>(), &Device::Cpu)?;
    time(10, 60.0, || {
        let loss = smoothed_cross_entropy(&net.forward_t(&x, true)?, &y, 0.1)?;
        optimizer.step(&loss.backward()?)
    })
}

//! Ops alone, at shapes that ResNets have: `cargo bench --profile dev -p zoo --bench ops -- conv`.
//!
//! `resnet-zoo bench ops MODEL` measures a model's own layers; this is for work on one kernel. Items a second are
//! floating-point operations of direct convolutions, bytes those that an op reads and writes at the least.

use candle_core::{Device, Result, Tensor, Var};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use std::fmt;
use zoo::ops::{self, Epilogue, Geometry, MaxPool};
use zoo::random::{Key, Stream, stream_of};
use zoo::update::AdamW;

/// Memory and threads are as in the command line's program.
#[global_allocator]
static ALLOCATOR: ops::MapAllocator = ops::MapAllocator;

fn main() {
    ops::keep_freed_memory();
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    pool.expect("nobody has used the pool yet");
    divan::main();
}

/// A square convolution of images, padded to keep their size at stride 1.
struct Conv {
    batch: usize,
    channels: usize,
    size: usize,
    out: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

const fn conv(channels: usize, size: usize, out: usize, kernel: usize, stride: usize, groups: usize) -> Conv {
    Conv { batch: 16, channels, size, out, kernel, stride, groups }
}

const CONVS: [Conv; 9] = [
    conv(3, 224, 64, 7, 2, 1),
    conv(64, 56, 64, 3, 1, 1),
    conv(128, 28, 128, 3, 1, 1),
    conv(256, 14, 256, 3, 1, 1),
    conv(512, 7, 512, 3, 1, 1),
    conv(128, 56, 128, 3, 2, 1),
    conv(256, 56, 64, 1, 1, 1),
    conv(128, 56, 128, 3, 1, 32),
    conv(128, 28, 128, 3, 1, 128),
];

impl fmt::Display for Conv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conv { channels, size, out, kernel, .. } = self;
        write!(f, "{kernel}x{kernel}, {channels} -> {out} at {size}x{size}")?;
        if self.stride > 1 {
            write!(f, ", stride {}", self.stride)?;
        }
        if self.groups > 1 { write!(f, ", {} groups", self.groups) } else { Ok(()) }
    }
}

impl Conv {
    fn operands(&self) -> [Tensor; 2] {
        let x = noise(&[self.batch, self.size, self.size, self.channels]);
        [x, noise(&[self.out, self.channels / self.groups, self.kernel, self.kernel])]
    }

    fn run(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([self.stride; 2], [self.kernel / 2; 2]);
        ops::conv(x, weight, &Geometry { stride, padding, dilation: [1; 2], groups: self.groups })
    }

    fn operations(&self) -> ItemsCount {
        let cells = self.batch * self.size.div_ceil(self.stride).pow(2);
        ItemsCount::new(2 * cells * self.out * self.channels / self.groups * self.kernel.pow(2))
    }
}

#[divan::bench(args = &CONVS)]
fn conv_forward(bencher: Bencher, conv: &Conv) {
    let [x, weight] = conv.operands();
    bencher.counter(conv.operations()).bench_local(|| conv.run(&x, &weight).expect("the shapes fit"));
}

#[divan::bench(args = &CONVS)]
fn conv_data_gradient(bencher: Bencher, conv: &Conv) {
    let [x, weight] = conv.operands();
    let y = conv.run(&variable(&x), &weight).expect("the shapes fit");
    bencher.counter(conv.operations()).bench_local(|| y.backward().expect("a sum has a gradient"));
}

#[divan::bench(args = &CONVS)]
fn conv_weight_gradient(bencher: Bencher, conv: &Conv) {
    let [x, weight] = conv.operands();
    let y = conv.run(&x, &variable(&weight)).expect("the shapes fit");
    bencher.counter(conv.operations()).bench_local(|| y.backward().expect("a sum has a gradient"));
}

/// Channels and size of 16 images.
const NORMS: [(usize, usize); 4] = [(64, 112), (64, 56), (256, 56), (512, 7)];

#[divan::bench(args = NORMS)]
fn norm_forward(bencher: Bencher, (channels, size): (usize, usize)) {
    let [x, shortcut] = [(); 2].map(|()| noise(&[16, size, size, channels]));
    bencher.counter(bytes(&x, 4)).bench_local(|| norm(&x, &shortcut));
}

#[divan::bench(args = NORMS)]
fn norm_backward(bencher: Bencher, (channels, size): (usize, usize)) {
    let [x, shortcut] = [(); 2].map(|()| noise(&[16, size, size, channels]));
    let y = norm(&variable(&x), &variable(&shortcut));
    bencher.counter(bytes(&x, 6)).bench_local(|| y.backward().expect("a sum has a gradient"));
}

/// Batch norm, shortcut and ReLU.
fn norm(x: &Tensor, shortcut: &Tensor) -> Tensor {
    let channels = x.dims()[x.rank() - 1];
    let affine = Tensor::ones((2, channels), x.dtype(), &Device::Cpu).expect("it is small");
    let epilogue = Epilogue { residual: Some(shortcut), relu: true };
    ops::batch_norm(x, &affine, 1e-5, epilogue).expect("the shapes fit").0
}

const MAX_POOL: MaxPool<2> = MaxPool { kernel: [3; 2], stride: [2; 2], padding: [1; 2] };

#[divan::bench]
fn max_pool_forward(bencher: Bencher) {
    let x = noise(&[16, 112, 112, 64]);
    bencher.counter(bytes(&x, 1)).bench_local(|| ops::max_pool(&x, &MAX_POOL).expect("the shapes fit"));
}

#[divan::bench]
fn max_pool_backward(bencher: Bencher) {
    let x = noise(&[16, 112, 112, 64]);
    let y = ops::max_pool(&variable(&x), &MAX_POOL).expect("the shapes fit");
    bencher.counter(bytes(&x, 1)).bench_local(|| y.backward().expect("a sum has a gradient"));
}

/// One thread's share of an optimizer step.
#[divan::bench]
fn adamw(bencher: Bencher) {
    const LEN: usize = 1 << 20;
    let update = AdamW {
        step_size: 1e-3,
        keep: 0.999,
        weight1: 0.1,
        beta2: 0.999,
        weight2: 1e-3,
        root_correction: 1.,
        eps: 1e-8,
        scale: 1.,
    };
    let [mut values, gradient, mut first, mut second] = [(); 4].map(|()| vec![0.5f32; LEN]);
    let count = BytesCount::new(7 * LEN * size_of::<f32>());
    bencher.counter(count).bench_local(|| update.step(&mut values, &gradient, &mut first, &mut second));
}

/// Normal draws.
fn noise(shape: &[usize]) -> Tensor {
    let mut draws = Stream::new(Key { seed: 0, stream: stream_of("benches"), step: 0, index: 0 });
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draws.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has")
}

fn variable(x: &Tensor) -> Tensor {
    Var::from_tensor(x).expect("it is on the CPU").into_inner()
}

/// As many passes over `x`.
fn bytes(x: &Tensor, passes: usize) -> BytesCount {
    BytesCount::new(passes * x.elem_count() * x.dtype().size_in_bytes())
}

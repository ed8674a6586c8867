use super::cpu::{Observed, Weight};
use super::*;
use crate::ops::number::Number;
use crate::random::{Key, Stream};
use candle_core::{DType, Var};
use half::bf16;

fn stream(name: &str, index: usize) -> Stream {
    Stream::new(Key { seed: 7, stream: crate::random::stream_of(name), step: 0, index: index as u64 })
}

fn normal(stream: &mut Stream, shape: &[usize]) -> Result<Tensor> {
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// A random small convolution: shapes of `x` and the weight, and the geometry.
#[derive(Debug, Clone)]
struct Case<const D: usize> {
    x: Vec<usize>,
    weight: Vec<usize>,
    geometry: Geometry<D>,
}

impl<const D: usize> Case<D> {
    fn new(stream: &mut Stream) -> Self {
        let mut pick = |from: &[usize]| from[stream.below(from.len() as u64) as usize];
        let axis_limit = [20, 9, 5][D - 1];
        loop {
            let (groups, group_channels, group_out) = match pick(&[0, 1, 2, 3, 4]) {
                0 => (2, pick(&[1, 3, 4, 17, 33]), pick(&[1, 2, 5, 17, 40])),
                1 => (pick(&[5, 17, 33]), 1, 1),
                2 => (pick(&[6, 8, 64]), pick(&[1, 2, 4]), pick(&[1, 3, 4])),
                _ => (1, pick(&[1, 3, 5, 17, 33, 64, 300]), pick(&[1, 3, 5, 17, 33, 64])),
            };
            let each = |pick: &mut dyn FnMut() -> usize| std::array::from_fn::<usize, D, _>(|_| pick());
            let kernel = each(&mut || pick(&[1, 2, 3, 3, 4, 5, 7]));
            let geometry = Geometry {
                stride: each(&mut || pick(&[1, 1, 2, 3])),
                padding: each(&mut || pick(&[0, 1, 2, 3])),
                dilation: each(&mut || pick(&[1, 1, 2, 3])),
                groups,
            };
            let input = each(&mut || 1 + pick(&(0..axis_limit).collect::<Vec<_>>()));
            let x = [&[pick(&[1, 2, 9])], &input[..], &[groups * group_channels]].concat();
            let weight = [&[groups * group_out, group_channels], &kernel[..]].concat();
            let work = x.iter().product::<usize>() * weight.iter().product::<usize>() / (groups * group_channels);
            if work < 20_000_000 && Problem::of_shapes(&x, &weight, &geometry).is_ok() {
                return Case { x, weight, geometry };
            }
        }
    }

    fn problem(&self) -> Problem {
        Problem::of_shapes(&self.x, &self.weight, &self.geometry).expect("cases fit")
    }
}

/// Result, `dx` and `dw` of the reference in f64 for the loss `sum(y * g)`.
fn oracle<const D: usize>(x: &Tensor, w: &Tensor, g: &Tensor, problem: &Problem) -> Result<[Vec<f64>; 3]> {
    let (x, w) = (Var::from_tensor(x)?, Var::from_tensor(w)?);
    let y = reference::conv(&x, &w, problem, D)?;
    let gradients = (&y * g)?.sum_all()?.backward()?;
    let of = |t: &Tensor| t.flatten_all()?.to_vec1::<f64>();
    Ok([of(&y)?, of(gradients.get(&x).expect("x is a variable"))?, of(gradients.get(&w).expect("w is a variable"))?])
}

fn f32s(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The largest difference, in units of the root mean square of what is expected. A number of bf16 may besides differ by
/// its rounding: half a unit in the last of 8 bits.
fn error<N: Number>(got: &[N], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let rounding = if N::DTYPE == DType::BF16 { 1. / 256. } else { 0. };
    let scale = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    let difference = |(a, b): (&N, &f64)| (f64::from(a.wide()) - b).abs() - rounding * b.abs();
    let worst = got.iter().zip(expected).map(difference).fold(0.0, f64::max);
    if worst == 0.0 { 0.0 } else { worst / scale }
}

/// Largest errors of the result, `dx` and `dw`, and all their bits.
fn errors<N: Map>(
    isa: Isa,
    problem: &Problem,
    precise: bool,
    [x, w, g]: [&Tensor; 3],
    expected: &[Vec<f64>; 3],
) -> Result<([f64; 3], Vec<u32>)> {
    let (x, w, g) = (numbers::<N>(x)?, f32s(w)?, numbers::<N>(g)?);
    let observed = Observed::default();
    let y = cpu::forward(isa, problem, &x, Weight::new(&w), None, Some(&observed), precise)?;
    let moments = observed.joined(problem.out_channels);
    let dx = cpu::data_gradient(isa, problem, &g, &w, None)?;
    let dw = cpu::weight_gradient(isa, problem, &x, &g)?;
    // Anything of the shape of `x` will do for what others gave.
    let onto_x = cpu::data_gradient(isa, problem, &g, &w, Some(&x))?;
    let expected_onto_x: Vec<f64> = expected[1].iter().zip(&x).map(|(dx, x)| dx + f64::from(x.wide())).collect();
    let of_maps = y.iter().chain(&dx).chain(&onto_x).map(|value| value.wide().to_bits());
    let bits = of_maps.chain(dw.iter().map(|value| value.to_bits()));
    let dx = error(&dx, &expected[1]).max(error(&onto_x, &expected_onto_x));
    let (statistics, error_of_moments) = error_of_moments(&y, moments, problem.out_channels);
    let bits = statistics.chain(bits).collect();
    Ok(([error(&y, &expected[0]).max(error_of_moments), dx, error(&dw, &expected[2])], bits))
}

/// The largest difference of a mean, in standard deviations, or of a variance, as a part of it; and all their bits.
fn error_of_moments<N: Number>(y: &[N], moments: Option<Moments>, channels: usize) -> (impl Iterator<Item = u32>, f64) {
    let moments = moments.unwrap_or_else(|| Moments::none(channels));
    let rows = y.len() / channels;
    assert_eq!(moments.count, rows as f64, "each position is observed once");
    let mut worst = 0f64;
    for c in 0..channels {
        let of_channel = || y.iter().skip(c).step_by(channels).map(|y| f64::from(y.wide()));
        let mean = of_channel().sum::<f64>() / rows.max(1) as f64;
        let squares = of_channel().map(|y| (y - mean) * (y - mean)).sum::<f64>();
        let deviation = (squares / rows.max(1) as f64).sqrt();
        worst = worst.max((moments.mean[c] - mean).abs() / deviation.max(1e-6 * mean.abs()).max(f64::MIN_POSITIVE));
        worst = worst.max((moments.squares[c] - squares).abs() / squares.max(1e-9));
    }
    (moments.mean.into_iter().chain(moments.squares).map(|moment| (moment as f32).to_bits()), worst)
}

/// Of the result, `dx` and `dw` in f32, and in bf16. AMX multiplies numbers of f32 in two parts, which together have 16 bits, but
/// for a precise result; Winograd's transforms are rounded where bf16 is multiplied.
fn bounds(isa: Isa, problem: &Problem, precise: bool) -> [[f64; 3]; 2] {
    let in_two_parts = if isa == Isa::Amx && !problem.direct { 2e-4 } else { 2e-5 };
    let of_bf16 = if isa == Isa::Avx512Bf16 && cpu::by_winograd(isa, problem) { 0.15 } else { 2e-5 };
    [[if precise { 2e-5 } else { in_two_parts }, in_two_parts, in_two_parts], [of_bf16; 3]]
}

fn numbers<N: Number>(x: &Tensor) -> Result<Vec<N>> {
    Ok(f32s(x)?.into_iter().map(N::narrow).collect())
}

/// Rounds to what bf16 can hold.
fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F64)
}

fn kernels_equal_the_reference<const D: usize>(cases: usize) -> Result<()> {
    for index in 0..cases {
        let mut stream = stream("kernels", index * 4 + D);
        let case = Case::<D>::new(&mut stream);
        let problem = case.problem();
        let (x, w) = (normal(&mut stream, &case.x)?, normal(&mut stream, &case.weight)?);
        let g = normal(&mut stream, problem.output_shape(D).dims())?;
        let half = [rounded(&x)?, rounded(&w)?, rounded(&g)?];
        let expected = oracle::<D>(&x, &w, &g, &problem)?;
        let expected_half = oracle::<D>(&half[0], &half[1], &half[2], &problem)?;
        for isa in Isa::available() {
            let precise = index % 2 == 0;
            let (single, _) = errors::<f32>(isa, &problem, precise, [&x, &w, &g], &expected)?;
            let (half, _) = errors::<bf16>(isa, &problem, precise, half.each_ref(), &expected_half)?;
            let [of_f32, of_bf16] = bounds(isa, &problem, precise);
            for (numbers, errors, bounds) in [("f32", single, of_f32), ("bf16", half, of_bf16)] {
                for ((what, error), bound) in ["y", "dx", "dw"].iter().zip(errors).zip(bounds) {
                    assert!(
                        error < bound,
                        "{what} of {numbers} is off by {error:.1e} with {isa:?} in case {index}: {case:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn kernels_equal_the_reference_1d() -> Result<()> {
    kernels_equal_the_reference::<1>(120)
}

#[test]
fn kernels_equal_the_reference_2d() -> Result<()> {
    kernels_equal_the_reference::<2>(160)
}

#[test]
fn kernels_equal_the_reference_3d() -> Result<()> {
    kernels_equal_the_reference::<3>(80)
}

/// Shapes of real networks that random small ones do not reach: several blocks of rows and of the reduction,
/// maps so small that most taps lie in the padding, split sums.
fn larger() -> Vec<Case<2>> {
    let same = Geometry { padding: [1, 1], ..Geometry::default() };
    let half = Geometry { stride: [2, 2], ..same };
    let stem = Geometry { stride: [2, 2], padding: [3, 3], ..Geometry::default() };
    let cases = [
        ([2, 24, 24, 3], [64, 3, 7, 7], stem),
        ([3, 17, 17, 64], [64, 64, 3, 3], same),
        ([9, 7, 7, 96], [160, 96, 3, 3], same),
        ([33, 4, 4, 64], [72, 64, 3, 3], half),
        ([64, 2, 2, 130], [96, 130, 3, 3], same),
        ([40, 1, 1, 256], [128, 256, 3, 3], same),
        ([130, 1, 1, 512], [10, 512, 1, 1], Geometry::default()),
        ([5, 15, 13, 72], [72, 72, 1, 1], Geometry::default()),
        ([4, 15, 15, 64], [128, 64, 1, 1], Geometry { stride: [2, 2], ..Geometry::default() }),
        ([4, 12, 12, 128], [128, 4, 3, 3], Geometry { groups: 32, ..same }),
        ([4, 12, 12, 96], [96, 1, 3, 3], Geometry { groups: 96, ..half }),
        // Winograd: edges of tiles, paddings 0 and 2, shared and own blocks, several blocks, split reductions.
        ([3, 21, 30, 16], [32, 16, 3, 3], Geometry { padding: [0, 2], ..Geometry::default() }),
        ([5, 19, 23, 48], [80, 48, 3, 3], same),
        ([7, 29, 29, 160], [144, 160, 3, 3], same),
        ([9, 18, 18, 272], [64, 272, 3, 3], Geometry { padding: [2, 1], ..Geometry::default() }),
        // AMX: tasks of several images, the last one of fewer, and with channels that are no whole steps.
        ([11, 7, 7, 500], [40, 500, 3, 3], same),
    ];
    cases.map(|(x, weight, geometry)| Case { x: x.to_vec(), weight: weight.to_vec(), geometry }).to_vec()
}

/// Of Winograd's tiles in planes: tasks that begin in one plane and end in the next, at the last of them too.
fn larger_in_planes() -> Vec<Case<3>> {
    let cases = [
        ([2, 5, 12, 9, 64], [64, 64, 3, 3, 3], [1, 1, 1]),
        ([3, 4, 19, 8, 32], [48, 32, 3, 3, 3], [0, 1, 2]),
        ([1, 3, 21, 13, 16], [32, 16, 2, 3, 3], [1, 1, 1]),
    ];
    let case = |(x, weight, padding): ([usize; 5], [usize; 5], [usize; 3])| Case {
        x: x.to_vec(),
        weight: weight.to_vec(),
        geometry: Geometry { padding, ..Geometry::default() },
    };
    cases.map(case).to_vec()
}

/// Maps under Winograd's tiles of which the last ones have one to four outputs along each axis, and others or none before them.
fn with_last_tiles() -> Vec<Case<2>> {
    let extents = [(3, 2), (5, 9), (6, 10), (7, 11), (3, 14), (7, 2), (10, 5), (4, 7), (14, 8)];
    let case = |(index, (height, width)): (usize, (usize, usize))| {
        let (channels, out) = ([32, 48, 144][index % 3], [48, 32, 80][index % 3]);
        let geometry = Geometry { padding: [1, 1], ..Geometry::default() };
        // As many as make it pay.
        let batch = (3000 / (height * width)).max(30);
        Case { x: vec![batch, height, width, channels], weight: vec![out, channels, 3, 3], geometry }
    };
    extents.into_iter().enumerate().map(case).collect()
}

/// Of which AMX's weight gradient gathers whole lines for several taps at once.
fn in_lines() -> Vec<Case<2>> {
    let same = Geometry { padding: [1, 1], ..Geometry::default() };
    let cases = [
        ([2, 64, 64, 3], [40, 3, 7, 7], Geometry { stride: [2, 2], padding: [3, 3], ..Geometry::default() }),
        // An odd number of pixels, and channels that are no whole panels.
        ([2, 21, 31, 40], [48, 40, 3, 3], same),
        // Several images in a block, the last one of fewer, and more channels than a piece has.
        ([3, 16, 16, 288], [32, 288, 3, 3], same),
        ([2, 32, 20, 64], [32, 64, 3, 3], Geometry { stride: [2, 1], padding: [2, 1], dilation: [2, 1], groups: 1 }),
        // Taps of which some read the same lines as others, and one does not.
        ([2, 48, 48, 32], [64, 32, 5, 5], Geometry { stride: [3, 3], padding: [2, 2], ..Geometry::default() }),
        ([1, 32, 32, 128], [128, 32, 3, 3], Geometry { groups: 4, ..same }),
        ([1, 32, 32, 64], [64, 4, 3, 3], Geometry { groups: 16, ..same }),
        // No padding: windows begin in the source, and end there.
        ([2, 34, 34, 64], [33, 64, 3, 3], Geometry::default()),
    ];
    cases.map(|(x, weight, geometry)| Case { x: x.to_vec(), weight: weight.to_vec(), geometry }).to_vec()
}

/// As [`in_lines`], of planes.
fn in_lines_of_planes() -> Vec<Case<3>> {
    let geometry = Geometry { padding: [1, 1, 1], ..Geometry::default() };
    vec![Case { x: vec![1, 3, 16, 16, 33], weight: vec![40, 33, 3, 3, 3], geometry }]
}

#[test]
fn weight_gradients_by_lines_equal_the_reference() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let problems = in_lines().into_iter().map(|case| case.problem());
        for problem in problems.chain(in_lines_of_planes().into_iter().map(|case| case.problem())) {
            assert!(cpu::by_lines::<f32>(&problem) && cpu::by_lines::<bf16>(&problem), "{problem:?}");
        }
    }
    equal_the_reference_with_any_threads("lines", in_lines())?;
    equal_the_reference_with_any_threads("lines of planes", in_lines_of_planes())
}

#[test]
fn kernels_equal_the_reference_on_real_shapes_and_bits_do_not_depend_on_threads() -> Result<()> {
    assert!(larger_in_planes().iter().all(|case| cpu::by_winograd(Isa::Portable, &case.problem())));
    let last_tiles = with_last_tiles();
    for case in &last_tiles {
        assert!(cpu::by_winograd(Isa::Portable, &case.problem()), "{case:?}");
    }
    equal_the_reference_with_any_threads("last tiles", last_tiles)?;
    equal_the_reference_with_any_threads("larger", larger())?;
    equal_the_reference_with_any_threads("larger in planes", larger_in_planes())
}

fn equal_the_reference_with_any_threads<const D: usize>(name: &str, cases: Vec<Case<D>>) -> Result<()> {
    let pools = [1, 2, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be had"));
    for (index, case) in cases.into_iter().enumerate() {
        let problem = case.problem();
        let mut stream = stream(name, index);
        let (x, w) = (normal(&mut stream, &case.x)?, normal(&mut stream, &case.weight)?);
        let g = normal(&mut stream, problem.output_shape(D).dims())?;
        let half = [rounded(&x)?, rounded(&w)?, rounded(&g)?];
        let expected = oracle::<D>(&x, &w, &g, &problem)?;
        let expected_half = oracle::<D>(&half[0], &half[1], &half[2], &problem)?;
        for (isa, precise) in Isa::available().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
            if isa != Isa::Amx && precise {
                continue;
            }
            let run = || -> Result<[([f64; 3], Vec<u32>); 2]> {
                Ok([
                    errors::<f32>(isa, &problem, precise, [&x, &w, &g], &expected)?,
                    errors::<bf16>(isa, &problem, precise, half.each_ref(), &expected_half)?,
                ])
            };
            let one = pools[0].install(run)?;
            for ((errors, _), bounds) in one.iter().zip(bounds(isa, &problem, precise)) {
                let below = errors.iter().zip(bounds).all(|(error, bound)| *error < bound);
                assert!(below, "off by {errors:?} with {isa:?}, precise: {precise}: {problem:?}");
            }
            for pool in &pools[1..] {
                let same = one == pool.install(run)?;
                assert!(same, "{} threads change bits with {isa:?}: {problem:?}", pool.current_num_threads());
            }
        }
    }
    Ok(())
}

/// The instructions that multiply bf16 take weights in bf16 too; sums are f32 with all of them.
#[test]
fn weights_are_rounded_where_bf16_is_multiplied() -> Result<()> {
    let mut stream = stream("rounded", 0);
    let problem = Problem::of_shapes(&[2, 5, 5, 700], &[40, 700, 1, 1], &Geometry::<2>::default()).expect("it fits");
    let (x, w) = (normal(&mut stream, &[2, 5, 5, 700])?, normal(&mut stream, &[40, 700, 1, 1])?);
    let (x, w) = (numbers::<bf16>(&x)?, f32s(&w)?);
    let short: Vec<f32> = w.iter().map(|w| bf16::narrow(*w).wide()).collect();
    for isa in Isa::available() {
        let with = |w: &[f32]| cpu::forward(isa, &problem, &x, Weight::new(w), None, None, false);
        let same = with(&w)? == with(&short)?;
        assert_eq!(same, matches!(isa, Isa::Avx512Bf16 | Isa::Amx), "{isa:?}");
    }
    Ok(())
}

/// What follows a convolution in evaluation, and filters kept from one call to the next.
#[test]
fn fused_convolutions_equal_the_reference_and_kept_filters_follow_the_weight() -> Result<()> {
    let random: Vec<Case<2>> = (0..120).map(|index| Case::new(&mut stream("fused", index))).collect();
    for (index, case) in random.into_iter().chain(larger()).enumerate() {
        let problem = case.problem();
        let mut stream = stream("fused operands", index);
        let (x, w) = (normal(&mut stream, &case.x)?, normal(&mut stream, &case.weight)?);
        let shape = problem.output_shape(2);
        let [scale, shift] = [0, 1].map(|_| normal(&mut stream, &[problem.out_channels]));
        let (scale, shift) = (((scale? * 0.1)? + 1.)?, shift?);
        let (residual, relu) = ((index % 3 > 0).then(|| normal(&mut stream, shape.dims())).transpose()?, index % 2 > 0);
        let expected = |w: &Tensor| -> Result<Vec<f64>> {
            let y = reference::conv(&x, w, &problem, 2)?.broadcast_mul(&scale)?.broadcast_add(&shift)?;
            let y = residual.as_ref().map_or(Ok(y.clone()), |residual| &y + residual)?;
            if relu { y.relu() } else { Ok(y) }?.flatten_all()?.to_vec1()
        };
        let (scale32, shift32) = (f32s(&scale)?, f32s(&shift)?);
        let residual32 = residual.as_ref().map(|residual| residual.to_dtype(DType::F32)).transpose()?;
        let fused = Fused { scale: &scale32, shift: &shift32, residual: residual32.as_ref(), relu };
        let kept = KeptFilters::default();
        let run = |w: &Tensor, kept: Option<&KeptFilters>| {
            conv_fused(&x.to_dtype(DType::F32)?, w, &case.geometry, Some(fused), kept.and_then(|kept| kept.of(w)))
        };
        let expected = [expected(&w)?, expected(&(&w * -1.5)?)?];
        let (first, second) = (w.to_dtype(DType::F32)?, (&w * -1.5)?.to_dtype(DType::F32)?);
        let results = [run(&first, None)?, run(&first, Some(&kept))?, run(&first, Some(&kept))?];
        let of_second = run(&second, Some(&kept))?;
        let (x32, w32, residual) = (f32s(&x)?, f32s(&w)?, residual32.as_ref().map(f32s).transpose()?);
        let finish = Finish { scale: &scale32, shift: &shift32, residual: residual.as_deref(), relu };
        for isa in Isa::available() {
            let y = cpu::forward(isa, &problem, &x32, Weight::new(&w32), Some(finish), None, false)?;
            let error = error(&y, &expected[0]);
            assert!(
                error < bounds(isa, &problem, false)[0][0],
                "off by {error:.1e} with {isa:?} in case {index}: {case:?}"
            );
        }
        for (y, which) in results.iter().chain([&of_second]).zip([0, 0, 0, 1]) {
            let error = error(&f32s(y)?, &expected[which]);
            let bound = bounds(Isa::chosen()?, &problem, false)[0][0];
            assert!(error < bound, "off by {error:.1e} in case {index}: {case:?}");
        }
        assert_eq!(f32s(&results[1])?, f32s(&results[2])?, "kept filters change bits in case {index}: {case:?}");
    }
    Ok(())
}

/// What follows a convolution is computed before the result is rounded, and once.
#[test]
fn fused_convolutions_of_bf16_equal_the_reference() -> Result<()> {
    let random: Vec<Case<2>> = (0..60).map(|index| Case::new(&mut stream("fused bf16", index))).collect();
    for (index, case) in random.into_iter().chain(larger()).enumerate() {
        let problem = case.problem();
        let mut stream = stream("fused bf16 operands", index);
        let (x, w) = (rounded(&normal(&mut stream, &case.x)?)?, rounded(&normal(&mut stream, &case.weight)?)?);
        let shape = problem.output_shape(2);
        let [scale, shift] = [0, 1].map(|_| normal(&mut stream, &[problem.out_channels]));
        let (scale, shift, residual) = (scale?, shift?, rounded(&normal(&mut stream, shape.dims())?)?);
        let (with_residual, relu) = (index % 3 > 0, index % 2 > 0);
        let mut y = reference::conv(&x, &w, &problem, 2)?.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        y = if with_residual { (y + &residual)? } else { y };
        y = if relu { y.relu()? } else { y };
        let expected = y.flatten_all()?.to_vec1()?;
        let (scale, shift, residual) = (f32s(&scale)?, f32s(&shift)?, numbers::<bf16>(&residual)?);
        let residual = with_residual.then_some(residual.as_slice());
        let finish = Finish { scale: &scale, shift: &shift, residual, relu };
        for isa in Isa::available() {
            let y =
                cpu::forward(isa, &problem, &numbers::<bf16>(&x)?, Weight::new(&f32s(&w)?), Some(finish), None, false)?;
            let error = error(&y, &expected);
            assert!(error < 2. * bounds(isa, &problem, false)[1][0], "off by {error:.1e} with {isa:?}: {case:?}");
        }
    }
    Ok(())
}

/// The errors of the result, `dx` and `dw` of 3x3 kernels on maps that a ReLU has been at, as parts of their root mean squares.
fn relative_errors<N: Map>(isa: Isa, size: usize, channels: usize, stream: &mut Stream) -> Result<[f64; 3]> {
    let (shape, kernel) = ([4, size, size, channels], [channels, channels, 3, 3]);
    let geometry = Geometry { padding: [1, 1], ..Geometry::<2>::default() };
    let problem = Problem::of_shapes(&shape, &kernel, &geometry).expect("it fits");
    let x = rounded(&normal(stream, &shape)?.relu()?)?;
    let w = rounded(&normal(stream, &kernel)?)?;
    let g = rounded(&normal(stream, &shape)?)?;
    // f32 has numbers that bf16 has not.
    let [x, w, g] = if N::DTYPE == DType::F32 { [(x * 1.1)?, (w * 1.1)?, (g * 1.1)?] } else { [x, w, g] };
    let [x, w, g] = [x, w, g].map(|x| x.to_dtype(DType::F32).and_then(|x| x.to_dtype(DType::F64)));
    let (x, w, g) = (x?, w?, g?);
    let [x_numbers, g_numbers] = [numbers::<N>(&x)?, numbers::<N>(&g)?];
    let weight = f32s(&w)?;
    let expected = oracle::<2>(&x, &w, &g, &problem)?;
    let wide = |values: Vec<N>| values.into_iter().map(|value| f64::from(value.wide())).collect::<Vec<_>>();
    let dw = cpu::weight_gradient(isa, &problem, &x_numbers, &g_numbers)?;
    let got = [
        wide(cpu::forward(isa, &problem, &x_numbers, Weight::new(&weight), None, None, false)?),
        wide(cpu::data_gradient(isa, &problem, &g_numbers, &weight, None)?),
        dw.into_iter().map(f64::from).collect(),
    ];
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    Ok(std::array::from_fn(|i| {
        let (got, expected) = (&got[i], &expected[i]);
        let error = squares(&mut got.iter().zip(expected).map(|(a, b)| a - b)) / squares(&mut expected.iter().copied());
        error.sqrt()
    }))
}

/// Winograd's algorithm in f32, on maps whose last tiles have four, three, two and one outputs; on the smallest all have two.
#[test]
fn the_error_of_winograd_in_f32_is_a_millionth() -> Result<()> {
    for (index, size) in [28, 27, 26, 25, 14, 11, 7].into_iter().enumerate() {
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Amx) {
            let errors = relative_errors::<f32>(isa, size, 128, &mut stream("millionth", index))?;
            assert!(errors.iter().all(|error| (1e-7..1.2e-6).contains(error)), "{size}x{size}, {isa:?}: {errors:?}");
        }
    }
    Ok(())
}

/// Winograd's F(4x4) on operands that are rounded to 8 bits after their transforms, where the CPU multiplies bf16; its
/// result is off by about a hundredth, and that of 8-bit operands without transforms by a quarter of that.
#[test]
fn the_error_of_winograd_in_bf16_is_a_hundredth() -> Result<()> {
    for (index, channels) in [64, 128, 256].into_iter().enumerate() {
        if Isa::available().contains(&Isa::Avx512Bf16) {
            let errors = relative_errors::<bf16>(Isa::Avx512Bf16, 28, channels, &mut stream("hundredth", index))?;
            assert!(errors.iter().all(|error| (0.003..0.015).contains(error)), "{channels} channels: {errors:?}");
        }
    }
    Ok(())
}

/// Products of numbers of f32 in two parts of bf16, and of bf16 as it is, whose results alone are rounded.
#[test]
fn the_error_of_amx_is_that_of_its_parts() -> Result<()> {
    for (index, channels) in [64, 128, 256].into_iter().enumerate() {
        if Isa::available().contains(&Isa::Amx) {
            let in_two_parts = relative_errors::<f32>(Isa::Amx, 28, channels, &mut stream("parts", index))?;
            assert!(in_two_parts.iter().all(|error| (5e-7..5e-6).contains(error)), "{channels}: {in_two_parts:?}");
            let [y, dx, dw] = relative_errors::<bf16>(Isa::Amx, 28, channels, &mut stream("parts", index))?;
            assert!(y < 2e-3 && dx < 2e-3 && dw < 5e-7, "{channels} channels: {:?}", [y, dx, dw]);
        }
    }
    Ok(())
}

/// Central differences of the reference in f64 along one random direction at a time.
#[test]
fn gradients_of_the_reference_equal_finite_differences() -> Result<()> {
    fn check<const D: usize>(cases: usize) -> Result<()> {
        for index in 0..cases {
            let mut stream = stream("differences", index * 4 + D);
            let case = Case::<D>::new(&mut stream);
            let problem = case.problem();
            let (x, w) = (normal(&mut stream, &case.x)?, normal(&mut stream, &case.weight)?);
            let g = normal(&mut stream, problem.output_shape(D).dims())?;
            let [_, dx, dw] = oracle::<D>(&x, &w, &g, &problem)?;
            let loss = |x: &Tensor, w: &Tensor| -> Result<f64> {
                (reference::conv(x, w, &problem, D)? * &g)?.sum_all()?.to_scalar::<f64>()
            };
            for (of_x, gradient) in [(true, &dx), (false, &dw)] {
                let direction = normal(&mut stream, if of_x { &case.x } else { &case.weight })?;
                let step = (&direction * 1e-3)?;
                let (up, down) = match of_x {
                    true => (loss(&(&x + &step)?, &w)?, loss(&(&x - &step)?, &w)?),
                    false => (loss(&x, &(&w + &step)?)?, loss(&x, &(&w - &step)?)?),
                };
                let slope: f64 =
                    direction.flatten_all()?.to_vec1::<f64>()?.iter().zip(gradient).map(|(a, b)| a * b).sum();
                let (measured, scale) = ((up - down) / 2e-3, gradient.iter().map(|d| d * d).sum::<f64>().sqrt());
                assert!((measured - slope).abs() <= 1e-7 * scale.max(1.0), "{measured} is not {slope}: {case:?}");
            }
        }
        Ok(())
    }
    check::<1>(15)?;
    check::<2>(15)?;
    check::<3>(10)
}

/// candle's forward is an independent oracle, where it can express the geometry.
#[test]
#[expect(clippy::disallowed_methods, reason = "only its backward is wrong")]
fn the_forward_equals_candles() -> Result<()> {
    for (index, (channels, out, groups, kernel, stride, padding, dilation)) in [
        (3, 8, 1, 7, 2, 3, 1),
        (6, 4, 2, 3, 1, 1, 1),
        (16, 16, 16, 3, 2, 1, 1),
        (5, 7, 1, 3, 1, 2, 2),
        (8, 9, 1, 1, 2, 0, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = stream("candle", index);
        let x = normal(&mut stream, &[2, 13, 11, channels])?.to_dtype(DType::F32)?;
        let w = normal(&mut stream, &[out, channels / groups, kernel, kernel])?.to_dtype(DType::F32)?;
        let geometry = Geometry { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups };
        let theirs = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(&w, padding, stride, dilation, groups)?;
        let ours = conv(&x, &w, &geometry)?.permute((0, 3, 1, 2))?;
        assert_eq!(ours.dims(), theirs.dims());
        let worst = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(f64::from(worst) < Isa::bound(1e-4, 5e-4), "off by {worst}");
    }
    Ok(())
}

#[test]
fn the_door_records_a_graph_and_computes_only_gradients_that_are_wanted() -> Result<()> {
    let mut stream = stream("door", 0);
    let x = normal(&mut stream, &[2, 6, 5, 3])?.to_dtype(DType::F32)?;
    let w = normal(&mut stream, &[4, 3, 3, 3])?.to_dtype(DType::F32)?;
    let geometry = Geometry { stride: [2, 1], padding: [1, 1], ..Geometry::default() };
    let (x_var, w_var) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);

    let both = conv(&x_var, &w_var, &geometry)?.sqr()?.sum_all()?.backward()?;
    assert_eq!(both.get(&x_var).expect("x is a variable").dims(), x.dims());
    assert_eq!(both.get(&w_var).expect("w is a variable").dims(), w.dims());

    let of_weight = conv(&x, &w_var, &geometry)?.sqr()?.sum_all()?.backward()?;
    assert!(of_weight.get(&x).is_none() && of_weight.get(&w_var).is_some());
    let of_x = conv(&x_var, &w, &geometry)?.sqr()?.sum_all()?.backward()?;
    assert!(of_x.get(&x_var).is_some() && of_x.get(&w).is_none());
    assert!(!conv(&x, &w, &geometry)?.track_op());

    // Other types go to the reference, and both agree; so do a transposed x and one that starts inside its buffer.
    let half = conv(&x.to_dtype(DType::BF16)?, &w.to_dtype(DType::BF16)?, &geometry)?;
    assert_eq!(half.dtype(), DType::BF16);
    let worst = (conv(&x, &w, &geometry)? - half.to_dtype(DType::F32)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(worst < 0.2, "off by {worst}");
    let wide = conv(&x.to_dtype(DType::F64)?, &w.to_dtype(DType::F64)?, &geometry)?.to_dtype(DType::F32)?;
    let worst = (conv(&x, &w, &geometry)? - wide)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(f64::from(worst) < Isa::bound(1e-5, 1e-4), "off by {worst}");
    let second = conv(&x.narrow(0, 1, 1)?, &w, &geometry)?;
    let worst = (conv(&x, &w, &geometry)?.narrow(0, 1, 1)? - second)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert_eq!(worst, 0.0);
    let transposed = x.transpose(1, 2)?.contiguous()?.transpose(1, 2)?;
    let worst = (conv(&x, &w, &geometry)? - conv(&transposed, &w, &geometry)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert_eq!(worst, 0.0);
    Ok(())
}

#[test]
fn an_empty_batch_gives_an_empty_result_and_a_zero_gradient() -> Result<()> {
    let x = Tensor::zeros((0, 5, 5, 3), DType::F32, &Device::Cpu)?;
    let w = Var::ones((4, 3, 3, 3), DType::F32, &Device::Cpu)?;
    let y = conv(&x, &w, &Geometry::<2>::default())?;
    assert_eq!(y.dims(), [0, 3, 3, 4]);
    let gradients = y.sum_all()?.backward()?;
    assert_eq!(gradients.get(&w).expect("w is a variable").abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn a_convolution_that_reads_only_padding_is_zero() -> Result<()> {
    let geometry = Geometry { stride: [7], padding: [3], ..Geometry::<1>::default() };
    let (x, w) = (Var::ones((2, 1, 3), DType::F32, &Device::Cpu)?, Var::ones((4, 3, 1), DType::F32, &Device::Cpu)?);
    let y = conv(&x, &w, &geometry)?;
    assert_eq!(y.to_vec3::<f32>()?, vec![vec![vec![0.0; 4]]; 2]);
    let gradients = y.sum_all()?.backward()?;
    for variable in [&x, &w] {
        let gradient = gradients.get(variable).expect("both are variables");
        assert_eq!(gradient.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
    }
    Ok(())
}

#[test]
fn types_that_do_not_fit_say_what_to_do() -> Result<()> {
    let of = |x: DType, w: DType| {
        let x = Tensor::zeros((1, 5, 3), x, &Device::Cpu)?;
        conv(&x, &Tensor::zeros((4, 3, 3), w, &Device::Cpu)?, &Geometry::<1>::default())
    };
    let error = |x, w| of(x, w).expect_err("these types do not fit").to_string();
    assert_eq!(error(DType::F32, DType::F64), "conv1d: x is f32 and the weight f64; cast one of them with to_dtype");
    assert_eq!(
        error(DType::U8, DType::U8),
        "conv1d: x is u8, which is no float type; cast x and the weight with to_dtype"
    );
    Ok(())
}

//! Counter-based randomness: a draw is a pure function of what it is for, so there is no generator
//! state to save, and neither threads nor workers nor a resumed run change a bit.
//!
//! Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

use std::cell::Cell;

/// What a stream of draws is for. Two different keys give independent streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// The purpose: [`stream_of`] a name such as `"loader.shuffle"` or a layer's path.
    pub stream: u64,
    /// The optimizer step, or the epoch.
    pub step: u64,
    /// The sample, or the index inside the step.
    pub index: u64,
}

/// The stream number of a name (FNV-1a, 64 bits).
pub fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// An endless sequence of draws under one [`Key`].
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The start of the key's sequence.
    pub fn new(key: Key) -> Self {
        // Philox takes 64 bits of key and 128 of counter; the purpose is folded into the key and the
        // low counter word is the position, so a stream has 2^34 draws.
        let folded = mix(mix(key.seed ^ mix(key.stream)) ^ key.step);
        let (low, high) = (folded as u32, (folded >> 32) as u32);
        let counter = [0, 0, key.index as u32, (key.index >> 32) as u32];
        Stream { key: [low, high], counter, block: [0; 4], used: 4 }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            let (low, carry) = self.counter[0].overflowing_add(1);
            self.counter[0] = low;
            self.counter[1] = self.counter[1].wrapping_add(u32::from(carry));
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Uniform in `[0, 1)`, with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019). `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(bound);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box and Muller, in f64).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit_f64()).cos()
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniformly random order of `0..len` (Fisher and Yates).
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}

/// SplitMix64's finalizer: every input bit changes every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xd251_1f53;
        let b = u64::from(c[2]) * 0xcd9e_8d57;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

/// Which draws the dropouts of a forward pass make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardKey {
    /// The run's seed.
    pub seed: u64,
    /// The forward pass: with accumulation, step times micro-batches plus the micro-batch.
    pub step: u64,
}

thread_local! { static FORWARD: Cell<ForwardKey> = const { Cell::new(ForwardKey { seed: 0, step: 0 }) }; }

/// Runs a forward pass whose dropout and drop_path layers draw under `key`. A training loop passes a
/// new key each time; without one, every pass of a thread draws the same masks.
pub fn with_forward_key<R>(key: ForwardKey, f: impl FnOnce() -> R) -> R {
    struct Restore(ForwardKey);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORWARD.set(self.0);
        }
    }
    let _restore = Restore(FORWARD.replace(key));
    f()
}

/// The key of the forward pass that this thread is in.
pub fn forward_key() -> ForwardKey {
    FORWARD.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123's `kat_vectors`.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_have_their_moments_and_keys_differ() {
        let key = Key { seed: 1, stream: stream_of("test"), step: 2, index: 3 };
        let mut stream = Stream::new(key);
        let draws: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_eq!(Stream::new(key).next_u64(), Stream::new(key).next_u64());
        for other in [Key { seed: 2, ..key }, Key { stream: 7, ..key }, Key { step: 3, ..key }, Key { index: 4, ..key }]
        {
            assert_ne!(Stream::new(key).next_u64(), Stream::new(other).next_u64());
        }
    }

    #[test]
    fn a_permutation_holds_each_index_once() {
        let mut order = Stream::new(Key { seed: 0, stream: 0, step: 0, index: 0 }).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}

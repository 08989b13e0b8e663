//! Random numbers: the Philox counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the
//! process's own stream of it.

use std::sync::Mutex;

/// One block of Philox4x32-10: four random words from a key and a counter.
#[inline(always)]
pub(crate) fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let ([mut k0, mut k1], mut c) = (key, counter);
    for _ in 0..10 {
        let a = c[0] as u64 * 0xd251_1f53;
        let b = c[2] as u64 * 0xcd9e_8d57;
        c = [(b >> 32) as u32 ^ c[1] ^ k0, b as u32, (a >> 32) as u32 ^ c[3] ^ k1, a as u32];
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    c
}

/// A stream of random numbers on the host, for shuffles and splits: the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    key: [u32; 2],
    counter: u64,
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of a seed and a part (an epoch, a sample's index): different parts give independent streams.
    pub fn new(seed: u64, part: u64) -> Stream {
        // The part goes through the generator itself, so that neighbours have nothing in common.
        let mixed = philox([part as u32, (part >> 32) as u32], [seed as u32, (seed >> 32) as u32, 0x666f_726e, 0x6178]);
        Stream { key: [mixed[0], mixed[1]], counter: 0, block: [0; 4], used: 4 }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.key, [self.counter as u32, (self.counter >> 32) as u32, 0, 0]);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// A number in 0..n (n > 0), without bias.
    pub fn below(&mut self, n: u64) -> u64 {
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let v = (self.word() as u64) << 32 | self.word() as u64;
            if v < limit {
                return v % n;
            }
        }
    }

    /// A number in [0, 1), of 53 bits.
    pub fn unit(&mut self) -> f64 {
        let v = (self.word() as u64) << 32 | self.word() as u64;
        (v >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts a list into random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// The key and the next counter of the process's stream.
static STATE: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// Starts the process's random numbers anew: what is drawn after it depends on the seed and on the order of the calls alone, and is the same on
/// every device. A process starts with seed 0.
///
/// ```
/// use fornax::{Device, Tensor};
/// fornax::manual_seed(7);
/// let a = Tensor::uniform(3, 0.0, 1.0, Device::cpu()).to_vec::<f32>()?;
/// fornax::manual_seed(7);
/// assert_eq!(Tensor::uniform(3, 0.0, 1.0, Device::cpu()).to_vec::<f32>()?, a);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn manual_seed(seed: u64) {
    *STATE.lock().unwrap_or_else(|e| e.into_inner()) = (seed, 0);
}

/// Takes the next `blocks` blocks of the process's stream: the key, and the counter of the first.
pub(crate) fn reserve(blocks: u64) -> (u64, u64) {
    let mut state = STATE.lock().unwrap_or_else(|e| e.into_inner());
    let taken = *state;
    state.1 = state.1.wrapping_add(blocks);
    taken
}

/// A stream on the host that continues the process's.
pub(crate) fn stream() -> Stream {
    let (key, counter) = reserve(1);
    Stream::new(key, counter.wrapping_add(1 << 63))
}

/// The process's seed and counter, for checkpoints.
pub(crate) fn state() -> (u64, u64) {
    *STATE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Goes back to a seed and a counter that [`state`] gave.
pub(crate) fn set_state(state: (u64, u64)) {
    *STATE.lock().unwrap_or_else(|e| e.into_inner()) = state;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the authors' Random123 library.
    #[test]
    fn known_answers() {
        for (counter, key, words) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(key, counter), words);
        }
    }

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, part| (0..9).map(|_| Stream::new(seed, part).below(1000)).collect::<Vec<_>>();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(Stream::new(1, 2).word(), Stream::new(1, 3).word());
        assert_ne!(Stream::new(1, 2).word(), Stream::new(2, 2).word());
        let mut list: Vec<u32> = (0..100).collect();
        Stream::new(3, 0).shuffle(&mut list);
        assert!(list.windows(2).any(|w| w[0] > w[1]));
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
        let mut s = Stream::new(5, 5);
        assert!((0..1000).map(|_| s.unit()).all(|u| (0.0..1.0).contains(&u)));
    }
}

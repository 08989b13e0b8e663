//! Random numbers: the Philox counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the
//! process's own stream of it.

use std::cell::Cell;
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

/// Where the process's random numbers are: the seed, and how much of its stream was drawn. A checkpoint keeps it.
///
/// ```
/// use fornax::{Device, Tensor};
/// fornax::manual_seed(7);
/// let state = fornax::rng_state();
/// let a = Tensor::uniform(3, 0.0, 1.0, Device::cpu()).to_vec::<f32>()?;
/// fornax::set_rng_state(state);
/// assert_eq!(Tensor::uniform(3, 0.0, 1.0, Device::cpu()).to_vec::<f32>()?, a);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngState {
    /// The seed that [`manual_seed`] was given; 0 at the start of a process.
    pub seed: u64,
    /// The next block of the seed's stream. A block is four words of 32 bits.
    pub counter: u64,
}

/// The state of the process's random numbers. (It is that of the numbers that layers and tensors draw; a data loader's depend on its own seed, the
/// epoch and the place alone.)
///
/// ```
/// fornax::manual_seed(3);
/// assert_eq!(fornax::rng_state(), fornax::RngState { seed: 3, counter: 0 });
/// ```
pub fn rng_state() -> RngState {
    let (seed, counter) = *STATE.lock().unwrap_or_else(|e| e.into_inner());
    RngState { seed, counter }
}

/// Goes on with random numbers from a state that [`rng_state`] gave.
///
/// ```
/// let state = fornax::rng_state();
/// fornax::set_rng_state(state);
/// assert_eq!(fornax::rng_state(), state);
/// ```
pub fn set_rng_state(state: RngState) {
    *STATE.lock().unwrap_or_else(|e| e.into_inner()) = (state.seed, state.counter);
}

thread_local! {
    /// A stream that stands in for the process's on this thread: key and next counter.
    static STREAM: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// The key of a stream of its own, drawn from the current one.
pub(crate) fn fork() -> u64 {
    let (key, counter) = reserve(1);
    let words = philox([key as u32, (key >> 32) as u32], [counter as u32, (counter >> 32) as u32, 0x666f_726b, 0]);
    u64::from(words[0]) | u64::from(words[1]) << 32
}

/// While it lives, this thread draws from a stream of its own.
#[must_use]
pub struct Stream(Option<(u64, u64)>);

impl Stream {
    /// The stream of this key, from its start: the same draws each time.
    pub(crate) fn enter(key: u64) -> Stream {
        Stream(STREAM.replace(Some((key, 0))))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        STREAM.set(self.0)
    }
}

/// Runs `f` with the stream of this key, from its start.
pub(crate) fn with_stream<T>(key: u64, f: impl FnOnce() -> T) -> T {
    let _stream = Stream::enter(key);
    f()
}

/// Takes the next `blocks` blocks of the process's stream: the key, and the counter of the first.
pub(crate) fn reserve(blocks: u64) -> (u64, u64) {
    if let Some(own) = STREAM.get() {
        STREAM.set(Some((own.0, own.1.wrapping_add(blocks))));
        return own;
    }
    let mut state = STATE.lock().unwrap_or_else(|e| e.into_inner());
    let taken = *state;
    state.1 = state.1.wrapping_add(blocks);
    taken
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
}

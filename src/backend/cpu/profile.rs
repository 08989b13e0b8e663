//! The profile of the CPU: see `backend::profile`.

use super::simd::multiversion;
use super::threads;
use crate::backend::exit::at_exit;
use crate::backend::profile::{Peak, Table, wanted};
use rayon::prelude::*;
use std::sync::Once;
use std::time::Instant;

static TABLE: Table = Table::new();

/// The CPU's table, where `FORNAX_PROFILE=1` asks for one. The first call measures what the machine can do, in about a tenth of a second (in a
/// debug build, what debug code can do: profile a release build).
pub(crate) fn table() -> Option<&'static Table> {
    static FIRST: Once = Once::new();
    if !wanted() {
        return None;
    }
    FIRST.call_once(|| {
        TABLE.set_peak(threads::kernels(true, peak));
        at_exit(|| eprintln!("{}", TABLE.text("cpu")));
    });
    Some(&TABLE)
}

/// Bytes of each buffer of the copy: more than caches hold.
const COPY: usize = 128 << 20;
const ROUNDS: usize = 1 << 17;

fn peak() -> Peak {
    let (from, mut to) = (vec![1u8; COPY], vec![0u8; COPY]);
    let part = COPY.div_ceil(rayon::current_num_threads());
    let mut best = [0f64; 2];
    for _ in 0..3 {
        let start = Instant::now();
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(t, f)| t.copy_from_slice(f));
        best[0] = best[0].max(2.0 * COPY as f64 / start.elapsed().as_nanos().max(1) as f64);
        let threads = rayon::current_num_threads();
        let start = Instant::now();
        let sum: f32 = (0..threads).into_par_iter().map(|t| multiply_adds(ROUNDS, t as f32)).sum();
        std::hint::black_box(sum);
        best[1] = best[1].max((2 * LANES * ROUNDS * threads) as f64 / start.elapsed().as_nanos().max(1) as f64);
    }
    Peak { bandwidth: best[0], flops: best[1] }
}

/// Independent sums: enough to hide the latency of a fused multiply-add in registers of 16.
const LANES: usize = 160;

multiversion! {
    fn multiply_adds(rounds: usize, seed: f32) -> f32 {
        let mut a = [seed; LANES];
        for i in 0..rounds {
            let m = 0.5 + (i & 1) as f32 * 0.25;
            for v in &mut a {
                *v = v.mul_add(m, 1.0);
            }
        }
        a.iter().sum()
    }
}

//! Random numbers for the host side of data: keyed, so that what a row draws depends on nothing but its key.

use crate::rng::philox;

/// A source of random numbers (Philox). A loader gives each item one of its own, keyed by seed, epoch and place in the epoch: what a random
/// transform draws does not depend on the number of workers, or on which of them runs it.
///
/// ```
/// use fornax::data::Rng;
/// let (mut a, mut b) = (Rng::keyed(7, 3, 100), Rng::keyed(7, 3, 100));
/// assert_eq!(a.uniform(-1.0, 1.0), b.uniform(-1.0, 1.0));
/// assert!(a.below(10) < 10);
/// ```
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: u64,
    words: [u32; 4],
    left: usize,
}

/// Keeps the keys of items apart from the counters of permutations, which use the same seed.
const ITEM: u32 = 1 << 31;

impl Rng {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng { key: [seed as u32, (seed >> 32) as u32], counter: 0, words: [0; 4], left: 0 }
    }

    /// The numbers of an item: its place in an epoch, under a seed.
    pub fn keyed(seed: u64, epoch: u64, index: u64) -> Rng {
        let counter = [index as u32, (index >> 32) as u32 | ITEM, epoch as u32, (epoch >> 32) as u32];
        let words = philox([seed as u32, (seed >> 32) as u32], counter);
        Rng::new(u64::from(words[0]) | u64::from(words[1]) << 32)
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.words = philox(self.key, [self.counter as u32, (self.counter >> 32) as u32, 0, 0]);
            self.counter = self.counter.wrapping_add(1);
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// A number from `low` to `high`, `high` excluded unless it is `low`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// 53 random bits as a number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The bias of the product is below n / 2⁶⁴.
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A standard normal number (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A number of the gamma distribution with this shape and scale 1 (Marsaglia and Tsang, 2000).
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if !(shape > 0.0) {
            return 0.0;
        }
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * (1.0 - self.unit()).powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// A number of the beta distribution.
    ///
    /// ```
    /// let mut rng = fornax::data::Rng::new(1);
    /// assert!((0.0..=1.0).contains(&rng.beta(0.4, 0.4)));
    /// ```
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(b));
        if x + y > 0.0 {
            return x / (x + y);
        }
        // Both were too small for a number: all the mass lies at the ends.
        if self.chance(a / (a + b)) { 1.0 } else { 0.0 }
    }

    /// A key for a stream of tensors' random numbers.
    pub(crate) fn stream(&self) -> u64 {
        let words = philox(self.key, [0, 0, 0, ITEM]);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    /// Puts a slice in random order (Fisher and Yates).
    ///
    /// ```
    /// let mut cards: Vec<u32> = (0..52).collect();
    /// fornax::data::Rng::new(1).shuffle(&mut cards);
    /// assert!(!cards.is_sorted());
    /// ```
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(1);
        let n = 40_000;
        let mut moments = |draw: &mut dyn FnMut(&mut Rng) -> f64| {
            let x: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
            let mean = x.iter().sum::<f64>() / n as f64;
            (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let close = |(m, v): (f64, f64), (mean, variance): (f64, f64)| (m - mean).abs() < 0.02 && (v - variance).abs() < 0.05;
        assert!(close(moments(&mut |r| r.normal()), (0.0, 1.0)));
        assert!(close(moments(&mut |r| r.uniform(1.0, 3.0)), (2.0, 1.0 / 3.0)));
        assert!(close(moments(&mut |r| r.beta(0.4, 0.4)), (0.5, 0.25 / 1.8)));
        assert!(close(moments(&mut |r| r.beta(2.0, 1.0)), (2.0 / 3.0, 1.0 / 18.0)));
        assert!(close(moments(&mut |r| r.below(3) as f64), (1.0, 2.0 / 3.0)));
        assert!(close(moments(&mut |r| f64::from(r.chance(0.25))), (0.25, 0.1875)));
    }

    #[test]
    fn keys_differ_in_each_part() {
        let first = |seed, epoch, index| Rng::keyed(seed, epoch, index).next_u64();
        let all = [first(1, 2, 3), first(1, 3, 2), first(2, 1, 3), first(1, 2, 4), first(0, 0, 0)];
        let mut distinct = all.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
    }
}

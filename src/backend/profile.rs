//! `FORNAX_PROFILE=1`: how long every kernel took, on what device, and how near that came to what the device can do. Printed when the process
//! ends.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Whether the environment asks for it.
pub(crate) fn wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var("FORNAX_PROFILE").is_ok_and(|v| v == "1"))
}

/// What a device can do, measured once by a copy and by a loop of multiply-adds: GB/s and GFLOP/s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peak {
    pub bandwidth: f64,
    pub flops: f64,
}

/// The kernels of one device.
pub(crate) struct Table {
    rows: Mutex<BTreeMap<&'static str, Row>>,
    peak: OnceLock<Peak>,
}

/// What all runs of a kernel took together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub count: u64,
    pub nanoseconds: f64,
    pub bytes: u64,
    pub flops: u64,
}

impl Table {
    pub const fn new() -> Table {
        Table { rows: Mutex::new(BTreeMap::new()), peak: OnceLock::new() }
    }

    pub fn add(&self, kernel: &'static str, nanoseconds: f64, bytes: u64, flops: u64) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(kernel).or_default();
        row.count += 1;
        row.nanoseconds += nanoseconds;
        row.bytes += bytes;
        row.flops += flops;
    }

    /// The rows so far, which are taken out.
    #[cfg(feature = "wgpu")]
    pub fn take(&self) -> BTreeMap<&'static str, Row> {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_peak(&self, peak: Peak) {
        let _ = self.peak.set(peak);
    }

    /// The table, the longest kernels first. The share of the roofline is the larger of two: of the bandwidth, and of the arithmetic. (Data
    /// that stays in a cache may pass 100 %.)
    pub fn text(&self, device: &str) -> String {
        let mut rows: Vec<(&str, Row)> = self.rows.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(k, r)| (*k, *r)).collect();
        rows.sort_by(|a, b| b.1.nanoseconds.total_cmp(&a.1.nanoseconds));
        let total: f64 = rows.iter().map(|r| r.1.nanoseconds).sum();
        let mut out = format!("{device}: {:.3} ms in kernels", total / 1e6);
        let peak = self.peak.get();
        // Writing to a String cannot fail.
        if let Some(p) = peak {
            let _ = write!(out, "; measured peaks: {:.1} GB/s, {:.0} GFLOP/s", p.bandwidth, p.flops);
        }
        let titles = ["ms", "%", "count", "us each", "GB/s", "GFLOP/s", "roof %"];
        let [a, b, c, d, e, f, g] = titles;
        let _ = writeln!(out, "\n{a:>10} {b:>6} {c:>8} {d:>10} {e:>9} {f:>9} {g:>7}  kernel");
        for (label, r) in rows {
            let ns = r.nanoseconds.max(1.0);
            let (bandwidth, flops) = (r.bytes as f64 / ns, r.flops as f64 / ns);
            let roof = peak.map_or(f64::NAN, |p| 100.0 * (bandwidth / p.bandwidth).max(flops / p.flops));
            let _ = writeln!(
                out,
                "{:>10.3} {:>6.1} {:>8} {:>10.2} {bandwidth:>9.1} {flops:>9.1} {roof:>7.1}  {label}",
                r.nanoseconds / 1e6,
                100.0 * r.nanoseconds / total.max(1.0),
                r.count,
                r.nanoseconds / 1e3 / r.count as f64,
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_roofline_is_the_larger_one() {
        let table = Table::new();
        table.set_peak(Peak { bandwidth: 10.0, flops: 100.0 });
        table.add("copy", 1000.0, 5000, 0);
        table.add("copy", 1000.0, 5000, 0);
        table.add("product", 3000.0, 3000, 240_000);
        let text = table.text("cpu");
        let row =
            |name: &str| text.lines().find(|l| l.ends_with(name)).map(|l| l.split_whitespace().map(str::to_string).collect::<Vec<_>>());
        let copy = row("copy").unwrap();
        assert_eq!((copy[2].as_str(), copy[4].as_str(), copy[6].as_str()), ("2", "5.0", "50.0"), "{text}");
        let product = row("product").unwrap();
        assert_eq!((product[5].as_str(), product[6].as_str()), ("80.0", "80.0"), "{text}");
        assert!(text.find("product").unwrap() < text.find("copy").unwrap(), "the longest first");
    }
}

//! The harness on itself: a planted wrong derivative is found, and no op of the crate goes without a case.

use crate::harness::*;
use crate::{ops_fused, ops_images, ops_movement, ops_pointwise, ops_products, ops_quantised, ops_reduce, ops_views};
use fornax::{DType, Device, Tensor, testing};
use std::collections::BTreeSet;
use std::path::Path;

/// The cases of all ops.
pub fn all() -> Vec<Case> {
    let families: [fn() -> Vec<Case>; 14] = [
        ops_pointwise::unary,
        ops_pointwise::binary,
        ops_pointwise::others,
        ops_views::cases,
        ops_reduce::cases,
        ops_reduce::scans,
        ops_movement::cases,
        ops_products::products,
        ops_products::convolutions,
        ops_quantised::cases,
        ops_fused::cases,
        ops_images::pools,
        ops_images::patches,
        ops_images::sums,
    ];
    families.iter().flat_map(|f| f()).collect()
}

#[test]
fn a_wrong_derivative_is_found() {
    let planted =
        case("planted", &[real(&[2, 3])], |t| testing::wrong_square(&t[0])).oracle(|a| a[0].v.iter().map(|x| x * x).collect()).no_gpu();
    let mut report = Report::default();
    check(&mut report, &planted);
    assert!(
        report.failures.iter().all(|f| f.contains("gradient") || f.contains("derivative") || f.contains("f16")),
        "{:?}",
        report.failures
    );
    assert!(report.failures.iter().any(|f| f.starts_with("planted: gradient")), "the wrong derivative went unnoticed");
}

#[test]
fn a_wrong_value_is_found() {
    let planted = case("planted", &[real(&[2, 3])], |t| t[0].try_mul(1.001)).oracle(|a| a[0].v.clone());
    let mut report = Report::default();
    check(&mut report, &planted);
    assert!(report.failures.iter().any(|f| f.contains("f32 = oracle")));
}

/// The op names in the sources: what stands in quotes in the body of each `fn name(&self) -> &'static str` (or in the file's constant that it gives), and in
/// the rows of the pointwise tables.
fn names_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let text: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]).collect();
            let quoted = |text: &str| text.split('"').skip(1).step_by(2).map(str::to_string).collect::<Vec<_>>();
            for part in text.split("    fn name(&self) -> &'static str {").skip(1) {
                let body = part.split("\n    }").next().unwrap();
                found.extend(quoted(body));
                if let Some(constant) = text.lines().find(|l| l.starts_with("const OP:")).filter(|_| body.trim() == "OP") {
                    found.extend(quoted(constant));
                }
            }
            if path.parent().is_some_and(|p| p.ends_with("pointwise")) {
                for line in text.lines() {
                    let mut words = line.strip_prefix("    ").unwrap_or("").split(' ');
                    if let (Some(name), Some(method)) = (words.next(), words.next())
                        && method.starts_with("try_")
                        && !name.is_empty()
                    {
                        found.insert(name.to_string());
                    }
                }
            }
            found.extend(
                text.split("Def {")
                    .skip(1)
                    .filter_map(|def| def.split('}').next()?.split("name: \"").nth(1)?.split('"').next().map(str::to_string)),
            );
        }
    }
}

/// Ops that have no case in the harness, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("wrong_square", "planted"),
    ("to", "copies between devices: graphs.rs"),
    ("scatter_sorted", "the GPU's route to index_add: ops_movement.rs runs it there"),
    ("max_pool2d_take", "the second derivative of max_pool2d, which only the full check of its cases takes"),
];

#[test]
fn every_op_has_a_case() {
    let mut wanted = BTreeSet::new();
    names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops"), &mut wanted);
    assert!(wanted.len() > 130, "the sources were not read: {wanted:?}");
    #[cfg(feature = "linalg")]
    let cases = all().into_iter().chain(ops_fused::linear_algebra());
    #[cfg(not(feature = "linalg"))]
    let cases = all();
    let (_, seen) = testing::recorded(|| {
        for c in cases {
            let order = c.order();
            let run = || -> fornax::Result<()> {
                let mut t = tensors(&c, &arrays(&c, Lie::Plain), DType::F32, Lie::Plain, Device::cpu())?;
                t.iter_mut().filter(|t| t.dtype().is_float() && order > 0).for_each(|t| *t = t.requires_grad());
                let y = c.build(&t)?;
                if order > 0 {
                    let leaves: Vec<&Tensor> = t.iter().filter(|t| t.dtype().is_float()).collect();
                    fornax::grad(&[&y], &leaves)?;
                }
                Ok(())
            };
            run().unwrap_or_else(|e| panic!("{}: {e}", c.name));
        }
    });
    let missing: Vec<&String> = wanted.iter().filter(|n| !seen.contains(n.as_str()) && !ELSEWHERE.iter().any(|(e, _)| e == n)).collect();
    assert!(missing.is_empty(), "ops without a case in tests/all: {missing:?}");
    let stale: Vec<&str> = ELSEWHERE.iter().map(|e| e.0).filter(|n| seen.contains(n)).collect();
    assert!(stale.is_empty(), "ops that have a case after all: {stale:?}");
    println!("{} kinds of op are covered", seen.len());
}

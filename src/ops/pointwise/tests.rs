//! Tests of the table: every WGSL row parses and validates, every CPU row runs, the special values are right.

use super::*;
use crate::codegen::wgsl_program::chunks;
use crate::ops::{create, random};

fn generators() -> Vec<&'static Row> {
    [create::ROWS, random::ROWS].concat()
}

/// The WGSL type of a register.
fn register(d: DType) -> &'static str {
    match d {
        DType::Bool => "bool",
        DType::I32 => "i32",
        DType::U32 | DType::U8 => "u32",
        _ => "f32",
    }
}

/// The WGSL type of argument `k` of a row computed in `d`.
fn argument(row: &Row, k: usize, d: DType) -> &'static str {
    match row.rule {
        Rule::Select if k == 0 => "bool",
        Rule::Generator if k == 0 => "u32",
        Rule::Generator if row.def.name == "triangle" => ["u32", "u32", "u32", "i32"][k],
        Rule::Generator if row.def.name.starts_with("random") => "u32",
        _ => register(d),
    }
}

fn validate(source: &str) {
    let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(source)));
    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{e:?}\n{source}"));
}

#[test]
fn every_wgsl_row_validates() {
    let mut count = 0;
    let mut preludes = std::collections::BTreeSet::new();
    for row in rows().iter().copied().chain(generators()) {
        for d in DType::ALL.into_iter().filter(|d| d.on_gpu() && d.compute() == *d) {
            let Some(expr) = (row.def.wgsl)(d) else {
                assert!((row.def.cpu)(d).is_none(), "{} on {d} is on the CPU and not on the GPU", row.def.name);
                continue;
            };
            assert!((row.def.cpu)(d).is_some(), "{} on {d} is on the GPU and not on the CPU", row.def.name);
            let arity = (0..8).rev().find(|k| expr.contains(&format!("${k}"))).map_or(0, |k| k + 1);
            let mut body = expr.to_string();
            let mut params = String::new();
            for k in (0..arity).rev() {
                body = body.replace(&format!("${k}"), &format!("a{k}"));
                params.insert_str(0, &format!("a{k}: {}, ", argument(row, k, d)));
            }
            let out = match row.rule {
                Rule::Compare | Rule::Logical => "bool",
                Rule::Generator if row.def.name.starts_with("random") => random::wgsl_result(row),
                _ => register(d),
            };
            validate(&format!(
                "{}\nfn f({params}) -> {out} {{\n    let y: {out} = {body};\n    return y;\n}}\n@compute @workgroup_size(1)\nfn main() {{}}\n",
                row.def.prelude
            ));
            count += 1;
        }
        preludes.insert(row.def.prelude);
    }
    // All preludes together: no name is defined twice, but by the same text.
    let all: std::collections::BTreeSet<&str> = preludes.into_iter().flat_map(chunks).collect();
    let all: Vec<&str> = all.into_iter().collect();
    validate(&format!("{}\n@compute @workgroup_size(1)\nfn main() {{}}\n", all.join("\n")));
    assert!(count > 170, "{count}");
}

/// Runs a row on one element.
fn run<A: Copy, R: Copy + Default>(row: &Row, d: DType, args: &[A]) -> R {
    let f = (row.def.cpu)(d).unwrap();
    let mut out = [R::default()];
    let pointers: SmallVec<[*const u8; 4]> = args.iter().map(|a| a as *const A as *const u8).collect();
    unsafe { f(1, &pointers, out.as_mut_ptr() as *mut u8) };
    out[0]
}

#[test]
fn f32_follows_f64() {
    let mut count = 0;
    for row in rows() {
        let (Some(_), Some(_)) = ((row.def.cpu)(DType::F32), (row.def.cpu)(DType::F64)) else { continue };
        if row.rule == Rule::Select || row.rule == Rule::Compare {
            continue;
        }
        for step in 0..40 {
            let at = |k: usize, (lo, hi): (f64, f64)| (lo + (hi - lo) * ((step * (7 + 4 * k) + 3) % 41) as f64 / 41.0) as f32;
            let a: Vec<f32> = row.domain.iter().enumerate().map(|(k, &r)| at(k, r)).collect();
            let wide: Vec<f64> = a.iter().map(|&v| v as f64).collect();
            let (y, z): (f32, f64) = (run(row, DType::F32, &a), run(row, DType::F64, &wide));
            // A quotient may fall on either side of an integer in the two precisions.
            let jump = matches!(row.def.name, "rem" | "fmod" | "floor_div") && (y as f64 - z).abs() > 0.5;
            assert!(jump || (y as f64 - z).abs() <= 1e-6 * (1.0 + z.abs()), "{}{a:?} = {y}, in f64 {z}", row.def.name);
            count += 1;
        }
    }
    assert!(count > 40 * 45, "{count}");
}

#[test]
fn nan_zero_and_sign_rules() {
    let nan = f32::NAN;
    let un = |row: &Row, x: f32| -> f32 { run(row, DType::F32, &[x]) };
    let bi = |row: &Row, a: f32, b: f32| -> f32 { run(row, DType::F32, &[a, b]) };
    use activation::rows as act;
    use binary::rows as bin;
    use unary::rows as una;
    assert!(bi(&bin::maximum, nan, 1.0).is_nan() && bi(&bin::maximum, 1.0, nan).is_nan() && bi(&bin::minimum, 1.0, nan).is_nan());
    assert!(un(&una::sign, nan).is_nan() && un(&act::relu, nan).is_nan());
    assert_eq!((un(&act::relu, f32::NEG_INFINITY), un(&act::relu, f32::INFINITY)), (0.0, f32::INFINITY));
    assert_eq!((un(&una::round, 2.5), un(&una::round, 3.5), un(&una::round, -0.5)), (2.0, 4.0, 0.0));
    assert_eq!((bi(&bin::rem, -7.0, 4.0), bi(&bin::fmod, -7.0, 4.0), bi(&bin::floor_div, -7.0, 4.0)), (1.0, -3.0, -2.0));
    assert_eq!((bi(&bin::rem, 7.0, -4.0), bi(&bin::fmod, 7.0, f32::INFINITY), bi(&bin::floor_div, 1.0, 0.0)), (-1.0, 7.0, f32::INFINITY));
    assert_eq!((un(&una::sin, 1e9), un(&una::cos, -3e7)), (1e9f32.sin(), (-3e7f32).cos()));
    assert!(un(&una::sin, f32::INFINITY).is_nan());
    let int = |row: &Row, a: i32, b: i32| -> i32 { run(row, DType::I32, &[a, b]) };
    for (a, b, rem, fmod, div) in
        [(7, 4, 3, 3, 1), (-7, 4, 1, -3, -2), (7, -4, -1, 3, -2), (-7, -4, -3, -3, 1), (5, 0, 0, 0, 0), (i32::MIN, -1, 0, 0, i32::MIN)]
    {
        assert_eq!((int(&bin::rem, a, b), int(&bin::fmod, a, b), int(&bin::floor_div, a, b)), (rem, fmod, div), "{a} by {b}");
    }
    assert_eq!((int(&bin::pow, 3, 4), int(&bin::pow, -1, -3), int(&bin::pow, 2, -1), int(&bin::pow, 2, 40)), (81, -1, 0, 0));
    assert_eq!((int(&bin::shl, 1, 31), int(&bin::shl, 1, 32), int(&bin::shr, -8, 40), int(&bin::shr, -8, 1)), (i32::MIN, 0, -1, -4));
    assert_eq!(int(&bin::add, i32::MAX, 1), i32::MIN);
}

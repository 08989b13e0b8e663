//! Activations, functions, reductions, indexing, rearranging and sorting against PyTorch: values and gradients, on both backends. The files
//! come from `tests/golden/gen_ops.py`.

use crate::golden_cases::{Case, Ins, Outs, one, run};
use fornax::{Axes, PadMode, PoolOptions, Result, Tensor, s};

type Unary = fn(&Tensor) -> Result<Tensor>;

const ACTIVATIONS: &[(&str, Unary)] = &[
    ("relu", |x| x.try_relu()),
    ("leaky_relu", |x| x.try_leaky_relu(0.1)),
    ("elu", |x| x.try_elu(0.7)),
    ("selu", |x| x.try_selu()),
    ("gelu", |x| x.try_gelu()),
    ("gelu_tanh", |x| x.try_gelu_tanh()),
    ("silu", |x| x.try_silu()),
    ("mish", |x| x.try_mish()),
    ("softplus", |x| x.try_softplus(1.0)),
    ("softplus_sharp", |x| x.try_softplus(2.5)),
    ("sigmoid", |x| x.try_sigmoid()),
    ("tanh", |x| x.try_tanh()),
    ("hardswish", |x| x.try_hardswish()),
    ("hardsigmoid", |x| x.try_hardsigmoid()),
    ("softsign", |x| x.try_softsign()),
];

const FUNCTIONS: &[(&str, Unary)] = &[
    ("exp", |x| x.try_exp()),
    ("exp2", |x| x.try_exp2()),
    ("expm1", |x| x.try_expm1()),
    ("sin", |x| x.try_sin()),
    ("cos", |x| x.try_cos()),
    ("tan", |x| x.try_tan()),
    ("atan", |x| x.try_atan()),
    ("sinh", |x| x.try_sinh()),
    ("cosh", |x| x.try_cosh()),
    ("asinh", |x| x.try_asinh()),
    ("acosh", |x| x.try_acosh()),
    ("atanh", |x| x.try_atanh()),
    ("asin", |x| x.try_asin()),
    ("acos", |x| x.try_acos()),
    ("erf", |x| x.try_erf()),
    ("square", |x| x.try_square()),
    ("abs", |x| x.try_abs()),
    ("neg", |x| x.try_neg()),
    ("log", |x| x.try_log()),
    ("log2", |x| x.try_log2()),
    ("log10", |x| x.try_log10()),
    ("log1p", |x| x.try_log1p()),
    ("sqrt", |x| x.try_sqrt()),
    ("rsqrt", |x| x.try_rsqrt()),
    ("reciprocal", |x| x.try_recip()),
    ("floor", |x| x.try_floor()),
    ("ceil", |x| x.try_ceil()),
    ("round", |x| x.try_round()),
    ("trunc", |x| x.try_trunc()),
    ("frac", |x| x.try_fract()),
    ("sign", |x| x.try_sign()),
    ("pow_0", |x| x.try_pow(0)),
    ("pow_1", |x| x.try_pow(1)),
    ("pow_2", |x| x.try_pow(2)),
    ("pow_3", |x| x.try_pow(3)),
    ("pow_m1", |x| x.try_pow(-1)),
    ("pow_m2", |x| x.try_pow(-2)),
    ("pow_0_5", |x| x.try_pow(0.5)),
    ("pow_negative", |x| x.try_pow(3)),
    ("clamp", |x| x.try_clamp(-1.0, 1.5)),
];

type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

const BINARY: &[(&str, Binary)] = &[
    ("add_two", |x, y| x.try_add(y)),
    ("sub_two", |x, y| x.try_sub(y)),
    ("mul_two", |x, y| x.try_mul(y)),
    ("div_two", |x, y| x.try_div(y)),
    ("remainder_two", |x, y| x.try_rem(y)),
    ("fmod_two", |x, y| x.try_fmod(y)),
    ("maximum_two", |x, y| x.try_maximum(y)),
    ("minimum_two", |x, y| x.try_minimum(y)),
    ("atan2_two", |x, y| x.try_atan2(y)),
    ("floor_divide", |x, y| x.try_floor_div(y)),
    ("pow_two", |x, y| x.try_pow(y)),
    ("maximum_ties", |x, y| x.try_maximum(y)),
    ("minimum_ties", |x, y| x.try_minimum(y)),
];

fn find<F: Copy>(table: &[(&str, F)], name: &str) -> Option<F> {
    table.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

fn activations(name: &str) -> Option<Case> {
    let f = find(ACTIVATIONS, name)?;
    Some(Box::new(move |i| one(f(&i["x"]))))
}

fn functions(name: &str) -> Option<Case> {
    if let Some(f) = find(FUNCTIONS, name) {
        return Some(Box::new(move |i| one(f(&i["x"]))));
    }
    if let Some(f) = find(BINARY, name) {
        return Some(Box::new(move |i| one(f(&i["x"], &i["y"]))));
    }
    Some(match name {
        "where" => Box::new(|i| one(i["m"].try_where(&i["x"], &i["y"]))),
        "masked_fill" => Box::new(|i| one(i["x"].try_masked_fill(&i["m"], -7.5))),
        _ => return None,
    })
}

fn axes(name: &str) -> Axes {
    match name {
        "first" => 0.into(),
        "middle" => 1.into(),
        "last" => 2.into(),
        "outer" => [0, 2].into(),
        "inner" => [1, 2].into(),
        _ => ().into(),
    }
}

fn reductions(name: &str) -> Option<Case> {
    let (kind, rest) = name.split_once('_')?;
    let single: Option<Unary> = match name {
        "max_ties" => Some(|x| x.try_max(1)),
        "logsumexp_large" => Some(|x| x.try_logsumexp(1)),
        "norm_zero" => Some(|x| x.try_norm(2.0, 1)),
        "prod_last" => Some(|x| x.try_prod(1)),
        "prod_first" => Some(|x| x.try_prod(0)),
        "prod_all" => Some(|x| x.try_prod(())),
        _ => None,
    };
    if let Some(f) = single {
        return Some(Box::new(move |i| one(f(&i["x"]))));
    }
    if kind == "linear" {
        let back = rest.ends_with("back");
        return Some(Box::new(move |i| one(i["x"].try_linear_scan(&i["factors"], 1, back))));
    }
    if let Ok(axis) = rest.parse::<isize>() {
        return Some(match kind {
            "cumsum" => Box::new(move |i| one(i["x"].try_cumsum(axis))),
            "cumprod" => Box::new(move |i| one(i["x"].try_cumprod(axis))),
            "cummax" => Box::new(move |i| pair(i["x"].try_cummax(axis))),
            "argmax" => Box::new(move |i| one(i["x"].try_argmax(axis))),
            "argmin" => Box::new(move |i| one(i["x"].try_argmin(axis))),
            "any" => Box::new(move |i| one(i["m"].try_any(axis))),
            "all" => Box::new(move |i| one(i["m"].try_all(axis))),
            _ => return None,
        });
    }
    let over = axes(rest.rsplit('_').next()?);
    let f: Box<dyn Fn(&Tensor) -> Result<Tensor>> = match kind {
        "sum" => Box::new(move |x| x.try_sum(over.clone())),
        "mean" => Box::new(move |x| x.try_mean(over.clone())),
        "var0" => Box::new(move |x| x.try_var(over.clone(), 0.0)),
        "var1" => Box::new(move |x| x.try_var(over.clone(), 1.0)),
        "std0" => Box::new(move |x| x.try_std(over.clone(), 0.0)),
        "std1" => Box::new(move |x| x.try_std(over.clone(), 1.0)),
        "norm0" => Box::new(move |x| x.try_norm(0.5, over.clone())),
        "norm1" => Box::new(move |x| x.try_norm(1.0, over.clone())),
        "norm2" => Box::new(move |x| x.try_norm(2.0, over.clone())),
        "norm3" => Box::new(move |x| x.try_norm(3.0, over.clone())),
        "normneg1" => Box::new(move |x| x.try_norm(-1.0, over.clone())),
        "normneg2" => Box::new(move |x| x.try_norm(-2.5, over.clone())),
        "normneginf" => Box::new(move |x| x.try_norm(f64::NEG_INFINITY, over.clone())),
        "norminf" => Box::new(move |x| x.try_norm(f64::INFINITY, over.clone())),
        "logsumexp" => Box::new(move |x| x.try_logsumexp(over.clone())),
        "max" => Box::new(move |x| x.try_max(over.clone())),
        "min" => Box::new(move |x| x.try_min(over.clone())),
        _ => return None,
    };
    Some(Box::new(move |i| one(f(&i["x"]))))
}

/// Values and their places.
fn pair(found: Result<(Tensor, Tensor)>) -> Result<Outs> {
    let (y, index) = found?;
    Ok(vec![("y", y), ("index", index)])
}

fn indexing(name: &str) -> Option<Case> {
    type F = fn(&Ins) -> Result<Tensor>;
    let table: &[(&str, F)] = &[
        ("gather_small", |i| i["x"].try_gather(1, &i["i"])),
        ("scatter_add_small", |i| i["x"].try_scatter_add(1, &i["i"], &i["s"])),
        ("take_along", |i| i["x"].try_take_along(1, &i["i"])),
        ("embedding", |i| i["w"].try_embedding(&i["i"])),
        ("index_rows", |i| i["x"].try_index(s![&i["i"]])),
        ("index_points", |i| i["x"].try_index(s![&i["i"], &i["j"]])),
        ("index_apart", |i| i["x"].try_index(s![&i["i"], .., &i["j"]])),
        ("index_inner", |i| i["x"].try_index(s![.., &i["i"], &i["j"]])),
        ("masked_select", |i| i["x"].masked_select(&i["m"])),
        ("slice_put", |i| i["x"].try_index_set(s![1..3, ..;2], &i["v"])),
        ("nonzero", |i| i["m"].nonzero()),
        ("one_hot", |i| i["i"].try_one_hot(6)),
        ("bincount", |i| i["i"].bincount(9)),
    ];
    if let Some(f) = find(table, name) {
        return Some(Box::new(move |i| one(f(i))));
    }
    let (kind, rest) = name.rsplit_once('_')?;
    if kind == "pool" {
        let plain = PoolOptions::default();
        let (kernel, options) = match rest {
            "plain" => ([2, 2], plain),
            "overlap" => ([3, 3], PoolOptions { stride: Some(2.into()), padding: 1.into(), ..plain }),
            _ => ([3, 2], PoolOptions { stride: Some([2, 1].into()), dilation: [1, 2].into(), ..plain }),
        };
        return Some(Box::new(move |i| pair(i["x"].try_max_pool2d_with_indices(kernel, options))));
    }
    let axis: isize = rest.parse().ok()?;
    Some(match kind {
        "gather" => Box::new(move |i| one(i["x"].try_gather(axis, &i["i"]))),
        "scatter" => Box::new(move |i| one(i["x"].try_scatter(axis, &i["i"], &i["s"]))),
        "scatter_add" => Box::new(move |i| one(i["x"].try_scatter_add(axis, &i["i"], &i["s"]))),
        "index_select" => Box::new(move |i| one(i["x"].try_index_select(axis, &i["i"]))),
        "index_add" => Box::new(move |i| one(i["x"].try_index_add(axis, &i["i"], &i["s"]))),
        _ => return None,
    })
}

/// Several outputs, called a, b, c.
fn several(parts: Result<Vec<Tensor>>) -> Result<Outs> {
    Ok(["a", "b", "c"].into_iter().zip(parts?).collect())
}

fn rearranging(name: &str) -> Option<Case> {
    type F = fn(&Ins) -> Result<Tensor>;
    let table: &[(&str, F)] = &[
        ("roll_last", |i| i["x"].try_roll(2, 3)),
        ("roll_back", |i| i["x"].try_roll(-1, 1)),
        ("flip_one", |i| i["x"].try_flip(2)),
        ("flip_all", |i| i["x"].try_flip(())),
        ("tile_more", |i| i["x"].try_repeat(&[2, 3, 1, 2])),
        ("tile_less", |i| i["x"].try_tile(&[2])),
        ("cat_three", |i| Tensor::try_cat(&[&i["x"], &i["y"], &i["z"]], 1)),
        ("stack_two", |i| Tensor::try_stack(&[&i["x"], &i["y"]], -1)),
        ("movedim", |i| i["x"].try_movedim(1, -1)),
        ("permute", |i| i["x"].try_permute(&[2, 0, 3, 1])),
        ("expand", |i| i["x"].try_expand([4, 3, 5])),
        ("windows", |i| i["x"].try_windows(1, 3, 2, 1)?.try_movedim(2, -1)),
        ("meet", |i| i["x"].try_select(0, 0)?.try_mul(&i["x"].try_select(0, 1)?)?.try_add(i["x"].try_sum(0)?)),
    ];
    if let Some(f) = find(table, name) {
        return Some(Box::new(move |i| one(f(i))));
    }
    Some(match name {
        "split_sizes" => Box::new(|i| several(i["x"].try_split([1, 2, 3], 1))),
        "chunk_three" => Box::new(|i| several(i["x"].try_chunk(3, 0))),
        "unbind" => Box::new(|i| several(i["x"].try_unbind(1))),
        _ if name.starts_with("pad_") => {
            let line = name.ends_with("_line");
            let mode = match name.split('_').nth(1)? {
                "constant" => PadMode::Constant(if line { -1.0 } else { 0.5 }),
                "reflect" => PadMode::Reflect,
                "replicate" => PadMode::Replicate,
                _ => PadMode::Circular,
            };
            let pads: &[(usize, usize)] = if line { &[(2, 3)] } else { &[(1, 2), (3, 1)] };
            Box::new(move |i| one(i["x"].try_pad(pads, mode)))
        }
        _ => {
            let (kind, k) = name.rsplit_once('_')?;
            let k = k.parse::<isize>().ok()? - 2;
            match kind {
                "tril" => Box::new(move |i| one(i["x"].try_tril(k))),
                "triu" => Box::new(move |i| one(i["x"].try_triu(k))),
                "diagonal" => Box::new(move |i| one(i["x"].try_diagonal(k, 1, 2))),
                _ => return None,
            }
        }
    })
}

fn sorting(name: &str) -> Option<Case> {
    let axis = name.rsplit('_').next().and_then(|a| a.parse().ok()).unwrap_or(if name == "sort_long" { 0 } else { 1 });
    let down = name.contains("_down");
    Some(match name.split('_').next()? {
        "sort" => Box::new(move |i| pair(i["x"].try_sort(axis, down))),
        "argsort" => Box::new(move |i| one(i["x"].try_argsort(axis, down))),
        "topk" => Box::new(move |i| pair(i["x"].try_topk(3, axis, down))),
        "searchsorted" => {
            let right = name.ends_with("right");
            Box::new(move |i| one(i["e"].try_searchsorted(&i["v"], right)))
        }
        "unique" => Box::new(|i| {
            let u = i["i"].unique()?;
            Ok(vec![("y", u.values), ("inverse", u.inverse), ("counts", u.counts)])
        }),
        _ => return None,
    })
}

#[test]
fn activations_agree_with_pytorch() {
    assert_eq!(run("activations", &activations), ACTIVATIONS.len());
}

#[test]
fn functions_agree_with_pytorch() {
    assert_eq!(run("functions", &functions), FUNCTIONS.len() + BINARY.len() + 2);
}

#[test]
fn reductions_agree_with_pytorch() {
    assert_eq!(run("reductions", &reductions), 106);
    assert_eq!(run("norms", &reductions), 9);
}

#[test]
fn indexing_agrees_with_pytorch() {
    assert_eq!(run("indexing", &indexing), 31);
}

#[test]
fn rearranging_agrees_with_pytorch() {
    assert_eq!(run("rearranging", &rearranging), 33);
}

#[test]
fn sorting_agrees_with_pytorch() {
    assert_eq!(run("sorting", &sorting), 19);
}

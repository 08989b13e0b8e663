//! Gathering, scattering, joining, padding.

use crate::harness::*;
use fornax::Tensor;

pub fn cases() -> Vec<Case> {
    vec![
        case("cat", &[real(&[2, 3]), real(&[2, 1]), real(&[2, 2])], |t| Tensor::try_cat(&[&t[0], &t[1], &t[2]], 1)).oracle(|a| {
            (0..2)
                .flat_map(|r| [3, 1, 2].into_iter().enumerate().flat_map(move |(k, n)| (0..n).map(move |c| (k, r * n + c))))
                .map(|(k, i)| a[k].v[i])
                .collect()
        }),
        case("cat axis 0", &[real(&[2, 3]), real(&[1, 3])], |t| Tensor::try_cat(&[&t[0], &t[1], &t[0]], 0)),
        case("cat with nothing", &[real(&[2, 3]), real(&[0, 3])], |t| Tensor::try_cat(&[&t[0], &t[1]], 0)),
        case("stack", &[real(&[2, 3]), real(&[2, 3])], |t| Tensor::try_stack(&[&t[0], &t[1]], 1)),
        case("slice_assign", &[real(&[4, 3]), real(&[2, 2])], |t| t[0].try_slice_assign(&[1..3, 0..2], &t[1])),
        case("index_set", &[real(&[4, 3]), real(&[3])], |t| t[0].try_index_set(fornax::s![1..;2], &t[1])),
        case("gather", &[real(&[3, 4]), int(0, 4, &[3, 2])], |t| t[0].try_gather(1, &t[1]))
            .oracle(|a| (0..6).map(|i| a[0].v[i / 2 * 4 + a[1].v[i] as usize]).collect()),
        case("gather axis 0", &[real(&[3, 4]), int(0, 3, &[5, 4])], |t| t[0].try_gather(0, &t[1])),
        case("index_select", &[real(&[4, 3]), int(0, 4, &[6])], |t| t[0].try_index_select(0, &t[1]))
            .oracle(|a| (0..18).map(|i| a[0].v[a[1].v[i / 3] as usize * 3 + i % 3]).collect()),
        case("index_select axis 1", &[real(&[4, 3]), int(0, 3, &[5])], |t| t[0].try_index_select(1, &t[1])),
        case("index_add", &[real(&[4, 3]), int(0, 4, &[6]), real(&[6, 3])], |t| t[0].try_index_add(0, &t[1], &t[2])).oracle(|a| {
            let mut out = a[0].v.clone();
            (0..18).for_each(|i| out[a[1].v[i / 3] as usize * 3 + i % 3] += a[2].v[i]);
            out
        }),
        case("scatter_add", &[real(&[3, 4]), int(0, 3, &[5, 4]), real(&[5, 4])], |t| t[0].try_scatter_add(0, &t[1], &t[2])).oracle(|a| {
            let mut out = a[0].v.clone();
            (0..20).for_each(|i| out[a[1].v[i] as usize * 4 + i % 4] += a[2].v[i]);
            out
        }),
        case("scatter", &[real(&[3, 5]), real(&[3, 2])], |t| {
            let ids = Tensor::from_vec(vec![4, 0, 1, 2, 3, 1], [3, 2], t[0].device())?;
            t[0].try_scatter(1, &ids, &t[1])
        }),
        // Few lines and many indices: sorted first on the GPU.
        case("scatter_add, long", &[real(&[2, 7]), int(0, 7, &[2, 90]), real(&[2, 90])], |t| t[0].try_scatter_add(1, &t[1], &t[2])).oracle(
            |a| {
                let mut out = a[0].v.clone();
                (0..180).for_each(|i| out[i / 90 * 7 + a[1].v[i] as usize] += a[2].v[i]);
                out
            },
        ),
        case("scatter_add axis 0, long", &[real(&[5, 3]), int(0, 5, &[40, 3]), real(&[40, 3])], |t| t[0].try_scatter_add(0, &t[1], &t[2])),
        case("scatter, long, the last stays", &[real(&[7]), int(0, 7, &[50]), real(&[50])], |t| t[0].try_scatter(0, &t[1], &t[2])).oracle(
            |a| {
                let mut out = a[0].v.clone();
                (0..50).for_each(|i| out[a[1].v[i] as usize] = a[2].v[i]);
                out
            },
        ),
        case("scatter, the last stays", &[real(&[3, 4]), int(0, 4, &[3, 6]), real(&[3, 6])], |t| t[0].try_scatter(1, &t[1], &t[2])).oracle(
            |a| {
                let mut out = a[0].v.clone();
                (0..18).for_each(|i| out[i / 6 * 4 + a[1].v[i] as usize] = a[2].v[i]);
                out
            },
        ),
        case("index_add, long", &[real(&[4, 3]), int(0, 4, &[70]), real(&[70, 3])], |t| t[0].try_index_add(0, &t[1], &t[2])),
        case("index_select, long", &[real(&[5, 3]), int(0, 5, &[70])], |t| t[0].try_index_select(0, &t[1])),
        case("scatter_add with a smaller index", &[real(&[3, 4, 2]), int(0, 4, &[2, 5, 1]), real(&[3, 5, 2])], |t| {
            t[0].try_scatter_add(1, &t[1], &t[2])
        }),
        case("gather with a smaller index", &[real(&[3, 4, 2]), int(0, 4, &[2, 5, 1])], |t| t[0].try_gather(1, &t[1])),
        case("take_along", &[real(&[3, 1, 2]), int(0, 2, &[1, 4, 5])], |t| t[0].try_take_along(2, &t[1])),
        case("slice_assign_at", &[real(&[4, 3, 2]), real(&[4, 1, 2])], |t| t[0].try_slice_assign_at(1, 2, &t[1])),
        case("slice_assign broadcast", &[real(&[4, 3]), real(&[2])], |t| t[0].try_slice_assign(&[1..4, 0..2], &t[1])),
        case("cat of nine", &[real(&[2, 3])], |t| Tensor::try_cat(&[&t[0]; 9], 1)),
        case("cat of a transpose", &[real(&[3, 3])], |t| Tensor::try_cat(&[&t[0], &t[0].try_t()?], 0)),
        case("embedding", &[real(&[5, 3]), int(0, 5, &[2, 4])], |t| t[0].try_embedding(&t[1])),
        case("pad constant", &[real(&[2, 3])], |t| t[0].try_pad(&[(1, 0), (2, 1)], fornax::PadMode::Constant(0.5))),
        case("pad reflect", &[real(&[3, 4])], |t| t[0].try_pad(&[(1, 2), (3, 1)], fornax::PadMode::Reflect)),
        case("pad replicate", &[real(&[2, 3])], |t| t[0].try_pad(&[(1, 0), (2, 1)], fornax::PadMode::Replicate)),
        case("pad circular", &[real(&[2, 3])], |t| t[0].try_pad(&[(1, 0), (2, 1)], fornax::PadMode::Circular)),
        case("index with tensors", &[real(&[3, 4, 2]), int(-3, 3, &[2, 1]), int(-4, 4, &[3])], |t| {
            t[0].try_index(fornax::s![&t[1], &t[2]])
        }),
        case("index with tensors apart", &[real(&[3, 4, 2]), int(-3, 3, &[5]), int(-2, 2, &[5])], |t| {
            t[0].try_index(fornax::s![&t[1], 1..;2, &t[2]])
        }),
        case("index in the middle", &[real(&[2, 3, 2]), int(-3, 3, &[2, 2])], |t| t[0].try_index(fornax::s![.., &t[1]])),
        case("large cat", &[real(&[301, 257]), real(&[301, 3])], |t| Tensor::try_cat(&[&t[0], &t[1]], 1)).large(),
        case("large gather", &[real(&[1031, 130]), int(0, 1031, &[777])], |t| t[0].try_index_select(0, &t[1])).large(),
        case("large index_add", &[real(&[131, 257]), int(0, 131, &[2000]), real(&[2000, 257])], |t| t[0].try_index_add(0, &t[1], &t[2]))
            .large()
            .tol(1e-4),
    ]
}

#[test]
fn movement() {
    check_all(&cases(), &[("gradient", 327), ("second derivative", 68), ("second, by element", 21), ("gpu = cpu", 34)]);
}

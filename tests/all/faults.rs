//! Faults, and figures of the whole process: each in a process of its own.

use crate::harness::isolated;

#[test]
fn indices_out_of_range() {
    isolated("faults::alone::indices_out_of_range_are_errors_when_read");
    isolated("ops_fused::a_class_out_of_range_is_an_error");
    isolated("edges::classes_out_of_range_fault");
    isolated("edges::weights_that_are_no_distribution_fault");
}

#[test]
fn a_profile_is_printed_at_the_end() {
    let exe = std::env::current_exe().unwrap();
    let args = ["--exact", "faults::alone::chains_are_one_kernel", "--ignored", "--test-threads=1"];
    let out = std::process::Command::new(exe).args(args).env("FORNAX_PROFILE", "1").output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    let table = text.split("\n\n").find(|t| t.trim_start().starts_with("cpu: ")).unwrap_or_else(|| panic!("no table of the CPU in {text}"));
    let row = table.lines().find(|l| l.contains("  fused ")).unwrap_or_else(|| panic!("no fused kernel in {table}"));
    let share: f64 = row.split_whitespace().nth(6).unwrap().parse().unwrap();
    assert!(table.contains("measured peaks") && table.contains("roof %") && share > 0.0, "{table}");
}

#[test]
fn display_of_a_fault() {
    isolated("faults::alone::display_never_panics");
}

#[test]
fn absurd_sizes() {
    isolated("faults::alone::absurd_sizes_are_errors_and_leave_the_graph_usable");
}

#[test]
fn memory_of_a_training_loop() {
    isolated("faults::alone::a_training_loop_is_flat");
}

#[test]
fn memory_of_a_decoding_loop() {
    isolated("faults::alone::a_decoding_loop_writes_its_cache_in_place");
}

#[test]
fn fusion_counts() {
    isolated("faults::alone::chains_are_one_kernel");
}

mod alone {
    use crate::harness::gpu;
    use fornax::{Device, Error, Tensor, s, stats};

    const CPU: Device = Device::cpu();

    #[test]
    #[ignore = "runs in a process of its own"]
    fn indices_out_of_range_are_errors_when_read() {
        for device in [Some(CPU), gpu()].into_iter().flatten() {
            let x = Tensor::from_vec(vec![1f32, 2.0, 3.0], 3, device).unwrap();
            let ids = |v: Vec<i32>| Tensor::from_slice(&v, v.len(), device).unwrap();
            let y = x.index_select(0, &ids(vec![0, 7]));
            assert!(matches!(y.to_vec::<f32>(), Err(Error::Index { .. })), "{device}");
            let good = x.index_select(0, &ids(vec![0, 2]));
            assert_eq!(good.to_vec::<f32>().unwrap(), [1.0, 3.0], "the fault is cleared on {device}");
            for y in [
                x.index(s![&ids(vec![-4])]),
                x.gather(0, &ids(vec![3])),
                x.scatter(0, &ids(vec![-1]), &x.narrow(0, 0, 1)),
                x.index_add(0, &ids(vec![9]), &x.narrow(0, 0, 1)),
                x.embedding_of(&ids(vec![5])),
            ] {
                assert!(matches!(y.to_vec::<f32>(), Err(Error::Index { .. })), "{device}: {y:?}");
            }
            assert!(matches!(ids(vec![-1]).bincount(0), Err(Error::Index { .. })));
            assert_eq!(x.index(s![&ids(vec![-3])]).to_vec::<f32>().unwrap(), [1.0]);
        }
    }

    trait Embedding {
        fn embedding_of(&self, ids: &Tensor) -> Tensor;
    }
    impl Embedding for Tensor {
        fn embedding_of(&self, ids: &Tensor) -> Tensor {
            self.unsqueeze(1).embedding(ids).squeeze(1)
        }
    }

    #[test]
    #[ignore = "runs in a process of its own"]
    fn display_never_panics() {
        let x = Tensor::ones(3, CPU);
        let bad = x.index_select(0, &Tensor::from_vec(vec![9], 1, CPU).unwrap());
        let text = bad.to_string();
        assert!(text.starts_with('<') && text.ends_with('>'), "{text}");
    }

    #[test]
    #[ignore = "runs in a process of its own"]
    fn absurd_sizes_are_errors_and_leave_the_graph_usable() {
        let small = Tensor::ones(4, CPU) + 1.0;
        let other = Tensor::ones(3, CPU) * 2.0;
        let column = Tensor::zeros([1 << 20, 1], CPU);
        let big = column.matmul(&(column.t() + small.sum(())));
        for _ in 0..2 {
            assert!(matches!(big.eval(), Err(Error::OutOfMemory { .. })), "{:?}", big.eval());
        }
        assert_eq!(other.to_vec::<f32>().unwrap(), [2.0; 3]);
        assert_eq!(small.to_vec::<f32>().unwrap(), [2.0; 4]);
        assert_eq!((&small * 2.0).sum(()).item::<f32>().unwrap(), 16.0);
        assert!(Tensor::try_zeros([usize::MAX, 2], CPU).is_err());
        // What is pending beside it runs, though it cannot: the error stays with the nodes that it concerns.
        let mut x = Tensor::zeros(10, CPU);
        for _ in 0..40_000 {
            x += 1.0;
        }
        assert_eq!(x.to_vec::<f32>().unwrap(), [40_000.0; 10]);
        assert!(big.eval().is_err());
    }

    /// A network, its loss, its gradients and an update, step after step.
    #[test]
    #[ignore = "runs in a process of its own"]
    fn a_training_loop_is_flat() {
        let x = Tensor::normal([256, 64], 0.0, 1.0, CPU);
        let target = x.sum_keepdim(1).tanh();
        let mut w: Vec<Tensor> = [[64, 128], [128, 128], [128, 1]].iter().map(|&s| Tensor::normal(s, 0.0, 0.1, CPU)).collect();
        fornax::eval(&[&x, &target, &w[0], &w[1], &w[2]]).unwrap();
        let mut figures = Vec::new();
        for step in 0..12 {
            let before = stats();
            fornax::reset_peak();
            let leaves: Vec<Tensor> = w.iter().map(Tensor::requires_grad).collect();
            let h = x.matmul(&leaves[0]).relu().matmul(&leaves[1]).gelu();
            let loss = (h.matmul(&leaves[2]) - &target).square().mean(());
            let g = loss.backward().unwrap();
            w = leaves.iter().map(|l| (l - g.get(l).unwrap() * 0.05).detach()).collect();
            drop((leaves, g, h));
            fornax::eval(&[&w[0], &w[1], &w[2], &loss]).unwrap();
            let now = stats();
            figures.push((now.cpu_bytes, now.cpu_peak_bytes, now.cpu_bytes + now.cpu_pooled_bytes, now.since(&before).dispatches));
            if step >= 3 {
                assert_eq!(now.since(&before).plan_misses, 0, "step {step} made a new plan: {figures:?}");
            }
        }
        assert!(figures[3..].iter().all(|f| f == &figures[3]), "{figures:?}");
        println!("{:?}", figures[3]);
    }

    #[test]
    #[ignore = "runs in a process of its own"]
    fn a_decoding_loop_writes_its_cache_in_place() {
        let mut cache = Tensor::zeros([512, 64], CPU);
        cache.eval().unwrap();
        let row = Tensor::ones([1, 64], CPU);
        row.eval().unwrap();
        let mut before = stats();
        for i in 0..100 {
            if i == 3 {
                before = stats();
            }
            cache = cache.slice_assign_at(0, i, &row);
            cache.eval().unwrap();
        }
        let done = stats().since(&before);
        assert_eq!((done.plan_misses, done.bytes_allocated), (0, 0), "{done:?}");
        assert_eq!(cache.sum(()).item::<f32>().unwrap(), 6400.0);
    }

    #[test]
    #[ignore = "runs in a process of its own"]
    fn chains_are_one_kernel() {
        let x = Tensor::ones([64, 64], CPU);
        let w = Tensor::ones([64, 64], CPU);
        fornax::eval(&[&x, &w]).unwrap();
        let count = |f: &dyn Fn() -> Tensor| {
            let before = stats();
            f().eval().unwrap();
            stats().since(&before).dispatches
        };
        assert_eq!(count(&|| ((&x * 2.0 + 1.0).tanh() - &w).exp()), 1, "a chain");
        assert_eq!(count(&|| ((&x - &w) * 3.0).square().sum(1)), 1, "a reduction eats its producers");
        assert_eq!(count(&|| (x.matmul(&w) + 1.0).gelu()), 1, "a product takes its tail along");
        assert_eq!(count(&|| x.t().slice(0, 0, 64, 3).flip(1).unsqueeze(0) + 1.0), 1, "views cost nothing");
    }
}

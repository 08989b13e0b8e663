//! Schedules against the learning rates and momenta of PyTorch's (tests/golden/gen_lr_scheduler.py).

use fornax::nn::Param;
use fornax::optim::lr_scheduler::*;
use fornax::optim::{AdamW, Optimizer, SGD};
use fornax::{Device, Result, Tensor};
use serde_json::Value;

fn optimizer(adam: bool) -> Box<dyn Optimizer> {
    let param = || [Param::new(Tensor::zeros(1, Device::cpu()))];
    if adam {
        Box::new(AdamW::new(param(), 1.0).group(param(), |g| g.lr(0.2)))
    } else {
        Box::new(SGD::new(param(), 1.0).momentum(0.5).group(param(), |g| g.lr(0.2)))
    }
}

fn make(name: &str) -> Box<dyn Schedule> {
    match name {
        "step" => Box::new(StepLR::new(7).gamma(0.3)),
        "multi_step" => Box::new(MultiStepLR::new([5, 5, 12]).gamma(0.3)),
        "constant" => Box::new(ConstantLR::new(0.25, 6)),
        "linear" => Box::new(LinearLR::new(0.1, 0.8, 9)),
        "linear_down" => Box::new(LinearLR::new(1.0, 0.0, 12)),
        "exponential" => Box::new(ExponentialLR::new(0.9)),
        "polynomial" => Box::new(PolynomialLR::new(15).power(1.7)),
        "cosine" => Box::new(CosineAnnealingLR::new(9).eta_min(0.05)),
        "restarts" => Box::new(CosineAnnealingWarmRestarts::new(5).t_mult(2).eta_min(0.01)),
        "restarts_equal" => Box::new(CosineAnnealingWarmRestarts::new(6)),
        "lambda" => Box::new(LambdaLR::new(|t| 0.95f64.powi(t as i32)).and(|t| 1.0 / (1.0 + t as f64))),
        "multiplicative" => Box::new(MultiplicativeLR::new(|t| if t % 3 == 0 { 0.9 } else { 1.0 })),
        "noam" => Box::new(NoamLR::new(64, 8)),
        "one_cycle" => Box::new(OneCycleLR::new(2.0, 40).max_lrs([2.0, 0.5])),
        "one_cycle_linear" => {
            let cycle = OneCycleLR::new(2.0, 43).pct_start(0.4).anneal(Anneal::Linear).three_phase(true);
            Box::new(cycle.div_factor(10.0).final_div_factor(100.0))
        }
        "one_cycle_adam" => Box::new(OneCycleLR::new(0.1, 40).base_momentum(0.8).max_momentum(0.9)),
        "cyclic" => Box::new(CyclicLR::new(0.1, 1.0).step_size_up(4).step_size_down(6)),
        "cyclic_groups" => Box::new(CyclicLR::new(0.1, 1.0).lrs([(0.1, 1.0), (0.01, 0.3)]).step_size_up(4).step_size_down(6)),
        "cyclic_halving" => {
            Box::new(CyclicLR::new(0.1, 1.0).step_size_up(5).mode(CyclicMode::Triangular2).base_momentum(0.7).max_momentum(0.95))
        }
        "cyclic_exponential" => Box::new(CyclicLR::new(0.1, 1.0).step_size_up(5).mode(CyclicMode::ExpRange(0.95)).cycle_momentum(false)),
        "swa" => Box::new(SWALR::new(0.05).anneal_epochs(7)),
        "swa_groups" => Box::new(SWALR::new(0.05).swa_lrs([0.05, 0.4]).anneal_epochs(7)),
        "swa_linear" => Box::new(SWALR::new(0.5).anneal_epochs(5).anneal(Anneal::Linear)),
        "swa_at_once" => Box::new(SWALR::new(0.5).anneal_epochs(0)),
        "chained" => Box::new(ChainedScheduler::new(ConstantLR::new(0.1, 4)).and(ExponentialLR::new(0.9))),
        "chained_three" => {
            let chain = ChainedScheduler::new(LinearLR::new(0.2, 1.0, 5)).and(StepLR::new(8).gamma(0.5));
            Box::new(chain.and(CosineAnnealingLR::new(30)))
        }
        "sequential" => Box::new(SequentialLR::new(LinearLR::new(0.1, 1.0, 5)).then(5, CosineAnnealingLR::new(35).eta_min(0.01))),
        "sequential_three" => {
            let first = SequentialLR::new(ConstantLR::new(0.5, 20)).then(6, ExponentialLR::new(0.8));
            Box::new(first.then(14, CosineAnnealingWarmRestarts::new(4).t_mult(2)).then(30, StepLR::new(3).gamma(0.5)))
        }
        "sequential_lambda" => {
            let first = SequentialLR::new(LambdaLR::new(|t| (t + 1) as f64 / 10.0)).then(10, PolynomialLR::new(20));
            Box::new(first.then(32, MultiStepLR::new([2, 4])))
        }
        "plateau" => Box::new(ReduceLROnPlateau::new().factor(0.5).patience(2).threshold(1e-2)),
        "plateau_max" => {
            Box::new(ReduceLROnPlateau::new().maximize(true).factor(0.5).patience(1).absolute(true).threshold(0.1).cooldown(2))
        }
        "plateau_floor" => Box::new(ReduceLROnPlateau::new().patience(0).min_lr(0.05).cooldown(1)),
        "plateau_floors" => Box::new(ReduceLROnPlateau::new().patience(1).min_lrs([0.05, 0.002])),
        "plateau_abs" => Box::new(ReduceLROnPlateau::new().factor(0.3).patience(3).absolute(true).threshold(0.05)),
        _ => panic!("no schedule {name}"),
    }
}

#[test]
fn values_equal_pytorchs() -> Result<()> {
    let golden: Value = serde_json::from_str(&std::fs::read_to_string("tests/golden/lr_scheduler.json").unwrap()).unwrap();
    let metrics: Vec<f64> = golden["metrics"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, values) in golden.as_object().unwrap() {
        if ["metrics", "torch"].contains(&name.as_str()) {
            continue;
        }
        count += 1;
        let adam = name.ends_with("adam");
        let mut o = optimizer(adam);
        let mut scheduler = make(name).start_boxed(&mut *o)?;
        for step in 0..=metrics.len() {
            if step > 0 {
                scheduler.step_with(metrics[step - 1], &mut *o)?;
            }
            let momentum = if adam { "beta1" } else { "momentum" };
            for (what, setting, group) in [("lr0", "lr", 0), ("lr1", "lr", 1), ("momentum0", momentum, 0), ("momentum1", momentum, 1)] {
                let Some(want) = values.get(what).map(|v| v[step].as_f64().unwrap()) else { continue };
                let got = o.setting(group, setting).unwrap();
                if (got - want).abs() > 1e-12 {
                    wrong.push(format!("{name}, step {step}, {what}: {got} must be {want}"));
                }
            }
            assert_eq!(scheduler.last_lr(), o.lrs(), "{name}");
            if step == 13 {
                // Both go on, exactly, from their dicts.
                let (a, b) = (o.state_dict()?, scheduler.state_dict()?);
                o = optimizer(adam);
                scheduler = make(name).start_boxed(&mut *o)?;
                scheduler.load_state_dict(&b)?;
                o.load_state_dict(&a)?;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(40)].join("\n"));
    assert_eq!(count, 34);
    Ok(())
}

#[test]
fn wrong_use_is_an_error() -> Result<()> {
    let mut o = optimizer(false);
    for bad in [
        Box::new(StepLR::new(0)) as Box<dyn Schedule>,
        Box::new(ConstantLR::new(1.5, 3)),
        Box::new(LinearLR::new(0.0, 1.0, 3)),
        Box::new(LinearLR::new(0.5, 1.0, 0)),
        Box::new(CosineAnnealingLR::new(0)),
        Box::new(CosineAnnealingWarmRestarts::new(5).t_mult(0)),
        Box::new(OneCycleLR::new(1.0, 0)),
        Box::new(OneCycleLR::new(1.0, 10).max_lrs([1.0, 2.0, 3.0])),
        Box::new(LambdaLR::new(|_| 1.0).and(|_| 1.0).and(|_| 1.0)),
        Box::new(CyclicLR::new(1.0, 10.0).lrs([(1.0, 2.0); 3])),
        Box::new(SWALR::new(1.0).swa_lrs([1.0; 3])),
        Box::new(ReduceLROnPlateau::new().factor(1.0)),
        Box::new(ReduceLROnPlateau::new().min_lrs([1.0; 3])),
        Box::new(SequentialLR::new(StepLR::new(1)).then(3, StepLR::new(1)).then(3, StepLR::new(1))),
        Box::new(SequentialLR::new(StepLR::new(1)).then(3, ReduceLROnPlateau::new())),
    ] {
        assert!(bad.start_boxed(&mut *o).is_err());
    }
    // A metric that is not there; a cycle that is over; another optimizer; another schedule's state.
    let mut plateau = ReduceLROnPlateau::new().start(&mut *o)?;
    assert!(plateau.wants_metric() && plateau.step(&mut *o).is_err());
    let mut cycle = OneCycleLR::new(1.0, 2).start(&mut *o)?;
    cycle.step(&mut *o)?;
    cycle.step(&mut *o)?;
    assert!(cycle.step(&mut *o).is_err());
    let mut step = StepLR::new(1).start(&mut *o)?;
    let mut single = SGD::new([Param::new(Tensor::zeros(1, Device::cpu()))], 1.0);
    assert!(step.step(&mut single).is_err());
    assert!(step.load_state_dict(&plateau.state_dict()?).is_err());
    assert!(OneCycleLR::new(1.0, 10).start(&mut fornax::optim::Adagrad::new([Param::new(Tensor::zeros(1, Device::cpu()))], 1.0)).is_err());
    Ok(())
}

//! Metrics against scikit-learn's values, in batches of any size.

use fornax::metrics::*;
use fornax::{Device, Error, Result, Tensor};
use serde_json::Value;

fn golden() -> Value {
    let path = format!("{}/tests/golden/metrics.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The numbers of a value, whatever its nesting.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(flat).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

fn close(what: &str, got: f64, want: &Value) {
    let want = want.as_f64().unwrap_or_else(|| panic!("{what}: not in the file"));
    assert!((got - want).abs() <= 1e-12 * want.abs().max(1.0), "{what}: {got}, scikit-learn has {want}");
}

/// Updates with rows of the tensors in batches of several sizes, and again after a reset.
fn measure(metric: &mut dyn Metric, prediction: &Tensor, target: &Tensor) -> Result<f64> {
    let n = target.dims()[0];
    assert!(metric.compute().is_err(), "{} of no rows", metric.name());
    let mut results = Vec::new();
    for batch in [n, 1, 7] {
        metric.reset();
        for start in (0..n).step_by(batch) {
            let rows = batch.min(n - start);
            metric.update(&prediction.try_narrow(0, start, rows)?, &target.try_narrow(0, start, rows)?)?;
        }
        results.push(metric.compute()?);
    }
    assert!(results.iter().all(|r| (r - results[0]).abs() <= 1e-13 * r.abs().max(1.0)), "{}: {results:?}", metric.name());
    metric.reset();
    Ok(results[1])
}

fn floats(value: &Value, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(flat(value).iter().map(|&v| v as f32).collect(), shape, Device::cpu())
}

#[test]
fn metrics_of_classes_equal_scikit_learns() -> Result<()> {
    for case in golden()["classes"].as_array().unwrap() {
        let target: Vec<i32> = flat(&case["target"]).iter().map(|&v| v as i32).collect();
        let n = target.len();
        let classes = flat(&case["logits"]).len() / n;
        let (logits, probabilities) = (floats(&case["logits"], &[n, classes])?, floats(&case["probabilities"], &[n, classes])?);
        let target = Tensor::from_vec(target, n, Device::cpu())?;
        let check = |name: &str, metric: &mut dyn Metric| -> Result<()> {
            close(name, measure(metric, &logits, &target)?, &case[name]);
            Ok(())
        };
        check("accuracy", &mut Accuracy::new())?;
        for (average, name) in [(Average::Macro, "macro"), (Average::Micro, "micro"), (Average::Weighted, "weighted")] {
            check(&format!("precision_{name}"), &mut Precision::new(classes, average))?;
            check(&format!("recall_{name}"), &mut Recall::new(classes, average))?;
            check(&format!("f1_{name}"), &mut F1::new(classes, average))?;
        }
        for k in 1..if classes > 2 { classes } else { 0 } {
            check(&format!("top_{k}"), &mut TopK::new(k))?;
        }
        check("log_loss", &mut LogLoss::from_logits())?;
        check("perplexity", &mut Perplexity::new())?;
        close("log_loss", measure(&mut LogLoss::from_probabilities(), &probabilities, &target)?, &case["log_loss_probabilities"]);

        let mut matrix = ConfusionMatrix::new(classes);
        matrix.update(&logits.try_argmax(-1)?, &target)?;
        assert_eq!(matrix.counts().iter().map(|&c| c as f64).collect::<Vec<_>>(), flat(&case["confusion"]));
        close("accuracy", matrix.accuracy()?, &case["accuracy"]);
        for (c, (precision, recall, f1, _)) in matrix.per_class().into_iter().enumerate() {
            close("precision_class", precision, &case["precision_class"][c]);
            close("recall_class", recall, &case["recall_class"][c]);
            close("f1_class", f1, &case["f1_class"][c]);
            close("one class", matrix.f1(Average::Class(c))?, &case["f1_class"][c]);
        }
    }
    Ok(())
}

#[test]
fn curves_equal_scikit_learns() -> Result<()> {
    for case in golden()["binary"].as_array().unwrap() {
        let n = flat(&case["target"]).len();
        let (scores, target) = (floats(&case["scores"], &[n])?, floats(&case["target"], &[n])?.try_cast(fornax::DType::I32)?);
        // Batches of one class alone are nothing special.
        close("auc", measure(&mut RocAuc::new(), &scores, &target)?, &case["auc"]);
        close("average precision", measure(&mut AveragePrecision::new(), &scores, &target)?, &case["average_precision"]);
        let equal = |what: &str, got: &[f64], want: &Value| {
            let want = flat(want);
            assert_eq!(got.len(), want.len(), "{what}");
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12), "{what}: {got:?}, not {want:?}");
        };
        let (mut roc, mut pr) = (RocAuc::new(), AveragePrecision::new());
        roc.update(&scores.try_reshape([n, 1])?, &target)?;
        pr.update(&scores, &target)?;
        let (roc, pr) = (roc.curve()?, pr.curve()?);
        equal("fpr", &roc.x, &case["fpr"]);
        equal("tpr", &roc.y, &case["tpr"]);
        assert_eq!(roc.thresholds[0], f64::INFINITY);
        equal("thresholds", &roc.thresholds[1..], &case["roc_thresholds"]);
        equal("recall", &pr.x, &case["recall"]);
        equal("precision", &pr.y, &case["precision"]);
        equal("thresholds", &pr.thresholds, &case["pr_thresholds"]);
    }
    Ok(())
}

/// scikit-learn warns there, and gives these values.
#[test]
fn rows_of_one_class_have_no_curve_but_a_value() -> Result<()> {
    let scores = Tensor::from_slice(&[0.2f32, 0.7, 0.4], 3, Device::cpu())?;
    for (class, precision) in [(0, 0.0), (1, 1.0)] {
        let target = Tensor::full(3, class, (fornax::DType::I32, Device::cpu()));
        let (mut roc, mut pr) = (RocAuc::new(), AveragePrecision::new());
        assert!(roc.compute().is_err() && pr.compute().is_err());
        roc.update(&scores, &target)?;
        pr.update(&scores, &target)?;
        assert!(roc.compute()?.is_nan(), "{class}");
        assert_eq!(pr.compute()?, precision, "{class}");
        assert!(roc.curve().unwrap_err().to_string().contains("one class"));
        assert_eq!(pr.curve().is_ok(), class == 1);
    }
    Ok(())
}

#[test]
fn metrics_of_numbers_equal_scikit_learns() -> Result<()> {
    for case in golden()["regression"].as_array().unwrap() {
        let shape: Vec<usize> = flat(&case["shape"]).iter().map(|&v| v as usize).collect();
        let (predicted, target) = (floats(&case["predicted"], &shape)?, floats(&case["target"], &shape)?);
        close("r2", measure(&mut R2::new(), &predicted, &target)?, &case["r2"]);
        close("mse", measure(&mut MeanSquaredError::new(), &predicted, &target)?, &case["mse"]);
        close("mae", measure(&mut MeanAbsoluteError::new(), &predicted, &target)?, &case["mae"]);
        close("rmse", measure(&mut RootMeanSquaredError::new(), &predicted, &target)?, &case["rmse"]);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() -> Result<()> {
    let cpu = Device::cpu();
    let ints = |v: &[i32]| Tensor::from_slice(v, v.len(), cpu);
    let scores = Tensor::ones([2, 3], cpu);
    let all: [&mut dyn Metric; 5] =
        [&mut Accuracy::new(), &mut TopK::new(1), &mut F1::new(3, Average::Macro), &mut LogLoss::from_logits(), &mut Perplexity::new()];
    for metric in all {
        assert!(matches!(metric.update(&scores, &ints(&[1])?), Err(Error::Shape { .. })), "{}", metric.name());
        if metric.name() != "accuracy" {
            assert!(matches!(metric.update(&scores, &ints(&[0, 3])?), Err(Error::Index { .. })), "{}", metric.name());
            assert!(matches!(metric.update(&scores, &ints(&[-1, 0])?), Err(Error::Index { .. })), "{}", metric.name());
        }
        assert!(metric.compute().is_err(), "{}", metric.name());
    }
    assert!(LogLoss::from_probabilities().update(&(scores * 2.0), &ints(&[0, 1])?).is_err());
    let mut roc = RocAuc::new();
    assert!(roc.update(&Tensor::ones(2, cpu), &ints(&[0, 2])?).is_err());
    assert!(roc.update(&Tensor::full(2, f32::NAN, cpu), &ints(&[0, 1])?).is_err());
    let mut top = TopK::new(2);
    let e =
        top.update(&Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0, f32::NAN, 5.0], [2, 3], cpu)?, &ints(&[0, 0])?).unwrap_err().to_string();
    assert!(e.contains("the score of row 1, class 1 is NaN") && top.compute().is_err(), "{e}");
    let mut r2 = R2::new();
    r2.update(&Tensor::ones([2, 2], cpu), &Tensor::ones([2, 2], cpu))?;
    assert!(r2.update(&Tensor::ones([2, 3], cpu), &Tensor::ones([2, 3], cpu)).is_err());
    assert_eq!(r2.compute()?, 1.0);
    Ok(())
}

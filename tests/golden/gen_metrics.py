"""Golden values of metrics from scikit-learn: python tests/golden/gen_metrics.py writes tests/golden/metrics.json.

Inputs are float32 numbers; scikit-learn gets them as float64, in which tests/all/metrics.rs computes.
"""

import json
import os

import numpy as np
import sklearn
from sklearn import metrics as m

rng = np.random.default_rng(11)
wide = lambda x: x.astype(np.float32).astype(np.float64)
out = {"versions": {"numpy": np.__version__, "scikit-learn": sklearn.__version__}}


def several(n, classes, seen):
    """Logits that lean to the right class, where only some classes are seen, and some scores are equal."""
    target = rng.choice(seen, n)
    logits = wide(np.round(rng.normal(size=(n, classes)) * 2) / 2 + 1.5 * np.eye(classes)[target])
    predicted = logits.argmax(1)
    e = np.exp(logits - logits.max(1, keepdims=True))
    p = wide(e / e.sum(1, keepdims=True))
    case = {"logits": logits.tolist(), "probabilities": p.tolist(), "target": target.tolist()}
    case["accuracy"] = m.accuracy_score(target, predicted)
    case["confusion"] = m.confusion_matrix(target, predicted, labels=range(classes)).tolist()
    for average in ["macro", "micro", "weighted", None]:
        scores = dict(average=average, zero_division=0)
        # Per class, absent classes have a place; averaged, scikit-learn leaves them out by itself.
        if average is None:
            scores["labels"] = range(classes)
        for name, f in [("precision", m.precision_score), ("recall", m.recall_score), ("f1", m.f1_score)]:
            value = f(target, predicted, **scores)
            case[f"{name}_{average or 'class'}"] = value.tolist() if average is None else value
    for k in range(1, classes) if classes > 2 else []:
        case[f"top_{k}"] = m.top_k_accuracy_score(target, logits, k=k, labels=range(classes))
    case["log_loss"] = m.log_loss(target, e / e.sum(1, keepdims=True), labels=range(classes))
    # Rounded to float32 the rows add up to 1 only nearly, of which scikit-learn warns.
    case["log_loss_probabilities"] = m.log_loss(target, p, labels=range(classes))
    case["perplexity"] = float(np.exp(case["log_loss"]))
    return case


out["classes"] = [several(60, 5, [0, 1, 2, 3, 4]), several(40, 6, [1, 2, 4]), several(7, 2, [0, 1]), several(1, 3, [2])]


def binary(n, ties):
    target = rng.integers(0, 2, n)
    target[:2] = [0, 1]
    scores = rng.normal(size=n) + target
    scores = wide(np.round(scores * 2) / 2 if ties else scores)
    fpr, tpr, thresholds = m.roc_curve(target, scores, drop_intermediate=False)
    precision, recall, pr = m.precision_recall_curve(target, scores)
    return {
        "scores": scores.tolist(), "target": target.tolist(), "fpr": fpr.tolist(), "tpr": tpr.tolist(), "roc_thresholds": thresholds[1:].tolist(),
        "auc": m.roc_auc_score(target, scores), "precision": precision.tolist(), "recall": recall.tolist(), "pr_thresholds": pr.tolist(),
        "average_precision": m.average_precision_score(target, scores),
    }


out["binary"] = [binary(50, False), binary(50, True), binary(2, False)]


def regression(n, columns, offset, flat=False):
    shape = (n, columns) if columns else (n,)
    target = wide(rng.normal(size=shape) + offset)
    if flat:
        target = np.full_like(target, offset)
    predicted = wide(target + rng.normal(size=shape) * 0.5)
    return {
        "target": target.flatten().tolist(), "predicted": predicted.flatten().tolist(), "shape": list(shape), "r2": m.r2_score(target, predicted),
        "mse": m.mean_squared_error(target, predicted), "mae": m.mean_absolute_error(target, predicted), "rmse": m.root_mean_squared_error(target, predicted),
    }


out["regression"] = [regression(40, 0, 0), regression(40, 3, 1), regression(30, 0, 5000), regression(10, 0, 2, flat=True)]

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "metrics.json"), "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")

"""What errors on training and validation data say about the next step: pure functions from numbers to findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.metric_names import lower_is_better

SMALL = {"error rate": 0.01}  # a gap below this is none; for values:
SMALL_SHARE = 0.03  # of the error of the best constant answer
SURE = 2.0  # standard errors
VALIDATIONS = 8  # at least, before a rise of the validation loss is one
RISEN = 1.3  # times the best validation loss
LASTING = 1.15  # times the best, at each of the last three
CLEAR = 5.0  # usual differences between two validations
WORSE = 0.01  # of accuracy, lost since its best

BIAS = (
    "Fit the training data better first: a larger network, more epochs, a better optimiser or learning rate, "
    "less regularisation; if nothing helps, doubt inputs and labels."
)
VARIANCE = (
    "Next, in this order: more data, augmentation, pretrained weights, smaller inputs, a smaller network, dropout, "
    "weight decay, early stopping."
)
MISMATCH = (
    "Make training data more like validation data: collect or synthesise examples of the kind that the errors are made "
    "on, and give both the same preprocessing."
)


@dataclass(frozen=True)
class Measured:
    """An error and how sure it is.

    Attributes:
        error: The mean error.
        noise: Its standard error.
        answers: Over how many answers; 0 where a logger's number was taken.
    """

    error: float
    noise: float = 0.0
    answers: int = 0


@dataclass(frozen=True)
class Errors:
    """The errors that a verdict is made of, all in one unit.

    Attributes:
        unit: ``"error rate"``, ``"squared error"``, ``"absolute error"`` or a metric's name.
        train: On training data.
        validation: On validation data.
        train_dev: On held-out data of the training distribution; None where there is none.
        guess: The error of the best constant answer; None where unknown.
        measured_alike: Whether both were measured in evaluation mode by the same code.
    """

    unit: str
    train: Measured
    validation: Measured
    train_dev: Measured | None = None
    guess: float | None = None
    measured_alike: bool = True


def judge_errors(errors: Errors, human_error: float | None) -> Finding:
    """Which gap is the largest, and what to do about it."""
    train, validation, dev = errors.train, errors.validation, errors.train_dev
    inner = dev or validation
    gaps = {
        "bias": (train.error - (human_error or 0.0), train.noise),
        "variance": (inner.error - train.error, (inner.noise**2 + train.noise**2) ** 0.5),
    }
    if dev is not None:
        gaps["mismatch"] = (validation.error - dev.error, (validation.noise**2 + dev.noise**2) ** 0.5)
    small = SMALL.get(errors.unit, SMALL_SHARE * errors.guess if errors.guess is not None else 0.0)
    real = {name: gap for name, (gap, noise) in gaps.items() if gap > max(small, SURE * noise)}
    evidence = _evidence(errors, human_error, {name: gap for name, (gap, _) in gaps.items()})
    said = _said(errors, human_error)
    if not real:
        message = f"{said}: neither bias nor variance stands out of the noise."
        return Finding("bias-variance", Severity.INFO, message, "", evidence)
    largest = max(real, key=lambda name: real[name])
    shown = _shown(real[largest], errors.unit, gap=True)
    name, words, advice = {
        "bias": ("high-bias", f"{shown} above {'0' if human_error is None else 'the best known'} is bias", BIAS),
        "variance": ("high-variance", f"the gap of {shown} is variance", VARIANCE),
        "mismatch": ("data-mismatch", f"the gap of {shown} between validation and train-dev is mismatch", MISMATCH),
    }[largest]
    unsure = "" if human_error is not None or largest != "bias" else " Give human_error if the task allows no better."
    return Finding(name, Severity.INFO, f"{said}: {words}.", advice + unsure, evidence)


def _said(errors: Errors, human_error: float | None) -> str:
    parts = [("training", errors.train), ("train-dev", errors.train_dev), ("validation", errors.validation)]
    named = [
        f"{_shown(one.error, errors.unit)} on {name} data" + (f" ({one.answers} answers)" if one.answers else "")
        for name, one in parts
        if one is not None
    ]
    reference = [] if human_error is None else [f"{_shown(human_error, errors.unit)} at best"]
    how = "" if errors.measured_alike else ", as logged (training's with dropout and augmentation)"
    unit = errors.unit[0].upper() + errors.unit[1:]
    return f"{unit} of {', '.join(named + reference)}{how}"


def _shown(value: float, unit: str, gap: bool = False) -> str:
    if unit != "error rate":
        return f"{value:.3g}"
    return f"{100 * value:.1f} points" if gap else f"{100 * value:.1f}%"


def _evidence(errors: Errors, human_error: float | None, gaps: Mapping[str, float]) -> dict[str, Any]:
    return {
        "unit": errors.unit,
        "train_error": errors.train.error,
        "validation_error": errors.validation.error,
        "train_dev_error": errors.train_dev.error if errors.train_dev else None,
        "human_error": human_error,
        **gaps,
    }


@dataclass(frozen=True)
class Validations:
    """What validation reported through the run.

    Attributes:
        series: Values by the metric's name, in order.
        keeps_best: The callback that keeps the best weights or stops early; empty where there is none.
        answers: How many validation answers a score is taken of; 0 where unknown.
        is_error: Whether the loss itself is the error, as in regression.
    """

    series: Mapping[str, Sequence[float]]
    keeps_best: str = ""
    answers: int = 0
    is_error: bool = False


def judge_overfitting(seen: Validations, monitor: str | None = None) -> Finding | None:
    """Whether the validation loss has left its best for most of the run, and whether that costs."""
    loss = _loss_of(seen.series, monitor)
    if loss is None or len(seen.series[loss]) < VALIDATIONS:
        return None
    values = seen.series[loss]
    best, now = min(values), fmean(values[-3:])
    at = values.index(best) + 1
    usual = median(abs(b - a) for a, b in pairwise(values))
    risen = now >= RISEN * best and now - best >= CLEAR * usual and min(values[-3:]) >= LASTING * best
    if best <= 0 or at > len(values) / 2 or not risen:
        return None
    message = f"{loss} was best after validation {at} of {len(values)}, {best:.3g}, and has risen to {now:.3g}"
    evidence = {"best": best, "best_at": at, "now": now, "validations": len(values)}
    score, lost = _score_lost(seen)
    if not score and not seen.is_error:
        message += "; no accuracy was logged that would say what it costs."
    elif score and not lost:
        message += f", while {score} holds: the network grows overconfident, not worse."
    elif seen.keeps_best:
        message += f"; {seen.keeps_best} keeps the best weights."
    else:
        fallen = f", and {score} has fallen" if score else ""
        message += f"{fallen}, while nothing keeps the best weights."
        advice = "Add ModelCheckpoint and EarlyStopping with that monitor, and then regularise or get more data."
        return Finding("overfitting", Severity.WARNING, message, advice, evidence)
    return Finding("overfitting", Severity.INFO, message, f"Stop earlier, or regularise. {VARIANCE}", evidence)


def _loss_of(series: Mapping[str, Sequence[float]], monitor: str | None) -> str | None:
    if monitor in series and lower_is_better(str(monitor)):
        return monitor
    return next((name for name in series if lower_is_better(name)), None)


def _score_lost(seen: Validations) -> tuple[str, bool]:
    """The name of a score that validation logged, and whether it has fallen from its best by more than noise."""
    for name, values in seen.series.items():
        if lower_is_better(name) is False:
            best, now = max(values), fmean(values[-3:])
            noise = (max(best * (1 - best), 0.0) / seen.answers) ** 0.5 if seen.answers else 0.02
            return name, best - now > WORSE + 3 * noise
    return "", False

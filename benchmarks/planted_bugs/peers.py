"""Published thresholds of other detectors, re-implemented over one trace of a fit; and all peers by name.

Both are approximations, and nothing is tuned here: each function says which figures are published, and which
definitions are ours. They tell how such fixed thresholds fare, not how the products do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from planted_bugs.detect import Alarm, Detector
from planted_bugs.fit import fit
from planted_bugs.packages import packages
from planted_bugs.program import Program
from planted_bugs.trace import Seen, Trace


def peers() -> dict[str, Detector]:
    """All that can run in this process."""
    return {**packages(), "SageMaker Debugger": sagemaker_debugger, "TheDeepChecker": the_deep_checker}


def sagemaker_debugger(program: Program) -> list[Alarm]:
    """Built-in rules of Amazon SageMaker Debugger at their defaults.

    Source: Amazon SageMaker developer guide, "List of Debugger built-in rules", a page a rule. Looked up there:
    VanishingGradient, DeadRelu, WeightUpdateRatio, PoorWeightInitialization and the limit of tanh; the other figures
    are from memory, and Overfit is without its patience. The rules: VanishingGradient
    (mean of the absolute gradient below 1e-7), ExplodingTensor (not finite), DeadRelu (more than 50% of a layer's units
    active for less than 1% of the inputs), SaturatedActivation (tanh beyond 9.4999, sigmoid beyond 23, more than 50% of
    units), PoorWeightInitialization (variances of rectifier inputs apart by more than a factor of 10 in the first
    steps, or gradients whose 5th and 95th percentiles are closer than 0.001), WeightUpdateRatio (above 10 or below
    1e-8), LossNotDecreasing (not lower by 0.1% than 10 steps before), Overfit (validation loss above training loss by
    more than 10% of it), ClassImbalance (one class with over 10 times the examples of another), CheckInputImages
    (absolute mean of the inputs above 0.2), UnchangedTensor and AllZero (of weights). The service looks every 500
    steps; runs here are shorter, and it looks every fifth.
    """
    trace = Trace()
    fit(program, [trace])
    found = [*_sagemaker_losses(trace), *_sagemaker_inputs(trace.first_batch)]
    for index, seen in enumerate(trace.seen):
        found += _sagemaker_step(seen, early=index < 5)
    return first_of_each(found)


def _sagemaker_step(seen: Seen, early: bool) -> Iterator[Alarm]:
    values = [*seen.gradients.values(), *seen.weights.values()]
    if any(not math.isfinite(value) for value in values):
        yield Alarm("ExplodingTensor", "A tensor is not finite.", seen.step)
    if _below(seen.gradients, 1e-7):
        yield Alarm("VanishingGradient", "A mean absolute gradient is below 1e-7.", seen.step)
    if _above(seen.inactive, 0.5):
        yield Alarm("DeadRelu", "More than half of a layer's units are inactive.", seen.step)
    if _above(seen.saturated, 0.5):
        yield Alarm("SaturatedActivation", "More than half of a layer's units are saturated.", seen.step)
    if _above(seen.updates, 10.0) or _below(seen.updates, 1e-8):
        yield Alarm("WeightUpdateRatio", "An update ratio is above 10 or below 1e-8.", seen.step)
    if _below(seen.updates, 1e-30):
        yield Alarm("UnchangedTensor", "A weight did not change.", seen.step)
    if _below(seen.weights, 1e-30):
        yield Alarm("AllZero", "A weight is all zero.", seen.step)
    variances = list(seen.variances.values())
    wide = early and len(variances) > 1 and max(variances) > 10 * min(variances)
    if wide or (early and _below(seen.gradient_spread, 1e-3)):
        yield Alarm("PoorWeightInitialization", "Variances of layers or gradients are too far apart.", seen.step)


def _sagemaker_losses(trace: Trace) -> Iterator[Alarm]:
    reported = trace.losses if not math.isnan(sum(trace.losses[:1])) else []
    for step in range(10, len(reported)):
        if not trace.losses[step] <= trace.losses[step - 10] * (1 - 0.001):
            yield Alarm("LossNotDecreasing", "The loss is not 0.1% lower than ten steps before.", step)
            break
    for train, validation in trace.validation:
        if validation > 1.1 * train:
            yield Alarm("Overfit", "The validation loss is more than 10% above the training loss.", len(trace.losses))
            break


def _sagemaker_inputs(batch: Any) -> Iterator[Alarm]:
    x, y = batch.values() if isinstance(batch, Mapping) else batch
    if x.dim() == 4 and x.float().mean().abs() > 0.2:
        yield Alarm("CheckInputImages", "The inputs' mean is beyond 0.2.")
    if not y.is_floating_point():
        counts = y.flatten().bincount()
        if counts.max() > 10 * counts[counts > 0].min():
            yield Alarm("ClassImbalance", "A class has over ten times the examples of another.")


def the_deep_checker(program: Program) -> list[Alarm]:
    """Some checks of TheDeepChecker, at the thresholds of a PyTorch adaptation of it (DRLDebugger).

    Source: Ben Braiek and Khomh, "Testing feedforward neural networks training programs" (2023). Smoothness and
    what does not fall over five steps are defined here; its checks of overfitting, of the dependency on inputs and
    of activations are left out. The figures: the loss at the start further than 100% of ln C from ln C; weights
    below 1e-5 or below zero for more than 95%, or that double over five looks; a loss that falls by less than 5%
    over five steps, doubles over five steps, or is not smooth (below 0.5) over fifty; gradients or weights that are
    not finite; inactive units of a layer above 95%; inputs out of scale or constant. Its check of the inputs is
    milder here than there: beyond [-10, 10], or all equal. A loss that is not reported, as by hand, is not judged.
    """
    trace = Trace()
    fit(program, [trace])
    found = [*_checker_losses(trace), *_checker_inputs(trace)]
    for index, seen in enumerate(trace.seen):
        found += _checker_step(seen, trace.seen[index - 5] if index >= 5 else None)
    return first_of_each(found)


def _checker_losses(trace: Trace) -> Iterator[Alarm]:
    losses = torch.tensor([] if math.isnan(sum(trace.losses[:1])) else trace.losses)
    if not losses.isfinite().all():
        yield Alarm("Unstable loss", "The loss is not finite.", int((~losses.isfinite()).float().argmax()))
    for step in range(5, len(losses)):
        before, now = losses[step - 5], losses[step]
        if now > before * 0.95:
            yield Alarm("Non-decreasing loss", "The loss fell by less than 5% over five steps.", step)
        if now > 2 * before:
            yield Alarm("Diverging loss", "The loss doubled over five steps.", step)
    for step in range(50, len(losses), 10):
        if smoothness(losses[step - 50 : step]) < 0.5:
            yield Alarm("Fluctuating loss", "The loss changes direction at most steps.", step)


def smoothness(losses: torch.Tensor) -> float:
    """Share of steps at which the loss goes on in its direction, in [0, 1]."""
    signs = losses.diff().sign()
    return float((signs[1:] == signs[:-1]).float().mean())


def _checker_inputs(trace: Trace) -> Iterator[Alarm]:
    batch = trace.first_batch
    x, y = batch.values() if isinstance(batch, Mapping) else batch
    if x.abs().max() > 10 or x.float().std() < 1e-5:
        yield Alarm("Unscaled inputs", "The inputs are beyond [-10, 10], or constant.")
    if not y.is_floating_point() and trace.losses:
        expected = math.log(10)
        if abs(trace.losses[0] - expected) > expected:
            yield Alarm("Initial loss", "The loss at the start is more than 100% away from ln C.")


def _checker_step(seen: Seen, before: Seen | None) -> Iterator[Alarm]:
    if any(not math.isfinite(value) for value in [*seen.gradients.values(), *seen.weights.values()]):
        yield Alarm("Numerical instability", "A gradient or a weight is not finite.", seen.step)
    if _above(seen.tiny, 0.95):
        yield Alarm("Dead weights", "More than 95% of a layer's weights are below 1e-5.", seen.step)
    if _above(seen.negative, 0.95):
        yield Alarm("Negative weights", "More than 95% of a layer's weights are below zero.", seen.step)
    if _above(seen.inactive, 0.95):
        yield Alarm("Dead layer", "More than 95% of a layer's units are inactive.", seen.step)
    if before and any(seen.weights[name] > 2 * size for name, size in before.weights.items() if size):
        yield Alarm("Diverging weights", "Weights doubled over five looks.", seen.step)
    if _below(seen.gradients, 1e-12):
        yield Alarm("Vanishing gradients", "A gradient is zero.", seen.step)


def _above(values: Mapping[str, float], limit: float) -> bool:
    return any(value > limit for value in values.values())


def _below(values: Mapping[str, float], limit: float) -> bool:
    return any(value < limit for value in values.values())


def first_of_each(alarms: list[Alarm]) -> list[Alarm]:
    """The first alarm of each name."""
    first: dict[str, Alarm] = {}
    for alarm in sorted(alarms, key=lambda alarm: alarm.step):
        first.setdefault(alarm.name, alarm)
    return list(first.values())

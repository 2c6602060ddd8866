"""What overfit-one-batch measures: how far a few examples can be learned, and how far they could be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.losses import LossCall
from lightning_rules.preflight.batch_parts import examples_in, input_leaves, mapped, with_inputs
from lightning_rules.preflight.dropout_seen import dropout_in_evaluation
from lightning_rules.preflight.fitting import RATES, STEPS, Fit, fit
from lightning_rules.preflight.loss_floor import constant_loss, floor_of, mean_loss
from lightning_rules.preflight.own_optimiser import OwnSteps, own_steps
from lightning_rules.rule import NotApplicable, attempt
from lightning_rules.short_training import calm, loss_of, parameters_of_one_aim
from lightning_rules.view import View

EXAMPLES = 16
LEARNED = 0.08  # of the distance from the constant's loss to the floor
LEAST_STEPS = 30  # for which there must be time
SHOWN = 5


@dataclass(frozen=True)
class Yardsticks:
    """What the loss of one batch is compared with.

    Attributes:
        name: The loss function.
        constant: The loss of the best constant output.
        floor: The least loss of any network.
        supervised: Whether the loss's targets are a part of the batch that is no input.
        dense: Whether there is more than one target an example.
        values: How many targets there are.
        shapes: Shapes of output and target, in words, where they are broadcast against one another; else "".
        squashed: The layer (softmax, sigmoid, ...) found right before a loss that expects none; else "".
    """

    name: str
    constant: float
    floor: float
    supervised: bool
    dense: bool
    values: int
    shapes: str
    squashed: str


@dataclass(frozen=True)
class Seen:
    """Numbers of one rank.

    Attributes:
        yardsticks: None where the loss is none of torch's, or a sum of several.
        start: The loss before, per example where the yardsticks are known.
        reached: The lowest loss of the fits.
        steps: Steps of the last fit.
        rate: Its rate.
        plateau: Whether the best fit ended at a plateau.
        fell: Whether what the step returned went down clearly.
        examples: How many examples the batch had.
        unreached: Parameters that the loss has no gradient for, and all that are trained.
        frozen: Share of the weights that the run does not train.
        capable: Whether the trained part has two layers or more, and several times more weights than targets.
        zeroed: The lowest loss with inputs zeroed, where that was tried: of an unknown loss that uses labels.
        rows: Labels beside predictions, in words.
        dropout: Where dropout is at work in evaluation mode, and its rate.
        alike: Whether all examples have the same input.
        own: What the run's own optimiser did, where it could be copied.
    """

    yardsticks: Yardsticks | None
    start: float
    reached: float
    steps: int
    rate: float
    plateau: bool
    fell: bool
    examples: int
    unreached: tuple[int, int]
    frozen: float
    capable: bool
    zeroed: float | None
    rows: str
    dropout: tuple[str, float] | None
    alike: bool = False
    own: OwnSteps | None = None


def few_examples(view: View, batch: Any) -> Any:
    """Up to 16 examples of a batch, of as many classes as there are."""
    try:
        size = examples_in(batch)
    except NotApplicable:
        return batch
    if size <= EXAMPLES:
        return batch
    chosen = torch.tensor(_one_of_each(view.split(batch)[1], size)[:EXAMPLES])
    return mapped(batch, lambda part: part[chosen] if isinstance(part, Tensor) and part.dim() > 0 else part)


def _one_of_each(target: Any, size: int) -> list[int]:
    """All examples, class by class in turns where there are classes."""
    labels = target.tolist() if isinstance(target, Tensor) and target.dim() == 1 else []
    turns: dict[Any, int] = {}
    turn = []
    for label in labels or range(size):
        turns[label] = turns.get(label, -1) + 1
        turn.append(turns[label])
    return sorted(range(size), key=lambda index: (turn[index], index))


def measure_one_batch(view: View, deadline: Deadline) -> Seen:
    """Fit one batch and set what was reached beside what can be.

    Raises:
        NotApplicable: No batch, no single loss, nothing to train.
        OutOfTime: There is no time for a fit.
    """
    whole = view.batches(1)[0]
    batch = few_examples(view, whole)
    if batch is not whole and attempt(lambda: _one_step(view, batch))[1]:
        batch = whole
    seconds = _one_step(view, batch)
    deadline.require(4 * LEAST_STEPS * seconds, f"a training of {LEAST_STEPS} steps")
    dropout, _ = attempt(lambda: dropout_in_evaluation(view, batch))
    for quiet in (True, False):  # a few modules cannot take a training step in evaluation mode
        try:
            return _measured(view, deadline, batch, quiet, dropout)
        except NotApplicable:
            raise
        except Exception:
            if not quiet:
                raise
    raise NotApplicable("no training step could be run.")


def _one_step(view: View, batch: Any) -> float:
    """Seconds of one forward pass."""
    before = time.monotonic()
    with view.step(batch):
        pass
    return time.monotonic() - before


def _measured(view: View, deadline: Deadline, batch: Any, quiet: bool, dropout: tuple[str, float] | None) -> Seen:
    trained = parameters_of_one_aim(view)
    best: tuple[float, Fit, float, str, float] | None = None
    rates = list(zip(RATES, STEPS, strict=True))
    for rate, steps in rates:
        with view.on_loan() as lent:
            if quiet:
                calm(view.module)
            unreached = _unreached(view, lent, batch, trained)
            yardsticks, start = _yardsticks(view, batch)
            returned = float(loss_of(view, lent, batch, 0).detach())
            scale = start / returned if yardsticks is not None and returned > 0 else 1.0
            goal = _goal(yardsticks, returned, scale) if returned > 0 or yardsticks is None else 4 * returned
            done = fit(view, lent, batch, trained, rate, steps, goal, deadline)
            reached, rows = _reached(view, batch, yardsticks, done.least * scale if returned > 0 else math.inf)
        if best is None or reached < best[0]:
            best = (reached, done, rate, rows, start)
        if reached <= _goal(yardsticks, start, 1.0) or deadline.left == 0:
            break
    assert best is not None
    reached, done, rate, rows, start = best
    zeroed = None
    if yardsticks is None and done.plateau and reached > 0.1 * abs(start):
        zeroed, _ = attempt(lambda: _with_zeroed_inputs(view, deadline, batch, trained, rate, quiet))
    everything = sum(parameter.numel() for parameter in view.module.parameters())
    count = sum(parameter.numel() for parameter in trained)
    matrices = sum(parameter.dim() > 1 for parameter in trained)
    values = yardsticks.values if yardsticks is not None else 0
    return Seen(
        yardsticks=yardsticks,
        start=start,
        reached=reached,
        steps=len(done.losses),
        rate=rate,
        plateau=done.plateau,
        fell=done.losses[0] - done.least > 0.1 * abs(done.losses[0]),
        examples=_size(batch),
        unreached=(unreached, len(trained)),
        frozen=1 - count / max(1, everything),
        capable=matrices >= 2 and count >= 5 * values,
        zeroed=zeroed,
        rows=rows,
        dropout=dropout,
        alike=_alike(view, batch),
        own=attempt(lambda: own_steps(view, batch, deadline, quiet))[0],
    )


def _alike(view: View, batch: Any) -> bool:
    """Whether all examples have the same input; unknown counts as no."""
    inputs = attempt(lambda: input_leaves(view, batch))[0] or []
    return bool(inputs) and all(leaf.dim() > 1 and bool((leaf == leaf[:1]).all()) for leaf in inputs)


def _size(batch: Any) -> int:
    try:
        return examples_in(batch)
    except NotApplicable:
        return 0


def _goal(yardsticks: Yardsticks | None, start: float, scale: float) -> float:
    """The loss at which a batch counts as learned, in units of what the step returns."""
    if yardsticks is None:
        return 0.05 * start if start > 0 else -math.inf
    return (yardsticks.floor + LEARNED * (yardsticks.constant - yardsticks.floor)) / scale


def _unreached(view: View, lent: list[Tensor], batch: Any, trained: list[nn.Parameter]) -> int:
    gradients = torch.autograd.grad(loss_of(view, lent, batch, 0), trained, allow_unused=True)
    return sum(gradient is None for gradient in gradients)


def _yardsticks(view: View, batch: Any) -> tuple[Yardsticks | None, float]:
    """What to compare with, and the loss as it is."""
    with view.step(batch) as step:
        if len(step.calls) != 1:
            return None, float("nan") if step.loss is None else float(step.loss.detach().sum())
        call = step.calls[0]
        inputs = attempt(lambda: input_leaves(view, batch))[0] or []
        floor = attempt(lambda: floor_of(call, inputs))[0] or 0.0
        rows = call.target.shape[0] if call.target.dim() else 1
        soft = call.kind == "softmax" and call.target.is_floating_point()
        values = call.target.numel() // (call.output.shape[call.class_dim] if soft else 1)
        broadcast = call.kind != "softmax" and call.output.shape != call.target.shape
        shapes = f"{list(call.output.shape)} and {list(call.target.shape)}" if broadcast else ""
        return Yardsticks(
            name=call.name,
            constant=constant_loss(call),
            floor=floor,
            supervised=_is_supervised(call, batch, inputs),
            dense=values > rows and not broadcast,
            values=values,
            shapes=shapes,
            squashed=_squashed(call),
        ), mean_loss(call)


def _squashed(call: LossCall) -> str:
    """A softmax or sigmoid whose output is given to a loss that applies its own."""
    if call.function not in (F.cross_entropy, F.binary_cross_entropy_with_logits):
        return ""
    name = call.output.grad_fn.name().partition("Backward")[0] if call.output.grad_fn is not None else ""
    return {"Softmax": "a softmax", "Sigmoid": "a sigmoid"}.get(name, "")


def _is_supervised(call: LossCall, batch: Any, inputs: list[Tensor]) -> bool:
    """Whether what the loss compares with is made of a part of the batch that is no input."""
    given = {id(leaf) for leaf in inputs}
    target = call.target.detach().cpu().flatten().double()
    others = [leaf for _, leaf in leaves(batch) if id(leaf) not in given]
    same = any(leaf.numel() == len(target) and torch.equal(leaf.flatten().double(), target) for leaf in others)
    return same or any(_is_one_hot_of(target, leaf) for leaf in others)


def _is_one_hot_of(target: Tensor, leaf: Tensor) -> bool:
    if leaf.is_floating_point() or leaf.dim() != 1 or len(leaf) == 0 or len(target) % len(leaf):
        return False
    hot = target.reshape(len(leaf), -1)
    return hot.shape[1] > 1 and bool((hot.argmax(1) == leaf).all()) and bool((hot.sum(1) == 1).all())


def _reached(view: View, batch: Any, yardsticks: Yardsticks | None, least: float) -> tuple[float, str]:
    """The loss after a fit, and labels beside predictions."""
    if yardsticks is None:
        return least, ""
    with view.step(batch) as step:
        if len(step.calls) != 1:
            return least, ""
        last = mean_loss(step.calls[0])
        reached = min(least, last) if math.isfinite(last) else least
        return reached if math.isfinite(reached) else last, beside(step.calls[0])


def beside(call: LossCall) -> str:
    """Labels beside predictions, of the first five examples: ``"3: 7 (0.21), 1: 1 (0.98)"``."""
    output, target = call.output.detach().float().cpu()[:SHOWN], call.target.detach().cpu()[:SHOWN]
    if call.kind == "softmax" and output.dim() == 2 and not target.is_floating_point():
        best = output.softmax(1).max(1)
        return ", ".join(f"{int(t)}: {int(i)} ({p:.2f})" for t, i, p in zip(target, best.indices, best.values, strict=True))
    if output.numel() != target.numel() or output.numel() > SHOWN:
        return ""
    values = output.sigmoid() if call.function is F.binary_cross_entropy_with_logits else output
    return ", ".join(f"{t:.3g}: {o:.3g}" for t, o in zip(target.flatten(), values.flatten(), strict=True))


def _with_zeroed_inputs(
    view: View, deadline: Deadline, batch: Any, trained: list[nn.Parameter], rate: float, quiet: bool
) -> float | None:
    """The lowest loss of the same fit without inputs, where the loss depends on the labels."""
    inputs = input_leaves(view, batch)
    given = {id(leaf) for leaf in inputs}
    others = [leaf for _, leaf in leaves(batch) if id(leaf) not in given and leaf.dim() > 0]
    if not all(leaf.is_floating_point() for leaf in inputs) or not others:
        return None
    zeroed = with_inputs(batch, inputs, torch.zeros_like)
    with view.on_loan() as lent:
        if quiet:
            calm(view.module)
        steps = dict(zip(RATES, STEPS, strict=True))[rate]
        done = fit(view, lent, zeroed, trained, rate, steps, -math.inf, deadline)
        shifted = with_inputs(batch, others, lambda leaf: leaf + 1 if leaf.is_floating_point() else leaf.flip(0))
        uses_labels = not math.isclose(
            float(loss_of(view, lent, shifted, 0).detach()), float(loss_of(view, lent, batch, 0).detach()), rel_tol=1e-6
        )
        return done.least if uses_labels else None

"""What overfit-one-batch measures: how far a few examples can be learned, and how far they could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.preflight.batch_parts import examples_in, input_leaves, mapped, seconds_of, with_inputs
from lightning_rules.preflight.dropout_seen import dropout_in_evaluation
from lightning_rules.preflight.fitting import RATES, STEPS, Fit, fit
from lightning_rules.preflight.loss_floor import mean_loss
from lightning_rules.preflight.own_optimiser import OwnSteps, own_steps
from lightning_rules.preflight.yardsticks import Yardsticks, beside, yardsticks_of
from lightning_rules.rule import NotApplicable, attempt
from lightning_rules.short_training import calm, loss_of, parameters_of_one_aim
from lightning_rules.view import View

EXAMPLES = 16
LEARNED = 0.08  # of the distance from the constant's loss to the floor
ROOMY = 64  # trained weights an example, from which even few input values can be learned by heart
NOTHING_TO_LEARN = 1e-6  # the loss of a constant
LEAST_STEPS = 30  # for which there must be time


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
        narrow: Whether an input has fewer values than the batch has examples, and the trained part few weights: no
            line separates labels that are dealt at random, and that is no fault.
        entropy: Of the batch's class labels, in nats; None where its targets are no class labels.
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
    narrow: bool = False
    entropy: float | None = None


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
    whole: Any = view.batches(1)[0]
    batch = few_examples(view, whole)
    if batch is not whole and attempt(lambda: seconds_of(view, batch))[1]:
        batch = whole
    seconds = seconds_of(view, batch)
    deadline.require(4 * LEAST_STEPS * seconds, f"a training of {LEAST_STEPS} steps")
    dropout, _ = attempt(lambda: dropout_in_evaluation(view, batch))
    for quiet in (True, False):  # a few modules cannot take a training step in evaluation mode
        try:
            return _measured(view, deadline, Few(batch, whole, quiet, dropout))
        except NotApplicable:
            raise
        except Exception:
            if not quiet:
                raise
    raise NotApplicable("no training step could be run.")


def _measured(view: View, deadline: Deadline, few: Few) -> Seen:
    trained = parameters_of_one_aim(view)
    best = _best_fit(view, deadline, few, trained)
    known, done = best.yardsticks, best.done
    zeroed = None
    if known is None and done.plateau and best.reached > 0.1 * abs(best.start):
        zeroed, _ = attempt(lambda: _with_zeroed_inputs(view, deadline, few, trained, best))
    everything = sum(parameter.numel() for parameter in view.module.parameters())
    count = sum(parameter.numel() for parameter in trained)
    matrices = sum(parameter.dim() > 1 for parameter in trained)
    size = _size(few.batch)
    values = sum(leaf.numel() for leaf in attempt(lambda: input_leaves(view, few.batch))[0] or []) / max(1, size)
    return Seen(
        yardsticks=known,
        start=best.start,
        reached=best.reached,
        steps=len(done.losses),
        rate=best.rate,
        plateau=done.plateau,
        fell=done.losses[0] - done.least > 0.1 * abs(done.losses[0]),
        examples=size,
        unreached=(best.unreached, len(trained)),
        frozen=1 - count / max(1, everything),
        capable=matrices >= 2 and count >= 5 * (known.values if known is not None else 0),
        zeroed=zeroed,
        rows=best.rows,
        dropout=few.dropout,
        alike=_alike(view, few.batch),
        own=attempt(lambda: own_steps(view, few.whole, deadline, few.quiet))[0],
        narrow=0 < values < size and count < ROOMY * size,
        entropy=attempt(lambda: _label_entropy(view, few.batch))[0],
    )


def _label_entropy(view: View, batch: Any) -> float | None:
    """The entropy of the labels, one an example, in nats."""
    labels = [leaf for _, leaf in leaves(view.split(batch)[1])]
    if len(labels) != 1 or labels[0].is_floating_point() or labels[0].dim() != 1:
        return None
    shares = torch.unique(labels[0], return_counts=True)[1] / len(labels[0])
    return float(-(shares * shares.log()).sum())


@dataclass(frozen=True)
class Few:
    """The examples to be learned: how many were cut from which batch, and whether the module is calmed for them."""

    batch: Any
    whole: Any
    quiet: bool
    dropout: tuple[str, float] | None


@dataclass(frozen=True)
class _Best:
    """The fit that came furthest."""

    done: Fit
    rate: float
    steps: int
    start: float
    reached: float
    yardsticks: Yardsticks | None
    unreached: int
    rows: str


def _best_fit(view: View, deadline: Deadline, few: Few, trained: list[nn.Parameter]) -> _Best:
    """One fit at each rate, until the batch is learned."""
    fits: list[_Best] = []
    for rate, steps in zip(RATES, STEPS, strict=True):
        fits.append(_one_fit(view, deadline, few, trained, rate, steps))
        if fits[-1].reached <= _goal(fits[-1].yardsticks, fits[-1].start) or deadline.left == 0:
            break
    return min(fits, key=lambda found: found.reached)


def _one_fit(view: View, deadline: Deadline, few: Few, trained: list[nn.Parameter], rate: float, steps: int) -> _Best:
    with view.on_loan() as lent:
        if few.quiet:
            calm(view.module)
        unreached = _unreached(view, lent, few.batch, trained)
        known, start = yardsticks_of(view, few.batch)
        returned = float(loss_of(view, lent, few.batch, 0).detach())
        # What the step returns is the loss function's value, but for a factor where it sums, scales or flips.
        scale = start / returned if known is not None and returned > 0 else 1.0
        goal = _goal(known, start) / scale if returned > 0 or known is None else 4 * returned
        done = fit(view, lent, few.batch, trained, rate, steps, goal, deadline)
        least = done.least * scale if returned > 0 or known is None else math.inf
        reached, rows = _reached(view, few.batch, known, least)
    return _Best(done, rate, steps, start, reached, known, unreached, rows)


def _alike(view: View, batch: Any) -> bool:
    """Whether all examples have the same input; unknown counts as no."""
    inputs = attempt(lambda: input_leaves(view, batch))[0] or []
    return bool(inputs) and all(leaf.dim() > 1 and bool((leaf == leaf[:1]).all()) for leaf in inputs)


def _goal(yardsticks: Yardsticks | None, start: float) -> float:
    """The loss at which a batch counts as learned."""
    if yardsticks is None:
        return 0.05 * start if start > 0 else -math.inf
    if yardsticks.constant <= NOTHING_TO_LEARN:
        return math.inf
    return yardsticks.floor + LEARNED * (yardsticks.constant - yardsticks.floor)


def _unreached(view: View, lent: list[Tensor], batch: Any, trained: list[nn.Parameter]) -> int:
    gradients = torch.autograd.grad(loss_of(view, lent, batch, 0), trained, allow_unused=True)
    return sum(gradient is None for gradient in gradients)


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


def _with_zeroed_inputs(
    view: View, deadline: Deadline, few: Few, trained: list[nn.Parameter], best: _Best
) -> float | None:
    """The lowest loss of the same fit without inputs, where the loss depends on the labels."""
    inputs = input_leaves(view, few.batch)
    given = {id(leaf) for leaf in inputs}
    others = [leaf for _, leaf in leaves(few.batch) if id(leaf) not in given and leaf.dim() > 0]
    if not all(leaf.is_floating_point() for leaf in inputs) or not others:
        return None
    zeroed = with_inputs(few.batch, inputs, torch.zeros_like)
    shifted = with_inputs(few.batch, others, lambda leaf: leaf + 1 if leaf.is_floating_point() else leaf.flip(0))
    with view.on_loan() as lent:
        if few.quiet:
            calm(view.module)
        done = fit(view, lent, zeroed, trained, best.rate, best.steps, -math.inf, deadline)
        one, two = (float(loss_of(view, lent, batch, 0).detach()) for batch in (few.batch, shifted))
    return None if math.isclose(one, two, rel_tol=1e-6) else done.least


def _size(batch: Any) -> int:
    """How many examples; 0 where that is unknown."""
    return attempt(lambda: examples_in(batch))[0] or 0

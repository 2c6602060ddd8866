"""The same short training twice, with real inputs and without, compared on examples that neither has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.losses import LossCall
from lightning_rules.preflight.batch_parts import examples_in, mapped, seconds_of
from lightning_rules.preflight.fitting import RampedAdam
from lightning_rules.rule import NotApplicable
from lightning_rules.short_training import calm, loss_of, parameters_of_one_aim, train
from lightning_rules.view import View

BATCHES = 10
EXAMPLES = 32  # of a batch, at most; a quarter of them is held out
LEAST_PIECES = 4
LEAST = 8  # examples of a batch, at least
RATE = 5e-3
BLIND_PASSES = 1  # of the training without inputs; enough for what little it can learn
PASSES = 12  # of the training with inputs, at most
ERRORS = 3.0  # standard errors
SEED = 0


@dataclass(frozen=True)
class Pair:
    """What the two trainings of one rank came to.

    Attributes:
        real: Losses of the steps with inputs.
        blind: Losses of the steps without, on the same batches.
        held_real: Loss of each held-out batch with inputs ``[passes + 1][batches]``, before and after each pass.
        held_blind: The same without inputs.
        held_shuffled: Loss of each held-out batch of the first network, when its inputs belong to other examples.
        supervised: Whether the loss compares with a part of the batch.
        how: What was done to the inputs: ``"zeroed"``, or ``"shuffled"`` where they are whole numbers.
        examples: How many examples were trained on.
        finished: Whether all passes were taken for which the question stayed open.
    """

    real: list[float]
    blind: list[float]
    held_real: list[list[float]]
    held_blind: list[list[float]]
    held_shuffled: list[float]
    supervised: bool
    how: str
    examples: int
    finished: bool


def paired_training(view: View, deadline: Deadline) -> Pair:
    """Train with and without inputs from the same start, on the same batches, with the same optimiser.

    Raises:
        NotApplicable: The batches cannot be divided, or the step has no single loss.
        OutOfTime: There is no time for it.
    """
    batches = pieces(view.batches(BATCHES))
    known, held = [part for part, _ in batches], [part for _, part in batches]
    target, supervised = target_of(view, known[0])
    seconds = seconds_of(view, known[0])
    steps = len(batches) * (2 * BLIND_PASSES + 1)
    deadline.require(4 * steps * seconds, f"a paired training of {steps} steps")
    blinded = [[blind(view, part, target) for part in parts] for parts in (known, held)]
    how = "shuffled" if all(not leaf.is_floating_point() for leaf in _others(view, known[0], target)) else "zeroed"
    b_losses, b_held, _ = _train(view, blinded[0], blinded[1], BLIND_PASSES, None, None, deadline)
    best = min(b_held, key=_mean)
    shuffled = [shuffle(view, part, target) for part in held]
    losses, r_held, s_held = _train(view, known, held, PASSES, best, shuffled, deadline)
    finished = is_clear(r_held, best) or len(losses) >= PASSES * len(known)
    return Pair(losses, b_losses, r_held, b_held, s_held, supervised, how, sum(map(examples_in, known)), finished)


def pieces(batches: list[Any]) -> list[tuple[Any, Any]]:
    """Up to ten pairs of examples to train on, three quarters, and to hold out; large batches give several.

    Raises:
        NotApplicable: The tensors of a batch share no first dimension, or there are too few examples.
    """
    wanted = math.ceil(BATCHES / len(batches))
    found: list[tuple[Any, Any]] = []
    for batch in batches:
        size = examples_in(batch)
        step = min(EXAMPLES, size) if size < 2 * EXAMPLES else max(EXAMPLES, size // wanted)
        starts = range(0, min(size, wanted * step), max(1, step))
        spans = [(start, min(start + EXAMPLES, size)) for start in starts]
        found += [
            (rows_of(batch, a, b - (b - a) // 4), rows_of(batch, b - (b - a) // 4, b))
            for a, b in spans
            if b - a >= LEAST
        ]
    if len(found) < LEAST_PIECES:
        sizes = ", ".join(str(examples_in(batch)) for batch in batches[:LEAST_PIECES])
        raise NotApplicable(f"batches of {sizes} examples are too few to train on some and to hold out others.")
    return found[:BATCHES]


def rows_of(batch: Any, start: int, stop: int) -> Any:
    """Some examples of a batch."""
    return mapped(batch, lambda part: part[start:stop] if isinstance(part, Tensor) and part.dim() > 0 else part)


def target_of(view: View, batch: Any) -> tuple[tuple[Any, ...] | None, bool]:
    """Where in a batch the labels are, and whether the loss was seen to use them."""
    inputs, target = view.split(batch)
    given = {id(leaf) for _, leaf in leaves(inputs)}
    with view.step(batch) as step:
        for call in step.calls:
            for path, leaf in leaves(batch):
                if _same(call, leaf):
                    if id(leaf) in given:
                        raise NotApplicable("the loss compares the network's output with its own inputs.")
                    return path, True
    ids = {id(leaf) for _, leaf in leaves(target)}
    return next((path for path, leaf in leaves(batch) if id(leaf) in ids), None), False


def _same(call: LossCall, leaf: Tensor) -> bool:
    target = call.target.detach().cpu()
    return (
        leaf.dim() > 0 and leaf.numel() == target.numel() and torch.equal(leaf.flatten().to(target), target.flatten())
    )


def _others(view: View, batch: Any, target: tuple[Any, ...] | None) -> list[Tensor]:
    """All tensors of a batch that are no labels."""
    found = [leaf for path, leaf in leaves(batch) if path != target and leaf.dim() > 0 and leaf.numel() > 0]
    if not found or target is None:
        raise NotApplicable("the batch does not show what is input and what is label.")
    return found


def blind(view: View, batch: Any, target: tuple[Any, ...] | None) -> Any:
    """A batch without its inputs: zeros for floats, those of another example for whole numbers."""
    wanted = {id(leaf) for leaf in _others(view, batch, target)}

    def change(part: Any) -> Any:
        if id(part) not in wanted:
            return part
        return torch.zeros_like(part) if part.is_floating_point() else part.roll(max(1, len(part) // 2), 0)

    return mapped(batch, change)


def shuffle(view: View, batch: Any, target: tuple[Any, ...] | None) -> Any:
    """A batch whose inputs belong to other examples."""
    wanted = {id(leaf) for leaf in _others(view, batch, target)}
    return mapped(batch, lambda part: part.roll(max(1, len(part) // 2), 0) if id(part) in wanted else part)


def _train(
    view: View,
    batches: list[Any],
    held: list[Any],
    passes: int,
    until_below: list[float] | None,
    shuffled: list[Any] | None,
    deadline: Deadline,
) -> tuple[list[float], list[list[float]], list[float]]:
    """Losses of the steps, of the held-out batches after each pass, and of the shuffled ones at the end."""
    with view.on_loan() as lent:
        torch.manual_seed(SEED)
        calm(view.module)
        steps = train(view, lent, batches, RampedAdam(parameters_of_one_aim(view), RATE))
        losses: list[float] = []
        kept = [_losses(view, lent, held)]
        for _ in range(passes):
            losses += islice(steps, len(batches))
            kept.append(_losses(view, lent, held))
            if until_below is not None and is_clear(kept, until_below):
                break
            if deadline.left == 0 or not math.isfinite(losses[-1]):
                break
        return losses, kept, _losses(view, lent, shuffled or [])


def _losses(view: View, lent: list[Tensor], batches: list[Any]) -> list[float]:
    return [float(loss_of(view, lent, batch, index).detach()) for index, batch in enumerate(batches)]


def gains(real: list[float], blind: list[float]) -> tuple[float, float]:
    """How much lower the first losses are, and the standard error of that, over pairs of batches."""
    differences = torch.tensor(blind, dtype=torch.float64) - torch.tensor(real, dtype=torch.float64)
    if len(differences) < 2:
        return float(differences.mean()), math.inf
    return float(differences.mean()), float(differences.std()) / math.sqrt(len(differences))


def is_clear(held_real: list[list[float]], held_blind: list[float]) -> bool:
    """Whether after some pass real inputs did better by more than noise."""
    for losses in held_real[1:]:
        gain, error = gains(losses, held_blind)
        if gain > ERRORS * error and gain > 0:
            return True
    return False


def _mean(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else math.inf

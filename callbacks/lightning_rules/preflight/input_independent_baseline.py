"""The rule input-independent-baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.paired_training import ERRORS, Pair, gains, paired_training
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.view import View

NAME = "input-independent-baseline"
SAME = 1e-5  # of the loss: the two trainings are one and the same
MOVED = 1e-3  # of the loss: less is no training
LEARNED = 0.6  # of the blind training's loss: the labels were learned, be it by heart
EXCLUDED = 0.03  # of the blind loss: a smaller gain on held-out examples is none
ENOUGH = 150  # examples, below which nothing is said of labels without signal


class InputIndependentBaseline(PreflightCheck):
    """Real inputs do better than none.

    Why: A network that ignores its inputs still lowers its loss, to that of the labels' prior, and looks as if it
        learned. Only the comparison with the same training without inputs tells the two apart.

    What it does: Divides up to ten batches of at most 32 examples into three quarters to train on and one to hold out.
        Trains with Adam of its own at 0.005, from the same start, once on inputs that are zeroed (token ids: given to
        other examples), once on real ones, until these do better on the held-out examples by more than three standard
        errors of the paired differences, or for twelve passes. All of it is undone.

    Fires when: Both trainings give the same losses at each step, to 1e-5, although the loss moves: the network does
        not see its inputs (error). The loss of at least 150 training examples falls below 60% of the blind
        training's, and yet a gain of 3% on the held-out ones is excluded, by three standard errors after each pass:
        labels were learned by heart that inputs do not tell (warning). Everything between is undecided (information):
        hard data, few steps.

    Under DDP: Each rank trains by itself on batches of its own, outside the process group; held-out losses of all
        ranks are judged together. Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: 20 training steps on 24 examples where the inputs tell something, up to 130 where they do not: 0.3 s for a
        small network, 1 s for timm's ``test_resnet`` at 32x32 on one core. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[InputIndependentBaseline(budget=None)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "input-independent baseline".

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "input-independent baseline"'

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(budget, on_error)

    def measure(self, view: View, deadline: Deadline) -> Pair:
        """Train twice on batches of this rank."""
        return paired_training(view, deadline)

    def judge(self, ranks: Sequence[Pair]) -> Iterable[Finding]:
        """One verdict on all ranks' pairs together."""
        yield judge_pair(joined(ranks))


def joined(ranks: Sequence[Pair]) -> Pair:
    """The held-out batches of all ranks side by side, up to the pass that all of them have taken."""
    passes = min(len(rank.held_real) for rank in ranks)
    return Pair(
        real=[loss for rank in ranks for loss in rank.real],
        blind=[loss for rank in ranks for loss in rank.blind],
        held_real=[[loss for rank in ranks for loss in rank.held_real[number]] for number in range(passes)],
        held_blind=[[loss for rank in ranks for loss in min(rank.held_blind, key=sum)]],
        held_shuffled=[loss for rank in ranks for loss in rank.held_shuffled],
        supervised=all(rank.supervised for rank in ranks),
        how=ranks[0].how,
        examples=sum(rank.examples for rank in ranks),
        finished=all(rank.finished for rank in ranks),
    )


def judge_pair(pair: Pair) -> Finding:
    """Whether real inputs do better than none; pure."""
    blind = min(pair.held_blind, key=sum)
    passes = [gains(losses, blind) for losses in pair.held_real[1:]]
    best = max(range(len(passes)), key=lambda number: passes[number][0] - ERRORS * passes[number][1])
    gain, error = passes[best]
    real, zero = _mean(pair.held_real[best + 1]), _mean(blind)
    evidence = {
        "held_out_real": real,
        "held_out_blind": zero,
        "held_out_shuffled": _mean(pair.held_shuffled),
        "gain": gain,
        "standard_error": error,
        "steps": len(pair.real),
        "examples": pair.examples,
    }
    with_real = f"After {len(pair.real)} steps the held-out loss is {real:.3g} with real inputs"
    told = f"{with_real}, {zero:.3g} with {pair.how} ones"
    if not all(map(math.isfinite, (real, zero, gain))):
        return Finding(NAME, Severity.INFO, f"{told}; they are not to be compared.", "", evidence)
    if is_same(pair):
        message = (
            f"Training with {pair.how} inputs gives the same losses as with real ones, to {SAME:g} in each of "
            f"{min(len(pair.real), len(pair.blind))} steps: the network does not see its inputs."
        )
        advice = (
            "Look for inputs that are zeroed or lost on the way, weights that start at zero, dead activations behind a "
            "large negative bias."
        )
        return Finding(NAME, Severity.ERROR, message, advice, evidence)
    if gain > ERRORS * error:
        return Finding(NAME, Severity.OK, f"{told}: the inputs tell something.", "", evidence)
    if is_excluded(pair, passes, zero):
        train = _tail(pair.real)
        message = (
            f"{told}, although the loss on {pair.examples} examples fell to {train:.3g}: labels are learned by heart, "
            "and the inputs tell nothing about those of other examples"
        )
        advice = (
            "Look at inputs and labels side by side: labels shuffled or shifted against their inputs look like this."
        )
        return Finding(NAME, Severity.WARNING, f"{message}.", advice, evidence)
    return Finding(NAME, Severity.INFO, f"{told}: undecided, too few steps to tell.", "", evidence)


def is_same(pair: Pair) -> bool:
    """Whether both trainings moved the loss, and did exactly the same."""
    pairs = list(zip(pair.real, pair.blind, strict=False))
    scale = max(abs(loss) for loss in pair.blind)
    moved = max(pair.blind) - min(pair.blind) > MOVED * scale or _spread(pair) > MOVED * scale
    return moved and all(abs(real - blind) <= SAME * scale for real, blind in pairs)


def _spread(pair: Pair) -> float:
    means = [_mean(losses) for losses in pair.held_real]
    return max(means) - min(means)


def is_excluded(pair: Pair, passes: Sequence[tuple[float, float]], blind: float) -> bool:
    """Whether labels were learned, and a gain on held-out examples can be excluded after every pass."""
    if not (pair.supervised and pair.finished and pair.how == "zeroed" and pair.examples >= ENOUGH and blind > 0):
        return False
    highest = max(gain + ERRORS * error for gain, error in passes)
    return _tail(pair.real) < LEARNED * _tail(pair.blind) and highest < EXCLUDED * blind


def _tail(losses: Sequence[float]) -> float:
    """The mean of the last losses."""
    return _mean(losses[-5:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""The rule overfit-one-batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.one_batch import Seen, measure_one_batch
from lightning_rules.preflight.own_optimiser import OwnSteps
from lightning_rules.preflight.yardsticks import Yardsticks
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.view import View

NAME = "overfit-one-batch"
FITTED = 0.15  # of the distance from the constant's loss to the floor
NOTHING = 0.97
UNBOUNDED = 10.0  # times its start below zero, from where a loss that started as minus the labels' entropy has no floor
PARTIAL = 0.1  # share of frozen weights from which the floor is unknown
SAME = 0.02  # of the loss: as good as without inputs
MOVED = 0.01
ROSE = 1.1  # times the loss at the start
SPIKE = 3.0
STILL = 1e-6


class OverfitOneBatch(PreflightCheck):
    """A few examples can be learned by heart.

    Why: A network that works drives the loss of a handful of examples to its floor in some dozens of steps, whatever
        it will make of the rest. One that cannot has a bug, or too little capacity: a wrong loss, lost inputs,
        gradients that do not arrive, weights that start all alike. No other single check finds as many.

    What it does: Cuts a batch to 16 examples of as many classes as there are, switches dropout off, and trains on
        them with Adam of its own at 0.01, then, if need be, at 0.001, until they are learned or nothing moves any
        more. What was reached is set beside what the best constant output reaches and beside the floor, which is
        above zero for smoothed or soft labels and for equal inputs with different labels. Then 20 steps are taken on
        the whole batch with a fresh copy of the run's own optimiser at its highest rate, where that takes 2 s at
        most. Last it looks for dropout that stays on in evaluation mode. All of it is undone.

    Fires when: The training ends at a plateau no lower than 97% of the way from the floor to the constant's loss, or
        the loss function's value rises while what the step returns falls (error); it ends above 15% of that way
        (warning), where the network has two trained layers or more and at least five weights a target. With over 10%
        of the weights frozen, or many targets an example, only no progress speaks, and as a warning. Where the loss
        is not one of torch's, or a sum, two things speak: it does not fall at all (warning), or it falls no lower
        than with zeroed inputs (error). The run's own optimiser leaves a loss that is not finite, that is 10% above
        the start, or that did not change by one part in a million (warning). ``F.dropout`` inside a forward is on in
        evaluation mode (warning).

    Under DDP: Each rank trains by itself on a batch of its own, outside the process group; the rank that came
        furthest is judged, so that all find the same. Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: 10 to 60 training steps on 16 examples, up to 430 where they cannot be learned: 0.1 s for a small network,
        0.5 s for timm's ``test_resnet`` at 32x32 on one core. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[OverfitOneBatch(budget=None)], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "overfit one batch"; Goodfellow, Bengio,
        Courville (2016), Deep Learning, section 11.5.

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = (
        'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "overfit one batch"; '
        "Goodfellow, Bengio, Courville (2016), Deep Learning, section 11.5"
    )

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(budget, on_error)

    def measure(self, view: View, deadline: Deadline) -> Seen:
        """Fit one batch of this rank."""
        return measure_one_batch(view, deadline)

    def judge(self, ranks: Sequence[Seen]) -> Iterable[Finding]:
        """One verdict on the rank that came furthest, and one on dropout."""
        best = min(ranks, key=share)
        fitted = judge_fit(best)
        yield fitted
        if best.dropout is not None:
            yield judge_dropout(*best.dropout)
        owns = [] if fitted.severity >= Severity.WARNING else [seen.own for seen in ranks if seen.own is not None]
        yield from [found for own in owns if (found := judge_own(own, best.yardsticks)) is not None][:1]


def share(seen: Seen) -> float:
    """What is left of the distance from a constant's loss to the floor; from the start's to 0 where that is unknown."""
    if not math.isfinite(seen.reached):
        return math.inf
    if seen.yardsticks is None:
        return seen.reached / abs(seen.start) if seen.start > 0 else 0.0
    span = seen.yardsticks.constant - seen.yardsticks.floor
    return (seen.reached - seen.yardsticks.floor) / span if span > 0 else 0.0


def judge_fit(seen: Seen) -> Finding:
    """How far the batch was learned; pure."""
    evidence = {
        "loss_start": seen.start,
        "loss_reached": seen.reached,
        "steps": seen.steps,
        "examples": seen.examples,
        "rate": seen.rate,
        "left": share(seen),
    }
    known = seen.yardsticks
    if known is not None:
        evidence |= {"loss_constant": known.constant, "loss_floor": known.floor}
    severity, message, advice = _verdict(seen)
    what = f"{seen.examples} examples" if seen.examples else "one batch"
    told = f"{known.name if known else 'The loss'} on {what} went from {seen.start:.3g} to {seen.reached:.3g}"
    rows = f"; label: prediction: {seen.rows}" if seen.rows and severity >= Severity.WARNING else ""
    return Finding(
        NAME, severity, f"{told} in {seen.steps} steps of Adam at {seen.rate:g}; {message}{rows}.", advice, evidence
    )


def _verdict(seen: Seen) -> tuple[Severity, str, str]:
    if not math.isfinite(seen.reached) and math.isfinite(seen.start):
        return Severity.WARNING, "no later loss was finite", "Look for what is not finite in the network's gradients."
    if not math.isfinite(seen.reached):
        return Severity.INFO, "it is not finite", ""
    return _verdict_of_known(seen, seen.yardsticks) if seen.yardsticks is not None else _verdict_of_unknown(seen)


def _verdict_of_known(seen: Seen, known: Yardsticks) -> tuple[Severity, str, str]:
    if seen.alike and known.supervised and known.constant > 1e-6 and seen.reached > NOTHING * known.constant:
        return (
            Severity.ERROR,
            f"a constant reaches {known.constant:.3g}: all examples have the same input, and their labels differ",
            "Look at what the loader gives: inputs that were zeroed, overwritten or read from one place.",
        )
    if known.constant - known.floor <= 1e-3 * max(1e-6, known.constant):
        return Severity.INFO, "its targets are all alike, so that there is nothing to learn", ""
    left = share(seen)
    expected = f"a constant reaches {known.constant:.3g}, and {known.floor:.3g} is possible"
    if left <= FITTED:
        return Severity.OK, expected, ""
    if seen.fell and seen.reached > 1.5 * max(seen.start, known.constant):
        advice = "Return the loss with its sign as it is."
        return Severity.ERROR, f"{expected}: it rises while what training_step returns falls", advice
    partial = seen.frozen > PARTIAL
    if left > NOTHING and seen.plateau and known.supervised and not (partial and left < 1):
        severity = Severity.WARNING if partial or known.dense else Severity.ERROR
        return severity, f"{expected}: it learns no more than a constant", _cause(seen, known, nothing=True)
    if seen.narrow:
        return Severity.INFO, f"{expected}, if the few values of an input tell the labels apart", ""
    severed = seen.unreached[0] > 0 and left > 2 * FITTED
    if (seen.plateau or severed) and known.supervised and seen.capable and not partial and not known.dense:
        return Severity.WARNING, f"{expected}: it stalls far above", _cause(seen, known, nothing=False)
    return Severity.INFO, f"{expected}: it was not learned by heart, for which this network may have its reasons", ""


def _cause(seen: Seen, known: Yardsticks, nothing: bool) -> str:
    if known.shapes:
        return f"Give output and target the same shape: {known.shapes} are broadcast against one another."
    if known.squashed:
        return f"Give {known.name} the logits: it applies {known.squashed[2:]} itself, and was given {known.squashed}."
    if seen.dropout is not None:
        return f"Switch dropout off in evaluation: pass training=self.training in {seen.dropout[0] or 'the module'}."
    unreached, trained = seen.unreached
    if unreached:
        return f"Look for a detach or a lost layer: {unreached} of {trained} parameters get no gradient from the loss."
    if nothing:
        return (
            "Look for inputs that are lost or zeroed, weights that start all alike or at zero, dead activations, a "
            "flipped sign, a clamped or broadcast loss."
        )
    return (
        "Look for a softmax or sigmoid before a loss that applies its own, an activation after the last layer, weights "
        "that start all alike, rows of the batch that mix, noise or dropout that is always on."
    )


def _verdict_of_unknown(seen: Seen) -> tuple[Severity, str, str]:
    advice = "Look for inputs that are lost, output and target of different shapes, weights that start at zero."
    flipped = bool(seen.entropy) and abs(seen.start + (seen.entropy or 0.0)) < FITTED * (seen.entropy or 0.0)
    if flipped and seen.reached < UNBOUNDED * seen.start:
        message = (
            f"it starts at the negative of what {seen.entropy:.3g} nats of labels cost and falls without bound: the "
            "sign is flipped, and training makes the labels less likely"
        )
        return Severity.ERROR, message, "Return the negative log-likelihood: put a minus before the log-likelihood."
    if seen.zeroed is not None and abs(seen.zeroed - seen.reached) <= SAME * abs(seen.reached):
        return Severity.ERROR, f"with inputs zeroed it reaches {seen.zeroed:.3g} as well", advice
    if seen.start - seen.reached < MOVED * abs(seen.start) and seen.plateau:
        return Severity.WARNING, "it does not go down at all", advice
    if seen.start > 0 and share(seen) <= FITTED:
        return Severity.OK, "it can be learned by heart", ""
    return Severity.INFO, "how low this loss can go is unknown", ""


def judge_dropout(where: str, rate: float) -> Finding:
    """Dropout in evaluation mode; pure."""
    return Finding(
        NAME,
        Severity.WARNING,
        f"Dropout of {rate:g} is applied in {where or 'the module'} although every module is in evaluation mode, "
        "where none is expected.",
        "Pass training=self.training to F.dropout, or use nn.Dropout, so that eval() switches it off.",
        {"rate": rate},
    )


def judge_own(own: OwnSteps, known: Yardsticks | None) -> Finding | None:
    """What the run's own optimiser did to the same batch; only a gross failure speaks. Pure."""
    evidence = {"own_start": own.start, "own_last": own.last, "own_moved": own.moved, "own_rate": own.rate}
    what = f"{own.steps} steps of {own.name} at {own.rate:g} on one batch took the loss from {own.start:.3g}"
    if not math.isfinite(own.start):
        return None
    if not math.isfinite(own.last):
        advice = "Lower the learning rate, or clip gradients."
        return Finding(NAME, Severity.WARNING, f"{what} to a value that is not finite.", advice, evidence)
    ceiling = own.start if known is None else max(own.start, known.constant)
    spiked = known is not None and own.highest > SPIKE * ceiling and own.last > 0.9 * min(own.start, known.constant)
    if own.start > 0 and (own.last > ROSE * own.start or spiked):
        advice = "Lower the learning rate; look for maximize=True and for a flipped sign."
        told = f"{what} to {own.last:.3g}, by way of {own.highest:.3g}, where it should fall."
        return Finding(NAME, Severity.WARNING, told, advice, evidence)
    if own.steps > 1 and own.start != 0 and own.moved < STILL:
        advice = "Raise the learning rate; look whether the optimiser holds the parameters that the loss depends on."
        message = f"{what} nowhere: it changed by {own.moved:.1e} of itself."
        return Finding(NAME, Severity.WARNING, message, advice, evidence)
    return None

"""Whether each loss is given what it expects: logits, log probabilities or probabilities, of the target's shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.function_calls import Difference, stretched
from lightning_rules.preflight.loss_facts import LossFacts
from lightning_rules.preflight.model_seen import ModelSeen

RIGHT_LOSS, BROADCAST = "right-loss", "silent-broadcast"
SMOOTHED = 0.5  # label smoothing; published recipes have 0.1 to 0.3
REGRESSIONS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
OWN = {"cross_entropy": "log-softmax", "binary_cross_entropy_with_logits": "sigmoid"}
UNREACHABLE = 0.2  # the share of targets that the output cannot reach
EXAMPLES = 4  # fewer say nothing about sums over the batch
FEW = 20  # distinct whole numbers that look like classes


@dataclass(frozen=True)
class LossesSeen:
    """What one rank's step gave its losses, and the subtractions that stretched both sides."""

    losses: tuple[LossFacts, ...]
    differences: tuple[Difference, ...]


def measure(seen: ModelSeen, deadline: Deadline) -> LossesSeen:
    """The losses of one training step."""
    return LossesSeen(seen.trace.losses, seen.trace.differences)


def judge(ranks: Sequence[LossesSeen]) -> list[Finding]:
    """The first finding of each call on any rank; one that all is well where there is none."""
    found: list[Finding] = []
    for calls in zip(*(rank.losses for rank in ranks), strict=False):
        found += next((judged for call in calls if (judged := list(judge_call(call)))), [])
    found += [finding for rank in ranks for finding in _differences(rank.differences)][:1]
    if not found and any(rank.losses for rank in ranks):
        names = ", ".join(dict.fromkeys(call.name for call in ranks[0].losses))
        found.append(Finding(RIGHT_LOSS, Severity.OK, f"{names} gets what it expects."))
    return found


def judge_call(call: LossFacts) -> Iterator[Finding]:
    """Findings on one call of a loss function; pure."""
    squashed = _squashed(call)
    if squashed is not None:
        yield squashed
    elif call.name in REGRESSIONS:
        yield from _regression(call)
    yield from _weighting(call)


def _finding(severity: Severity, call: LossFacts, message: str, advice: str) -> Finding:
    evidence: dict[str, float | int | str | bool | None] = {
        "lowest": call.lowest,
        "highest": call.highest,
        "output": str(call.output),
        "target": str(call.target),
    }
    return Finding(RIGHT_LOSS, severity, message, advice, evidence)


def _squashed(call: LossFacts) -> Finding | None:
    """What was done to the output before a loss, where that is not what the loss is for."""
    seen = f"values from {call.lowest:.3g} to {call.highest:.3g}"
    if len(call.output) > 1 and call.output[1] == 1 and call.name in ("cross_entropy", "nll_loss"):
        message = f"{call.name} is given one class (output of shape {call.output}): its softmax is 1 whatever it is."
        advice = "Give the last layer one output a class, or use binary_cross_entropy_with_logits."
        return _finding(Severity.ERROR, call, message, advice)
    if call.squashed == "Softmax" and call.lowest == call.highest == 1.0:
        message = f"A softmax over a dimension of size 1 stands before {call.name}: all outputs are 1."
        return _finding(Severity.ERROR, call, message, "Use a sigmoid for one output, or one output a class.")
    over_batch = call.sums.endswith("columns") and call.examples >= EXAMPLES
    if over_batch and (call.squashed in ("Softmax", "LogSoftmax") or call.name not in REGRESSIONS):
        message = f"The softmax before {call.name} runs over the batch: columns sum to 1, rows (examples) do not."
        return _finding(Severity.ERROR, call, message, "Take the softmax over the classes: dim=1 (or dim=-1).")
    if call.name == "cross_entropy":
        return _before_cross_entropy(call, seen)
    if call.name == "binary_cross_entropy_with_logits":
        return _before_logits(call, seen)
    return _before_nll(call, seen) if call.name == "nll_loss" else None


def _before_cross_entropy(call: LossFacts, seen: str) -> Finding | None:
    if call.squashed == "Softmax" or (call.sums == "rows" and not call.squashed):
        message = f"cross_entropy applies log-softmax itself and is given the output of a softmax ({seen}, sum 1)."
        return _finding(Severity.ERROR, call, message, "Remove the softmax: give cross_entropy the logits.")
    if call.squashed == "LogSoftmax":
        message = "cross_entropy applies log-softmax itself and is given the output of one: the second changes nothing."
        return _finding(Severity.INFO, call, message, "Give cross_entropy the logits, or use nll_loss.")
    if call.squashed in ("Sigmoid", "LogSigmoid", "Tanh", "Relu"):
        return _flattened(call, seen, "logits of any sign and size")
    return None


def _before_logits(call: LossFacts, seen: str) -> Finding | None:
    if call.squashed in ("Sigmoid", "Softmax", "LogSoftmax", "LogSigmoid"):
        name = call.squashed.lower()
        message = f"{call.name} applies a sigmoid itself and is given the output of a {name} ({seen})."
        advice = f"Remove the {name}: give {call.name} the logits."
        return _finding(Severity.ERROR, call, message, advice)
    return _flattened(call, seen, "logits of any sign and size") if call.squashed in ("Tanh", "Relu") else None


def _before_nll(call: LossFacts, seen: str) -> Finding | None:
    if call.sums == "rows":
        message = f"nll_loss expects log probabilities and is given probabilities ({seen}, sum 1): the log is missing."
        return _finding(Severity.ERROR, call, message, "Use log_softmax before nll_loss, or cross_entropy on logits.")
    if not call.sums and call.highest > 1e-3 and call.squashed != "LogSoftmax":
        message = f"nll_loss expects log probabilities (at most 0) and is given {seen}: the log-softmax is missing."
        return _finding(Severity.ERROR, call, message, "Use log_softmax before nll_loss, or cross_entropy on logits.")
    return None


def _flattened(call: LossFacts, seen: str, expected: str) -> Finding:
    message = f"{call.name} expects {expected} and is given the output of a {call.squashed.lower()} ({seen})."
    advice = f"Remove the {call.squashed.lower()} after the last layer."
    return _finding(Severity.WARNING, call, message, advice)


def _regression(call: LossFacts) -> Iterator[Finding]:
    broadcast = _broadcast(call)
    if broadcast is not None:
        yield broadcast
    elif call.below + call.above > UNREACHABLE:
        share = f"{call.below + call.above:.0%} of the targets ({call.target_lowest:.3g} to {call.target_highest:.3g})"
        message = f"{call.name}: {share} lie where a {call.squashed.lower()} output cannot get."
        advice = f"Remove the {call.squashed.lower()} after the last layer, or scale the targets to its range."
        yield _finding(Severity.WARNING, call, message, advice)
    else:
        labels = _labels(call)
        if labels is not None:
            yield labels


def _broadcast(call: LossFacts) -> Finding | None:
    if not stretched(call.output, call.target):
        return None
    message = f"{call.name} compares outputs of shape {call.output} with targets of shape {call.target}: "
    message += "broadcasting pairs every example with every other."
    advice = "Give both the same shape: output.squeeze(1), or target.unsqueeze(1)."
    return Finding(BROADCAST, Severity.ERROR, message, advice, {"output": str(call.output), "target": str(call.target)})


def _differences(differences: Sequence[Difference]) -> Iterator[Finding]:
    for pair in differences:
        if pair.output[0] != pair.target[0]:
            continue  # two axes on purpose: examples against centres, queries against keys
        message = f"An output of shape {pair.output} minus a target of shape {pair.target}: "
        message += "broadcasting pairs every example with every other."
        advice = "Give both the same shape: output.squeeze(1), or target.unsqueeze(1)."
        evidence = {"output": str(pair.output), "target": str(pair.target)}
        yield Finding(BROADCAST, Severity.ERROR, message, advice, evidence)


def _labels(call: LossFacts) -> Finding | None:
    """Class labels as targets of a regression loss."""
    classes = call.output[1] if len(call.output) == 2 else 0
    if call.one_hot and not call.reconstructs:
        severity = Severity.WARNING if call.squashed in ("Softmax", "Sigmoid") else Severity.INFO
        after = f" after a {call.squashed.lower()}, whose gradient vanishes where it is wrong and sure" * bool(
            call.squashed
        )
        message = f"{call.name} compares with one-hot labels of {classes} classes{after}."
        return _finding(severity, call, message, "Use cross_entropy on the logits with the class numbers.")
    numbers = call.whole and call.target_lowest >= 0 and 2 <= call.distinct <= FEW
    if numbers and classes > 2 and call.target == (call.output[0], 1) and call.target_highest < classes:
        message = f"{call.name} compares each of {classes} outputs with the number of the class."
        return _finding(Severity.WARNING, call, message, "Use cross_entropy on the outputs with the class numbers.")
    if numbers and call.distinct > 2 and len(call.output) <= 2 and max(1, classes) == 1:
        message = f"{call.name} on {call.distinct} whole numbers from {call.target_lowest:.0f} to "
        message += f"{call.target_highest:.0f}: right for amounts and ratings, wrong for the numbers of classes."
        return _finding(Severity.INFO, call, message, "For classes use cross_entropy with one output a class.")
    return None


def _weighting(call: LossFacts) -> Iterator[Finding]:
    if call.ignored == 1.0:
        message = f"{call.name}: every target of the batch equals ignore_index, so that nothing is learnt from it."
        yield _finding(Severity.ERROR, call, message, "Set ignore_index to a value that is no label.")
    elif call.dropped:
        message = f"{call.dropped:.0%} of the examples weigh nothing in {call.name}: their class is never learnt."
        advice = "Give their class a weight above 0, and ignore_index a value that is no label (-100)."
        yield _finding(Severity.WARNING, call, message, advice)
    if call.smoothing > SMOOTHED:
        message = f"{call.name} smooths labels by {call.smoothing:g}: little of them is left (0.1 is usual)."
        yield _finding(Severity.WARNING, call, message, "Set label_smoothing to 0.1 or less.")
    if call.weights is None:
        return
    lowest, highest, zeros, finite = call.weights
    if not finite or lowest < 0:
        said = "not all finite" if not finite else f"negative ({lowest:.3g})"
        message = f"The class weights of {call.name} are {said}."
        yield _finding(
            Severity.ERROR, call, message, "Use finite weights above 0: count missing classes as one example."
        )
    elif zeros:
        message = f"{zeros} class weights of {call.name} are 0 (the largest is {highest:.3g}): never learnt."
        yield _finding(Severity.INFO, call, message, "Keep this only for classes that are to be ignored.")


PART = Part((RIGHT_LOSS, BROADCAST), measure, judge)

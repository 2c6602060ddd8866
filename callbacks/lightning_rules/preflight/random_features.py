"""The rule random-features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.losses import Kind
from lightning_rules.preflight.head_features import Features, features_of, last_layer
from lightning_rules.preflight.linear_probe import constant, probe
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

NAME = "random-features"
EXAMPLES = 2048  # that the last layer is trained on, at most
EVALUATED = 1024
FEWEST = 20  # to evaluate on
VALUES = 2**27  # of inputs that are held in memory
CALIBRATION = 4  # batches from which batch norm takes its statistics
NORMS = nn.modules.batchnorm._NormBase
NOTHING = 2.0  # standard errors within which random features are no better than a constant
SOMETHING = 5.0  # standard errors by which the raw inputs are


@dataclass(frozen=True)
class ProbeSeen:
    """Sums over this rank's examples to evaluate on; wrong ones for classes, losses otherwise.

    Attributes:
        head: The last layer's name.
        kind: Of its loss.
        width: How many features reach it.
        trained_on: How many examples it was trained on.
        examples: How many it was evaluated on.
        constant: Sum for the best constant output.
        random: Sum for the trained last layer on random features.
        random_gain: Sum and sum of squares of constant - random.
        raw: Sum for a linear layer on the raw inputs; None where there was none.
        raw_gain: Sum and sum of squares of constant - raw.
        kept: Modules whose parameters could not be drawn anew.
    """

    head: str
    kind: Kind
    width: int
    trained_on: int
    examples: int
    constant: float
    random: float
    random_gain: tuple[float, float]
    raw: float | None
    raw_gain: tuple[float, float]
    kept: tuple[str, ...]


class RandomFeatures(PreflightCheck):
    """Random weights with a trained last layer already do better than a constant.

    Why: What an architecture alone brings shows before it is trained: a convolutional network with random weights
        has features that know where edges and blobs are. If nothing can be read off them, something on the way
        destroys the inputs, and training starts with that burden.

    What it does: Draws all weights anew (``reset_parameters``; layers that have none keep theirs, and are named),
        lets batch norm take its statistics from four batches, keeps what reaches the last layer for up to 2,048
        training and 1,024 validation examples, and trains that layer alone, by L-BFGS on standardised features with
        the weight decay that a fifth of the training examples likes best. Beside it stand the best constant output
        and the same layer on the raw inputs.

    Fires when: It reports (information). Random features no better than a constant, within two standard errors,
        where the raw inputs are, by five: warning.

    Under DDP: Each rank probes its own examples, and all tell the sums. Sharded strategies (FSDP, DeepSpeed): does
        not apply.

    Cost: One forward pass of up to 3,072 examples and some convex fits; 3 s for timm's test_resnet on digits, on one
        core. For ``check``, not for each fit. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RandomFeatures(budget=None)], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 9.9, "Random or unsupervised features".

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Goodfellow, Bengio and Courville (2016), Deep Learning, section 9.9, "Random or unsupervised features"'

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(budget, on_error)

    def measure(self, view: View, deadline: Deadline) -> ProbeSeen:
        """Probe random features, raw inputs and a constant."""
        first: Any = view.batches(1)[0]
        batches: list[Any] = view.batches(_count(first, EXAMPLES))
        others = _others(view, first)
        with view.on_loan(), torch.random.fork_rng(devices=[]):
            name, layer, kind, outputs = last_layer(view, first)
            kept = draw_anew(view.module)
            view.module.eval()
            once = Deadline()
            _calibrate(view, batches)
            deadline.require(once.spent / CALIBRATION * (len(batches) + len(others)), "a probe of random features")
            train = features_of(view, layer, batches)
            evaluate = features_of(view, layer, others) if others else None
        train, evaluate = (train, evaluate) if evaluate is not None else _halves(train)
        return see_probes(name, kind, outputs, train, evaluate, kept)

    def judge(self, ranks: Sequence[ProbeSeen]) -> list[Finding]:
        """The report, from the sums of all ranks."""
        return [judge_probes(ranks)]


def _count(batch: Any, examples: int) -> int:
    """How many batches hold so many examples, and no more than fits into memory."""
    parts = [part for _, part in leaves(batch)]
    size = max((len(part) for part in parts if part.dim() > 0), default=1)
    held = sum(part.numel() for part in parts)
    return max(1, min(math.ceil(examples / max(1, size)), VALUES // max(1, held)))


def _others(view: View, first: Any) -> list[Any]:
    """Validation batches that the training step takes; none where there are none, or it does not."""
    try:
        others: list[Any] = view.validation_batches(_count(first, EVALUATED))
        with view.step(others[0], evaluation=True) as step:
            usable = bool(step.calls)
    except Exception:  # the validation set need not be made for the training step
        return []
    return others if usable else []


def _halves(features: Features) -> tuple[Features, Features]:
    """Where there is no validation set, every fourth training example is evaluated on."""
    held = torch.arange(len(features.values)) % 4 == 3

    def part(which: Tensor) -> Features:
        raw = None if features.raw is None else features.raw[which]
        return Features(features.values[which], features.targets[which], raw)

    return part(~held), part(held)


@torch.no_grad()
def draw_anew(module: nn.Module) -> tuple[str, ...]:
    """Draw all weights anew, always the same; returns the modules that keep some, for they cannot."""
    torch.manual_seed(0)
    kept = []
    for name, part in module.named_modules():
        if not any(parameter is not None for parameter in part._parameters.values()):
            continue
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset):
            reset()
        else:
            kept.append(name or type(part).__name__)
    return tuple(kept)


def _calibrate(view: View, batches: Sequence[Any]) -> None:
    """Let batch norm average its statistics over some batches, with all else in evaluation mode."""
    norms = [part for part in view.module.modules() if isinstance(part, NORMS) and part.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for index in range(CALIBRATION):
        view.loss(batches[index % len(batches)], index)
    for norm in norms:
        norm.eval()


def see_probes(
    head: str, kind: Kind, outputs: int, train: Features, evaluate: Features, kept: tuple[str, ...]
) -> ProbeSeen:
    """Train and evaluate the three."""
    if len(train.values) < 2 * outputs or len(evaluate.values) < FEWEST:
        raise NotApplicable(f"{len(train.values)} examples are too few for a last layer of {outputs} outputs.")
    if not bool(train.values.isfinite().all() and evaluate.values.isfinite().all()):
        raise NotApplicable("random weights give features that are not finite.")
    nothing = constant(kind, outputs, train.targets, evaluate.targets)
    random = probe(kind, outputs, (train.values, train.targets), (evaluate.values, evaluate.targets))
    raw = None
    if train.raw is not None and evaluate.raw is not None:
        raw = probe(kind, outputs, (train.raw, train.targets), (evaluate.raw, evaluate.targets))
    return ProbeSeen(
        head=head,
        kind=kind,
        width=train.values.shape[1],
        trained_on=len(train.values),
        examples=len(nothing),
        constant=float(nothing.sum()),
        random=float(random.sum()),
        random_gain=_gain(nothing, random),
        raw=None if raw is None else float(raw.sum()),
        raw_gain=(0.0, 0.0) if raw is None else _gain(nothing, raw),
        kept=kept,
    )


def _gain(nothing: Tensor, something: Tensor) -> tuple[float, float]:
    difference = nothing - something
    return float(difference.sum()), float(difference.square().sum())


def judge_probes(ranks: Sequence[ProbeSeen]) -> Finding:
    """The three beside one another; pure."""
    seen, count = ranks[0], sum(rank.examples for rank in ranks)
    nothing, random = sum(rank.constant for rank in ranks) / count, sum(rank.random for rank in ranks) / count
    raw = sum(rank.raw or 0.0 for rank in ranks) / count if all(rank.raw is not None for rank in ranks) else None
    classes = seen.kind == "softmax"
    unit = "accuracy" if classes else "loss" if seen.kind == "sigmoid" else "squared error"

    def told(value: float) -> str:
        return f"{1 - value:.1%}" if classes else f"{value:.3g}"

    beside = f"a linear layer on the raw inputs {told(raw)}" if raw is not None else "raw inputs were not probed"
    some = "1 module keeps its weights" if len(seen.kept) == 1 else f"{len(seen.kept)} modules keep their weights"
    keeps = f"; {some}, `{seen.kept[0]}` the first" if seen.kept else ""
    message = (
        f"Random weights with a trained last layer (`{seen.head}`, {seen.width} features, {seen.trained_on} examples) "
        f"reach {unit} {told(random)} on {count} other examples; a constant {told(nothing)}, {beside}{keeps}."
    )
    evidence = {"random": random, "constant": nothing, "raw": raw, "examples": count, "features": seen.width}
    lost = _errors([rank.random_gain for rank in ranks], count) < NOTHING
    if raw is not None and lost and _errors([rank.raw_gain for rank in ranks], count) > SOMETHING:
        advice = (
            "Look for what loses the inputs on the way to the last layer: pooling over everything, the wrong time "
            "step or dimension, activations that saturate, or a part that is not called."
        )
        return Finding(NAME, Severity.WARNING, message, advice, evidence)
    return Finding(NAME, Severity.INFO, message, "", evidence)


def _errors(gains: Sequence[tuple[float, float]], count: int) -> float:
    """The mean gain over a constant, in standard errors."""
    mean = sum(total for total, _ in gains) / count
    variance = max(0.0, sum(squares for _, squares in gains) / count - mean**2)
    return mean / max(1e-12, math.sqrt(variance / count))

"""The rule loss-at-init."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.exhibit import Bars, Exhibit, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.losses import Kind, LossCall
from lightning_rules.priors import constant_output, per_example, tally_of
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.view import Step, View

NAME = "loss-at-init"
BATCHES = 4
TOLERANCE = 0.25  # of the expected loss; two-sided, no alarm on 30 healthy configurations
FRESH_LOGITS = 0.25  # nats that a default initialisation of the last layer adds: half the variance of its logits
FRESH_VALUES = 1.0  # of the targets' variance: what a fresh regression output may add
NOISE = 3.0  # standard errors
SCALED_AWAY = 0.01  # a returned loss this small a part of what the loss function gave
# Without a cause in sight, only this multiple of the expected loss is an alarm: some networks of good repute (timm's
# EfficientNets with few classes) start 7 times too high, or 140 times in squared error, and train well.
GROSS = {"softmax": 10.0, "sigmoid": 10.0, "mean": 300.0, "median": 17.0}
UNNORMALISED = 8.0  # root mean square of the inputs; normalised ones are near 1
CONSTANT = 1e-9  # targets whose prior's loss is below this share of their mean square do not vary


@dataclass(frozen=True)
class LossSeen:
    """Sums over the examples of the probed batches, for one loss; those of ranks add up.

    Attributes:
        examples: How many examples.
        loss: Sum of the network's losses.
        prior: Sum of the losses of the best constant output.
        zero: Sum of the losses of an output of zeros (for classes: all alike).
        excess_squared: Sum of the squares of (network's loss - prior's loss).
        returned: Sum over batches of the ratio of what the step returned to what the loss function gave.
        flat: Batches in which the returned loss has no gradient with respect to the network's output.
        batches: In how many batches ``returned`` and ``flat`` were looked at; 0 where the step sums several losses.
        input_square: Sum over examples of the mean square of the inputs.
    """

    examples: float = 0.0
    loss: float = 0.0
    prior: float = 0.0
    zero: float = 0.0
    excess_squared: float = 0.0
    returned: float = 0.0
    flat: float = 0.0
    batches: float = 0.0
    input_square: float = 0.0

    def __add__(self, other: LossSeen) -> LossSeen:
        return LossSeen(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class LossAtInit(Rule):
    """The loss starts at the value that the initialisation implies.

    Why: Before training a network knows nothing of the inputs, so its loss is known in advance: for n balanced
        classes -log(1/n), with a bias from the labels the entropy of their prior, for squared error the variance of
        the targets. Another value means that the loss is not what one thinks it is, or that the network starts with
        outputs so large that it first has to unlearn them.

    What it does: Runs ``training_step`` on up to four batches before the first step, computes each loss anew for the
        best constant output (the effective prior: class weights, sampler and label smoothing folded in) on the same
        targets, and compares the two example by example, so that the luck of the batch cancels. Then it compares
        what the step returned with what its loss function gave.

    Fires when: The loss is not finite (error). It is above both the prior's loss and that of an all-zero output by
        more than 25%, three standard errors and what a healthy fresh last layer adds (0.25 nats for classes, the
        variance of the targets for regression), and the inputs are not normalised (root mean square above 8), or it
        is 10 times too high for classes, 300 times for squared error (warning; below that, for a person's eye).
        The returned loss is the negative of the loss function (error), has no gradient with respect to the output
        (error), or is less than 1% of the loss function (warning). A loss between the prior's and that of zeros says
        that the bias was not set, one below the prior's that the network was trained before (information).

    Under DDP: Each rank probes its own batches, sums are added over ranks, and all ranks find the same. Sharded
        strategies (FSDP, DeepSpeed): does not apply.

    Cost: Forward passes of four batches before the first step, none afterwards; no trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LossAtInit(on_error="raise")], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "verify loss @ init".

    Args:
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "verify loss @ init"'
    kind = "check"

    def __init__(self, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the loss before the first step."""
        self.observe(trainer, lambda: see_losses(trainer, pl_module), judge_ranks)

    def exhibits(self) -> list[Exhibit]:
        """The loss beside what it should be, once it was seen."""
        seen = next((one.evidence for one in self.findings if "prior_loss" in one.evidence), None)
        if seen is None:
            return []
        labels = ["this network", "the best constant answer", "a network that puts out zeros"]
        values = [float(seen[name] or 0.0) for name in ("loss", "prior_loss", "zero_output_loss")]
        caption = f"Of {seen['examples']:,.0f} examples. A fresh network knows no more than the best constant answer."
        content = Bars(labels, values, "loss before the first step")
        return [Exhibit("loss_at_init", Section.INITIALISATION, "Loss at the start", caption, content, [NAME])]


def see_losses(trainer: Any, pl_module: Any) -> dict[tuple[int, str, Kind], LossSeen]:
    """Measure each loss of the training step on a few batches.

    Returns:
        Sums, by the loss's place in the step, its name and its kind.

    Raises:
        NotApplicable: The run is resumed, has no loader, or its step calls no loss function with a best constant.
    """
    if trainer.global_step > 0 or trainer.ckpt_path:
        raise NotApplicable("the run is resumed, and its loss does not start here.")
    view = View(trainer, pl_module)
    seen: dict[tuple[int, str, Kind], LossSeen] = {}
    batches: list[Any] = view.batches(BATCHES)
    for batch in batches:
        with view.step(batch) as step:
            for place, call in enumerate(step.calls):
                key = (place, call.name, call.kind)
                seen[key] = seen.get(key, LossSeen()) + see_loss(view, step, call, batch)
    if not seen:
        raise NotApplicable("training_step calls none of torch's loss functions whose value at the start is known.")
    return seen


def see_loss(view: View, step: Step, call: LossCall, batch: Any) -> LossSeen:
    """Measure one loss on one batch."""
    bias = call.head.bias if call.head is not None else None
    width = call.output.shape[call.class_dim] if call.output.dim() > 1 or call.kind == "softmax" else 1
    outputs = width if bias is None or call.kind == "softmax" else bias.numel()
    prior = per_example(call, constant_output(call, tally_of(view, call, batch, outputs).constant))
    zero = per_example(call, constant_output(call, _nothing(call, outputs)))
    loss = per_example(call, call.output)
    alone = len(step.calls) == 1 and view.module.automatic_optimization and call.value.dim() == 0
    returned, flat = _returned(step, call) if alone else (0.0, 0.0)
    return LossSeen(
        examples=float(len(loss)),
        loss=float(loss.sum()),
        prior=float(prior.sum()),
        zero=float(zero.sum()),
        excess_squared=float(((loss - prior) ** 2).sum()),
        returned=returned,
        flat=flat,
        batches=float(alone),
        input_square=_input_square(view, batch) * len(loss),
    )


def _input_square(view: View, batch: Any) -> float:
    """The mean square of the inputs of a batch, the largest of its parts; 0 where none is a float."""
    inputs, _ = view.split(batch)
    floats = [part for _, part in leaves(inputs) if part.is_floating_point() and part.numel() > 0]
    return max((float(part.float().square().mean()) for part in floats), default=0.0)


def _nothing(call: LossCall, outputs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a network whose last layer is all zeros puts out; log probabilities where the loss is given those."""
    return np.full(outputs, -np.log(outputs) if call.kind == "softmax" else 0.0)


def _returned(step: Step, call: LossCall) -> tuple[float, float]:
    """The returned loss over the loss function's value, and whether its gradient at the output is zero."""
    value = float(call.value.detach())
    if step.loss is None or step.loss.numel() != 1 or value == 0.0:
        return 1.0, 0.0
    (gradient,) = torch.autograd.grad(step.loss.sum(), call.output, retain_graph=True, allow_unused=True)
    (expected,) = torch.autograd.grad(call.value, call.output, retain_graph=True)
    flat = bool(_is_zero(gradient) and not _is_zero(expected))
    return float(step.loss.detach()) / value, float(flat)


def _is_zero(gradient: Tensor | None) -> bool:
    return gradient is None or not bool(gradient.any())


def judge_ranks(ranks: Sequence[dict[tuple[int, str, Kind], LossSeen]]) -> list[Finding]:
    """Add up what the ranks saw, and judge each loss."""
    total: dict[tuple[int, str, Kind], LossSeen] = {}
    for rank in ranks:
        for key, seen in rank.items():
            total[key] = total.get(key, LossSeen()) + seen
    return [finding for (_, name, kind), seen in total.items() for finding in judge(name, kind, seen)]


def judge(name: str, kind: Kind, seen: LossSeen) -> list[Finding]:
    """Findings on one loss; pure."""
    broken = judge_returned(name, seen)
    return [broken] if broken is not None else [judge_start(name, kind, seen)]


def judge_returned(name: str, seen: LossSeen) -> Finding | None:
    """Whether what the step returns is the loss it computes."""
    if not seen.batches:
        return None
    ratio = seen.returned / seen.batches
    evidence = {"returned_over_loss": ratio}
    if seen.flat == seen.batches:
        message = f"training_step returns a loss without gradient: {name} has one, what is returned has none."
        advice = "Return the loss itself: look for a clamp, a rounding, a detach or an item() on the way."
        return Finding(NAME, Severity.ERROR, message, advice, evidence)
    if abs(ratio + 1) < 1e-3:
        message = f"training_step returns the negative of {name}: training would maximise it."
        return Finding(NAME, Severity.ERROR, message, "Return the loss with its sign as it is.", evidence)
    if 0 <= ratio < SCALED_AWAY:
        message = f"training_step returns {ratio:.1e} times {name}: gradients are smaller by as much."
        advice = "Return the loss unscaled; set the step's size by the learning rate."
        return Finding(NAME, Severity.WARNING, message, advice, evidence)
    return None


def judge_start(name: str, kind: Kind, seen: LossSeen) -> Finding:
    """Whether the loss starts where a network that knows nothing starts."""
    n = seen.examples
    loss, prior, zero = seen.loss / n, seen.prior / n, seen.zero / n
    noise = NOISE * (max(0.0, seen.excess_squared / n - (loss - prior) ** 2) / n) ** 0.5
    slack = TOLERANCE * prior + noise
    highest = max(prior, zero)
    fresh = FRESH_LOGITS if kind in ("softmax", "sigmoid") else FRESH_VALUES * prior
    ceiling = highest + TOLERANCE * highest + noise + fresh
    input_rms = (seen.input_square / n) ** 0.5
    evidence = {"loss": loss, "prior_loss": prior, "zero_output_loss": zero, "examples": n, "input_rms": input_rms}

    def finding(severity: Severity, message: str, advice: str = "") -> Finding:
        return Finding(NAME, severity, f"{name} starts at {loss:.3g}; {message}", advice, evidence)

    if not np.isfinite(loss):
        advice = "Look for a logarithm of zero, a division by zero or non-finite inputs on the way to the loss."
        return finding(Severity.ERROR, "a finite number was expected.", advice)
    if prior <= CONSTANT * max(1e-12, zero):
        return finding(Severity.INFO, "the targets do not vary, so that there is nothing to compare it with.")
    expected = f"the prior of the labels alone reaches {prior:.3g}"
    if loss > ceiling and input_rms > UNNORMALISED:
        message = f"{expected}, and the inputs have a root mean square of {input_rms:.3g} where about 1 is usual."
        return finding(Severity.WARNING, message, "Normalise the inputs with statistics of the training set.")
    if loss > GROSS[kind] * highest:
        message = f"{expected}, an output of zeros {zero:.3g}."
        return finding(Severity.WARNING, message, "Scale the initial weights down: the outputs start far too large.")
    if loss > ceiling:
        advice = "If the first steps are rough, scale the initial weights of the last layer down."
        return finding(Severity.INFO, f"{expected}: the outputs start large.", advice)
    if loss < prior - slack:
        return finding(Severity.INFO, f"{expected}: the network knows something already, as after pretraining.")
    if loss > prior + slack + fresh and zero > prior + slack:
        advice = "LastLayerBiasInit sets the bias from the labels and saves the steps that only learn it."
        return finding(Severity.INFO, f"{expected}: the network has not been told the prior.", advice)
    return finding(Severity.OK, f"{expected}.")

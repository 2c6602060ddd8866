"""The rule last-layer-bias-init."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_rules.finding import Finding, Severity
from lightning_rules.losses import Head, LossCall
from lightning_rules.priors import Tally, constant_output, per_example, tally_of
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.view import View

NAME = "last-layer-bias-init"
KNOWS = 0.1  # a head whose loss is this share below the prior's has learned something
SAYS = {
    "softmax": "the log prior of {n} classes ({low:.3g} to {high:.3g})",
    "sigmoid": "the logit of the base rate ({low:.3g} to {high:.3g})",
    "mean": "the mean of the targets ({low:.4g} to {high:.4g})",
    "median": "the median of the targets ({low:.4g} to {high:.4g})",
}


@dataclass(frozen=True)
class HeadSeen:
    """What one rank knows of one loss and the layer that feeds it.

    Attributes:
        loss: Name of the loss function.
        head: Path of the layer in the module; empty where there is none.
        refusal: Why this bias is left alone; empty where nothing stands against setting it.
        tally: Counts of the training targets.
        gain: Sum over examples of (prior's loss - network's loss).
        gain_squared: Sum of its squares.
        prior_loss: Sum over examples of the prior's loss.
        examples: How many examples these sums run over.
    """

    loss: str
    head: str = ""
    refusal: str = ""
    tally: Tally | None = None
    gain: float = 0.0
    gain_squared: float = 0.0
    prior_loss: float = 0.0
    examples: int = 0


@dataclass(frozen=True)
class Plan:
    """What is done to one head, the same on all ranks."""

    head: str
    bias: np.ndarray[Any, np.dtype[np.float64]] | None
    finding: Finding


class LastLayerBiasInit(Rule):
    """The last layer's bias starts at what the training labels say before any input is seen.

    Why: A network that starts with a bias of zero spends its first steps learning the class frequencies or the mean
        of the targets, at a loss so large that the curve has the shape of a hockey stick; those steps are wasted and
        the early gradients are dominated by them.

    What it does: Sets the bias of each fresh last layer, in place, before the first step: the log prior for
        cross-entropy, the logit of the base rate for binary cross-entropy (each label apart where there are several),
        the mean of the targets for squared error, their median for absolute, smooth-L1 and Huber loss. The prior is
        the one that the loss sees: class weights, ``pos_weight``, label smoothing, ``ignore_index`` and the sampler's
        weights are folded in. The layer and the loss are found by watching one run of ``training_step``. Labels are
        read without inputs where the data set offers them, and counted once; else the first 4,096 examples are read.

    Fires when: It never alarms. It says what it set, or why it left a head alone: the head was trained before (its
        loss is 10% and three standard errors below what the prior alone reaches), it has no bias, it is frozen, it
        feeds several losses, something other than a change of shape stands between it and the loss, or the run is
        resumed.

    Under DDP: Counts are gathered over the ranks, so that all set the same bias, and the same as one process would.
        Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: One forward pass of one batch, one read of the labels; nothing after the first step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LastLayerBiasInit()], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "init well".

    Args:
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "init well"'
    kind = "enforce"

    def __init__(self, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the first batch, then set the biases."""
        plans: list[Plan] = []

        def judge(everywhere: Sequence[list[HeadSeen]]) -> list[Finding]:
            plans.extend(plan(seen) for seen in zip(*everywhere, strict=True))
            return [planned.finding for planned in plans]

        self.observe(trainer, lambda: see_heads(trainer, pl_module), judge)
        for planned in plans:
            if planned.bias is not None:
                _set_bias(pl_module, planned)


def see_heads(trainer: Any, pl_module: Any) -> list[HeadSeen]:
    """Run one training step and look at every loss in it.

    Raises:
        NotApplicable: The run is resumed, has no loader, or its step calls no loss function that has a best constant.
    """
    if trainer.global_step > 0 or trainer.ckpt_path:
        raise NotApplicable("the run is resumed, and its last layer goes on from where it was.")
    view = View(trainer, pl_module)
    batch: Any = view.batches(1)[0]
    with view.step(batch) as step:
        if not step.calls:
            raise NotApplicable(
                "training_step calls none of torch's loss functions that have a best constant output "
                "(cross-entropy, binary cross-entropy, squared, absolute, smooth-L1 and Huber loss)."
            )
        layers = [call.head.layer for call in step.calls if call.head is not None]
        return [see_head(view, call, batch, layers) for call in step.calls]


def see_head(view: View, call: LossCall, batch: Any, layers: list[Any]) -> HeadSeen:
    """Look at one loss; ``layers`` are the heads of all losses of the step."""
    head = call.head
    if head is None:
        return HeadSeen(call.name, refusal=f"no single layer makes what {call.name} is given.")
    refusal = _refusal(call, head, layers)
    if refusal or head.bias is None:
        return HeadSeen(call.name, head.name, refusal)
    try:
        counted = tally_of(view, call, batch, head.bias.numel())
    except NotApplicable as reason:
        return HeadSeen(call.name, head.name, str(reason))
    prior_loss = per_example(call, constant_output(call, counted.constant))
    gain = prior_loss - per_example(call, call.output)
    return HeadSeen(call.name, head.name, "", counted, float(gain.sum()), float((gain**2).sum()),
                    float(prior_loss.sum()), len(gain))  # fmt: skip


def _refusal(call: LossCall, head: Head, layers: list[Any]) -> str:
    bias = head.bias
    if bias is None:
        return "it has no bias."
    if not bias.requires_grad:
        return "its bias is frozen."
    if sum(layer is head.layer for layer in layers) > 1:
        return "it feeds several losses, whose priors differ."
    if call.target.requires_grad:
        return "its target is itself computed with gradients."
    outputs = call.output.shape[call.class_dim] if call.output.dim() else 1
    if call.kind == "softmax" and bias.numel() != outputs:
        return f"it has {bias.numel()} biases for {outputs} classes."
    return ""


def plan(ranks: Sequence[HeadSeen]) -> Plan:
    """Decide for one head from what all ranks saw of it."""
    seen = ranks[0]
    refusal = next((rank.refusal for rank in ranks if rank.refusal), "")
    tallies = [rank.tally for rank in ranks if rank.tally is not None]
    if refusal or len(tallies) < len(ranks):
        where = f"`{seen.head}`" if seen.head else "No bias"
        message = f"{where} was left alone: {refusal}" if seen.head else f"{where} was set: {refusal}"
        return Plan(seen.head, None, Finding(NAME, Severity.INFO, message))
    counted = reduce(add, tallies)
    examples = sum(rank.examples for rank in ranks)
    gain = sum(rank.gain for rank in ranks) / examples
    spread = max(0.0, sum(rank.gain_squared for rank in ranks) / examples - gain**2) ** 0.5
    prior_loss = sum(rank.prior_loss for rank in ranks) / examples
    evidence = {"prior_loss": prior_loss, "loss": prior_loss - gain, "examples_counted": counted.examples}
    if gain > KNOWS * prior_loss + 3 * spread / examples**0.5:
        message = (
            f"`{seen.head}` was left alone: it has learned already (its loss is {prior_loss - gain:.3g}, "
            f"the prior alone reaches {prior_loss:.3g})."
        )
        return Plan(seen.head, None, Finding(NAME, Severity.INFO, message, evidence=evidence))
    bias = counted.constant
    says = SAYS[counted.kind].format(n=len(bias), low=bias.min(), high=bias.max())
    message = f"Set the bias of `{seen.head}` to {says} for {seen.loss}, from {counted.origin}."
    evidence |= {"bias_min": float(bias.min()), "bias_max": float(bias.max())}
    return Plan(seen.head, bias, Finding(NAME, Severity.INFO, message, evidence=evidence))


@torch.no_grad()
def _set_bias(module: Any, planned: Plan) -> None:
    bias: Tensor = module.get_submodule(planned.head).bias
    bias.copy_(torch.as_tensor(planned.bias, dtype=bias.dtype, device=bias.device).reshape(bias.shape))

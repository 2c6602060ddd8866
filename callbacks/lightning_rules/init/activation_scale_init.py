"""The rule activation-scale-init."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_rules.finding import Finding, Severity
from lightning_rules.fresh_weights import is_as_drawn, is_plain, named_layers, seed_of
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.view import View

NAME = "activation-scale-init"
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FLAT = 1e-12  # a variance below this is none: the inputs of the layer do not vary


@dataclass(frozen=True)
class LayerSeen:
    """One layer on one rank.

    Attributes:
        name: Its path in the module.
        seed: What its orthonormal weight is drawn from.
        variance: Of its outputs with that weight and without bias, over a batch, when all layers before it are scaled.
        zero_bias: Whether its bias is as torch drew it, and becomes 0.
    """

    name: str
    seed: int
    variance: float
    zero_bias: bool


@dataclass(frozen=True)
class Seen:
    """What one rank measured.

    Attributes:
        layers: Those to be set, in the order in which the batch passed them.
        others: How many are left alone because they are not as torch draws them.
        example: The name of the first of these.
    """

    layers: list[LayerSeen] = field(default_factory=list)
    others: int = 0
    example: str = ""


class ActivationScaleInit(Rule):
    """Each layer's outputs start with a variance of 1 on a real batch.

    Why: Where each layer shrinks or swells what passes it by a constant factor, the signal and the gradient vanish or
        explode with depth. Rules such as Xavier's or He's assume one kind of nonlinearity and no branches; a batch
        shows what really happens.

    What it does: Before the first step, gives each fresh linear and convolutional layer an orthonormal weight and
        divides it by the standard deviation that its outputs then have on the first training batch, layer by layer in
        the order in which the batch passes them (layer-sequential unit variance). Biases that are as torch drew them
        become 0; those that were set stay. One pass suffices: a layer's outputs without bias are linear in its weight.

    Fires when: It never alarms. It says how many layers it set, and how many it left alone because their weights are
        not as torch draws them (loaded, trained, or initialised on purpose, as in timm's models). Frozen layers,
        layers that the step does not use, and resumed runs are left alone too.

    Under DDP: Each rank measures its own batch; the variances are averaged over ranks, and the weights are drawn from a
        generator seeded by rank 0's own initial weights, so that all ranks set the same bits. Sharded strategies (FSDP,
        DeepSpeed): does not apply.

    Cost: One forward pass of one batch and one decomposition a layer before the first step; nothing afterwards. The
        global random numbers stay where they were.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ActivationScaleInit()], logger=False)

    Source: Mishkin and Matas (2016), "All you need is a good init", section 2; Goodfellow, Bengio and Courville (2016),
        section 8.4.

    Args:
        layers: Names of layers, as in ``named_modules()``, that are set whatever they hold; None: all that are as
            torch draws them.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: When the fit starts, ``layers`` names no linear or convolutional layer.
    """

    name = NAME
    source = 'Mishkin and Matas (2016), "All you need is a good init", section 2'
    kind = "enforce"

    def __init__(self, layers: list[str] | None = None, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        self.layers = layers

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure a batch, then set the weights."""
        named = named_layers(pl_module, self.layers, KINDS)
        planned: list[LayerSeen] = []

        def judge(ranks: Sequence[Seen]) -> list[Finding]:
            planned.extend(plan(ranks))
            return tell(planned, ranks[0])

        self.observe(trainer, lambda: see_layers(trainer, pl_module, named, self.layers is not None), judge)
        for seen in planned:
            set_layer(named[seen.name], seen)


def see_layers(trainer: Any, pl_module: Any, named: dict[str, Any], asked: bool) -> Seen:
    """Pass one batch through the network, with each fresh layer scaled as the batch reaches it.

    Raises:
        NotApplicable: The run is resumed or sharded, has no loader, or uses no fresh layer.
    """
    if trainer.global_step > 0 or trainer.ckpt_path:
        raise NotApplicable("the run is resumed, and its weights go on from where they were.")
    trainable = {name: layer for name, layer in named.items() if is_plain(layer, ["weight"])}
    fresh = {name: layer for name, layer in trainable.items() if asked or _is_fresh(layer)}
    others = [name for name in trainable if name not in fresh]
    if not fresh:
        raise NotApplicable("no trainable linear or convolutional layer is as torch draws it; name some in `layers`.")
    view = View(trainer, pl_module)
    batch: Any = view.batches(1)[0]
    probes = [_Probe(name, layer) for name, layer in fresh.items()]
    order: list[_Probe] = []
    handles = [handle for probe in probes for handle in probe.attach(order)]
    try:
        with view.step(batch):
            pass
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise NotApplicable("training_step uses none of the layers that are as torch draws them.")
    layers = [LayerSeen(probe.name, probe.seed, probe.variance, probe.zero_bias) for probe in order]
    return Seen(layers, len(others), next(iter(others), ""))


def _is_fresh(layer: Any) -> bool:
    return is_as_drawn([layer.weight], _bound(layer))


def _bound(layer: Any) -> float:
    """What torch draws a layer's weight and bias between: 1/√(fan in)."""
    fan_in: int = layer.weight[0].numel()
    return 1 / math.sqrt(max(1, fan_in))


class _Probe:
    """Hooks on one layer: its first call gets an orthonormal weight, and every call's outputs are scaled."""

    def __init__(self, name: str, layer: Any) -> None:
        self.name, self.layer = name, layer
        self.seed = seed_of(layer.weight)
        bias = layer.bias
        self.zero_bias = bias is not None and bias.requires_grad and is_as_drawn([bias], _bound(layer))
        self.variance = 0.0

    def attach(self, order: list[_Probe]) -> list[Any]:
        """Register the hooks; the first call adds the probe to ``order``."""

        def before(layer: Any, args: Any) -> None:
            if self not in order:
                order.append(self)
                set_layer(layer, LayerSeen(self.name, self.seed, 1.0, self.zero_bias))

        def after(layer: Any, args: Any, out: Tensor) -> Tensor:
            shift = _shift(layer)
            if self.variance == 0.0:
                self.variance = float((out.detach() - shift).float().var(correction=0))
            scaled: Tensor = (out - shift) / _scale(self.variance) + shift
            return scaled

        return [self.layer.register_forward_pre_hook(before), self.layer.register_forward_hook(after)]


def _shift(layer: Any) -> Any:
    """The layer's bias in the shape that its outputs add it in."""
    if layer.bias is None:
        return 0.0
    return layer.bias.detach().view(-1, *[1] * (layer.weight.dim() - 2))


def _scale(variance: float) -> float:
    """What the weight is divided by; 1 where the outputs do not vary."""
    return math.sqrt(variance) if math.isfinite(variance) and variance > FLAT else 1.0


@torch.no_grad()
def set_layer(layer: Any, seen: LayerSeen) -> None:
    """Draw an orthonormal weight and divide it by the standard deviation of the outputs."""
    weight = torch.empty(layer.weight.shape)
    nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(seen.seed))
    layer.weight.copy_(weight / _scale(seen.variance))
    if seen.zero_bias:
        layer.bias.zero_()


def plan(ranks: Sequence[Seen]) -> list[LayerSeen]:
    """What is set on all ranks: rank 0's layers and seeds, variances averaged; layers that do not vary are left out.

    A layer that some rank's step did not reach is averaged over the others.
    """
    variances = [{seen.name: seen.variance for seen in rank.layers} for rank in ranks]
    planned = []
    for seen in ranks[0].layers:
        values = [variance[seen.name] for variance in variances if seen.name in variance]
        mean = sum(values) / len(values)
        if math.isfinite(mean) and mean > FLAT:
            planned.append(LayerSeen(seen.name, seen.seed, mean, seen.zero_bias))
    return planned


def tell(planned: Sequence[LayerSeen], seen: Seen) -> list[Finding]:
    """What was done, in one finding."""
    flat = len(seen.layers) - len(planned)
    variances = [layer.variance for layer in planned] or [0.0]
    message = (
        f"Set {len(planned)} layers to orthonormal weights and unit variance of their outputs on one batch; unscaled, "
        f"the variances would be {min(variances):.3g} to {max(variances):.3g}."
    )
    if seen.others:
        message += (
            f" Left {seen.others} alone that are not as torch draws them (loaded, trained or initialised on purpose), "
            f"such as `{seen.example}`."
        )
    if flat:
        message += f" Left {flat} alone whose outputs do not vary."
    evidence = {"layers_set": len(planned), "layers_left": seen.others + flat, "variance_min": min(variances),
                "variance_max": max(variances)}  # fmt: skip
    return [Finding(NAME, Severity.INFO, message, evidence=evidence)]

"""What is set for the optimisers of a run, and how large the gradients are that they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.preflight.step_facts import facts_of
from lightning_rules.rule import attempt

# Optimisers whose steps are of about the size of the rate, whatever the gradient; by class name, in small letters.
ADAM_LIKE = ("adam", "adamw", "nadam", "nadamw", "radam", "adamax", "amsgrad", "adamp", "adabelief", "fusedadam")
DECOUPLED = ("adamw", "nadamw", "lion", "fusedadam")


@dataclass(frozen=True)
class Group:
    """One parameter group of an optimiser.

    Attributes:
        optimizer: The optimiser's class.
        lr: Its rate, at the peak of its schedule where that is known to be higher.
        scheduled: Whether the optimiser has a scheduler.
        momentum: 0 where it has none.
        betas: Empty where it has none.
        eps: 0 where it has none.
        weight_decay: 0 where it has none.
        decoupled: Whether weight decay bypasses the gradient.
        maximize: Whether it climbs.
        trained: How many tensors it trains.
        vectors: How many of those have fewer than two dimensions (biases, scales).
        peak: The largest absolute gradient of the first step; None where it is not known.
    """

    optimizer: str = "SGD"
    lr: float = 0.1
    scheduled: bool = False
    momentum: float = 0.0
    betas: tuple[float, ...] = ()
    eps: float = 0.0
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False
    trained: int = 1
    vectors: int = 0
    peak: float | None = None

    @property
    def adam_like(self) -> bool:
        """Whether its steps are of about the size of the rate."""
        return self.optimizer.lower() in ADAM_LIKE


@dataclass(frozen=True)
class Settings:
    """What is set for the optimisers of a run.

    Attributes:
        groups: All parameter groups.
        clip: The Trainer's ``gradient_clip_val``; 0 for none.
        clip_by: ``"norm"`` or ``"value"``.
        gradient: The norm of the first step's gradient, or its largest value where clipping is by value; None where it
            is not known.
        minimised: Whether the step returns what a loss function of torch gave, so that lower is better.
        sparse: Whether an embedding has sparse gradients.
    """

    groups: tuple[Group, ...]
    clip: float = 0.0
    clip_by: str = "norm"
    gradient: float | None = None
    minimised: bool = False
    sparse: bool = False


def settings_of(seen: ModelSeen) -> Settings:
    """Read the settings, and how large the first step's gradients are."""
    facts, _ = attempt(lambda: facts_of(seen))
    reached = [one for one in facts.parameters if one.optimised and one.gradient == "some"] if facts is not None else []
    by = str(seen.trainer.gradient_clip_algorithm or "norm").rpartition(".")[2].lower()
    peak = max((one.peak for one in reached), default=None)
    norm = sum(one.norm**2 for one in reached) ** 0.5 if reached else None
    scheduled = {id(getattr(one.scheduler, "optimizer", None)) for one in seen.trainer.lr_scheduler_configs}
    groups = [
        _group(optimizer, group, id(optimizer) in scheduled, peak)
        for optimizer in seen.optimizers
        for group in optimizer.param_groups
    ]
    return Settings(
        groups=tuple(groups),
        clip=float(seen.trainer.gradient_clip_val or 0.0),
        clip_by="value" if "value" in by else "norm",
        gradient=peak if "value" in by else norm,
        minimised=any(group.maximize for group in groups) and bool(attempt(lambda: _is_loss(seen))[0]),
        sparse=any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse for part in seen.module.modules()),
    )


def _is_loss(seen: ModelSeen) -> bool:
    """Whether the step returns the value of its one loss function as it is."""
    with seen.view.step(seen.batch) as step:
        values = [float(call.value.detach().float().mean()) for call in step.calls]
        return len(values) == 1 and step.loss is not None and math.isclose(values[0], float(step.loss), rel_tol=1e-3)


def _group(optimizer: Any, group: dict[str, Any], scheduled: bool, peak: float | None) -> Group:
    trained = [parameter for parameter in group["params"] if parameter.requires_grad]
    name = type(optimizer).__name__
    betas = group.get("betas") or ()
    return Group(
        optimizer=name,
        lr=max(float(group.get("lr", 0.0) or 0.0), float(group.get("initial_lr", 0.0) or 0.0)),
        scheduled=scheduled,
        momentum=float(group.get("momentum", 0.0) or 0.0),
        betas=tuple(float(beta) for beta in betas if isinstance(beta, (int, float))),
        eps=float(group["eps"]) if isinstance(group.get("eps"), (int, float)) else 0.0,
        weight_decay=float(group.get("weight_decay", 0.0) or 0.0),
        decoupled=bool(group.get("decoupled_weight_decay", name.lower() in DECOUPLED)),
        maximize=bool(group.get("maximize", False)),
        trained=len(trained),
        vectors=sum(parameter.dim() < 2 for parameter in trained),
        peak=peak,
    )

"""Optimisers and what they hold must last: an optimiser made anew each step, weights frozen soon after the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_rules.finding import Finding, Severity

REPLACED, FROZEN = "optimiser-replaced", "frozen-midway"
SAMPLES = 8  # batches
NEARLY_ALL = 0.9  # of them
EARLY = 0.3  # of the planned run; what is frozen later has been trained
FOR_SHARE = 0.4  # of the planned run
MOST = 0.5  # of the weights
NAMED = 3


@dataclass
class Held:
    """What became of one optimiser.

    Attributes:
        kind: Its class.
        remembers: Whether its steps depend on earlier ones: momentum, averages of gradients.
        samples: Sampled batches so far, but the first.
        replaced: At how many of them it was another object than at the sample before.
        weights: How many weights it trained before some were frozen.
        frozen: Those of them that need no gradient any more.
        since: The share of the planned run that had passed when that was first seen.
        thawed: Whether frozen weights have been trained again: it goes by a plan.
    """

    kind: str
    remembers: bool = True
    samples: int = 0
    replaced: int = 0
    weights: int = 0
    frozen: tuple[str, ...] = ()
    since: float | None = None
    thawed: bool = False

    def sampled(self, is_new: bool) -> None:
        """A batch was sampled, with the optimiser as it was before or with a new one."""
        self.samples += 1
        self.replaced += is_new

    def freezes(self, lost: Sequence[str], trained: Sequence[str], share: float | None) -> None:
        """The optimiser trains other parameters than before.

        Args:
            lost: Weights that it trained until now and that need no gradient any more.
            trained: Weights that it trains from now on.
            share: Of the planned run, that has passed.
        """
        still = tuple(name for name in self.frozen if name not in trained)
        self.thawed = self.thawed or still != self.frozen
        self.frozen = still
        if lost and not still:
            self.frozen, self.since, self.weights = tuple(lost), share, len({*lost, *trained})


def remembers(optimizer: Any) -> bool:
    """Whether the steps of an optimiser depend on earlier ones, by its settings."""
    return any(group.get("momentum") or group.get("betas") or group.get("alpha") for group in optimizer.param_groups)


def freezes_by_plan(trainer: Any) -> bool:
    """Whether a callback freezes, unfreezes or prunes layers: Lightning's of either namespace, or ours."""
    kinds = {kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__}
    return bool(kinds & {"BaseFinetuning", "ModelPruning", "FreezeBySize"})


def judge_held(held: Held, done: float | None, unfreezes: bool) -> list[Finding]:
    """Findings on one optimiser; pure.

    Args:
        held: What became of it.
        done: The share of the planned run that has passed; None where no end is known.
        unfreezes: Whether a callback freezes and unfreezes layers by a plan.
    """
    found = [_judge_replaced(held), None if unfreezes else _judge_frozen(held, done)]
    return [one for one in found if one is not None]


def _judge_replaced(held: Held) -> Finding | None:
    if held.samples < SAMPLES or held.replaced < NEARLY_ALL * held.samples:
        return None
    message = (
        f"The optimiser is replaced over and over: at {held.replaced} of {held.samples} sampled batches `trainer."
        f"optimizers` held a new {held.kind}, so that its state (momentum, averages of gradients) is lost each time."
    )
    advice = (
        "Make the optimiser once, in configure_optimizers; to change its rate, set param_groups or use a scheduler."
    )
    severity = Severity.WARNING if held.remembers else Severity.INFO
    return Finding(REPLACED, severity, message, advice, {"samples": held.samples, "replaced": held.replaced})


def _judge_frozen(held: Held, done: float | None) -> Finding | None:
    since = held.since
    if not held.frozen or held.thawed or since is None or done is None:
        return None
    names = ", ".join(f"`{name}`" for name in held.frozen[:NAMED])
    names += f" and {len(held.frozen) - NAMED} more" if len(held.frozen) > NAMED else ""
    message = (
        f"{len(held.frozen)} of {held.weights} weights stopped moving after {since:.0%} of the run, when something set "
        f"requires_grad to False: {names}. They were trained until then, and are frozen still at {done:.0%}."
    )
    advice = (
        "Look for a requires_grad_(False) in a hook or an epoch condition; if it is meant, train these weights longer "
        "before they are frozen."
    )
    sure = since <= EARLY and done - since >= FOR_SHARE and len(held.frozen) > MOST * held.weights
    severity = Severity.WARNING if sure else Severity.INFO
    return Finding(FROZEN, severity, message, advice, {"frozen": len(held.frozen), "since": since, "done": done})

"""Dropout: how much is dropped, where, on how many examples, and whether it stops in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.function_calls import DropoutCall
from lightning_rules.preflight.layer_runs import BATCH_NORMS
from lightning_rules.preflight.model_seen import ModelSeen

NAME, ALWAYS_ON = "dropout", "stochastic-evaluation"
HIGH, TOO_HIGH = 0.5, 0.8
FEW = 5000  # examples; Goodfellow et al. 2016, section 7.12


@dataclass(frozen=True)
class DropoutSeen:
    """Dropout in one rank's step.

    Attributes:
        rates: Module and rate of each active dropout of the training step.
        before_norm: Batch norms in training mode that get what comes out of a dropout.
        examples: How many training examples there are; None where that is not known.
        always_on: Module, function and rate of dropouts that are active in evaluation mode.
        draws: Modules and functions that draw random numbers in evaluation mode.
    """

    rates: tuple[tuple[str, float], ...] = ()
    before_norm: tuple[str, ...] = ()
    examples: int | None = None
    always_on: tuple[tuple[str, str, float], ...] = ()
    draws: tuple[tuple[str, str], ...] = ()


def measure(seen: ModelSeen, deadline: Deadline) -> DropoutSeen:
    """The dropouts of one training step and of one step in evaluation mode."""
    trace, evaluation = seen.trace, seen.evaluation
    norms = (run for run in trace.runs if isinstance(run.module, BATCH_NORMS) and run.training and run.after_dropout)
    return DropoutSeen(
        tuple(dict.fromkeys((_place(call), call.rate) for call in trace.dropouts if call.active)),
        tuple(dict.fromkeys(run.name for run in norms)),
        _examples(seen.trainer.train_dataloader),
        tuple(dict.fromkeys((_place(c), c.function, c.rate) for c in evaluation.dropouts if c.active and _within(c))),
        tuple(dict.fromkeys((draw.name, draw.function) for draw in evaluation.draws if draw.name is not None)),
    )


def _place(call: DropoutCall) -> str:
    return call.name or "forward"


def _within(call: DropoutCall) -> bool:
    """Called by a module's forward: what a step does to its batch is augmentation."""
    return call.name is not None


def _examples(loader: Any) -> int | None:
    dataset: Any = getattr(loader, "dataset", None)
    return len(dataset) if hasattr(dataset, "__len__") else None


def judge(ranks: Sequence[DropoutSeen]) -> list[Finding]:
    """Findings on the first rank's network, which is that of all; pure."""
    seen = ranks[0]
    return [*judge_rates(seen), *judge_evaluation(seen)]


def judge_rates(seen: DropoutSeen) -> list[Finding]:
    """How much is dropped, and before what."""
    if not seen.rates:
        return []
    found = []
    name, rate = max(seen.rates, key=lambda pair: pair[1])
    evidence: dict[str, float | int | str | bool | None] = {"rate": rate, "examples": seen.examples}
    if rate > HIGH:
        severity = Severity.WARNING if rate > TOO_HIGH else Severity.INFO
        message = f"`{name}` drops {rate:.0%} of its values; 50% is the most that is usual."
        found.append(Finding(NAME, severity, message, "Lower the dropout rate to 0.5 or less.", evidence))
    if seen.before_norm:
        message = (
            f"Dropout stands right before `{seen.before_norm[0]}`: in evaluation the variance it learnt is another."
        )
        found.append(Finding(NAME, Severity.INFO, message, "Put dropout after the last batch norm.", evidence))
    if seen.examples is not None and seen.examples < FEW:
        message = f"Dropout of up to {rate:.0%} on {seen.examples:,} examples; under {FEW:,} it is of little use."
        found.append(Finding(NAME, Severity.INFO, message, "Compare with a run without it.", evidence))
    return found or [Finding(NAME, Severity.OK, f"Dropout drops at most {rate:.0%}.", "", evidence)]


def judge_evaluation(seen: DropoutSeen) -> list[Finding]:
    """What stays random in evaluation mode."""
    if seen.always_on:
        name, function, rate = seen.always_on[0]
        message = f"`{name}` calls {function} ({rate:.0%}) with the model in evaluation mode: predictions stay random."
        advice = "Pass training=self.training, or use nn.Dropout, which eval() switches off."
        return [Finding(ALWAYS_ON, Severity.WARNING, message, advice, {"rate": rate, "calls": len(seen.always_on)})]
    if seen.draws:
        place, function = seen.draws[0]
        message = f"`{place or 'forward'}` draws random numbers ({function}) in evaluation mode."
        advice = "Right for sampling; where it regularises, draw only if self.training."
        return [Finding(ALWAYS_ON, Severity.INFO, message, advice, {"draws": len(seen.draws)})]
    return []


PART = Part((NAME, ALWAYS_ON), measure, judge)

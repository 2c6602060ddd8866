"""What can be seen of a run before its first step: the subcommand `check`."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_rules import CapacityCheck, LRFinder, RandomFeatures, Report, Rule
from lightning_rules.catalogue import family_of
from lightning_rules.check import look, rules_to_check
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.recommended import Ignored


@dataclass(frozen=True)
class Asked:
    """The options of the subcommand; see `RecipeTrainer.check`."""

    only: list[str] | None = None
    skip: list[str] | None = None
    capacity: bool = False
    probe: Literal["random"] | None = None
    json: bool = False


def run_check(trainer: Trainer, model: LightningModule, datamodule: LightningDataModule | None, asked: Asked) -> None:
    """Check the run that this trainer would make, print what was found, and end with status 1 on an error.

    Raises:
        ValueError: There is no such rule, or a reason is missing.
        SystemExit: With status 1, if a finding is an error.
    """
    extra: list[Rule] = [CapacityCheck(budget=None)] if asked.capacity else []
    extra += [RandomFeatures(budget=None)] if asked.probe == "random" else []
    reasons = {**_ignored(trainer), **_reasons(asked.skip or ())}
    rules = _as_configured(rules_to_check(reasons, asked.only, extra), trainer)
    report = look(trainer, model, rules, asked.only, progress=sys.stderr.isatty(), datamodule=datamodule)
    if trainer.is_global_zero:
        print(report.to_json() if asked.json else _page(report))
    if not report.ok:
        raise SystemExit(1)


def _as_configured(rules: list[Rule], trainer: Trainer) -> list[Rule]:
    """The rules, those that the config has set up its own way in place of ours, and with its rules that act."""
    configured: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    own = {type(rule): rule for rule in configured if isinstance(rule, Rule)}
    for rule in own.values():
        if isinstance(rule, PreflightCheck):
            rule.budget = None
    kept = [own.pop(type(rule), rule) for rule in rules]
    return [*(rule for rule in own.values() if shapes_training(rule)), *kept]


def shapes_training(callback: Any) -> bool:
    """Whether it is a rule that acts on a network, its optimiser or its data: what a probe of the run has to have.

    Not the search for a rate, which is a probe itself, and nothing that saves or tags.
    """
    families = ("data", "init", "optimise", "regularise")
    acts = isinstance(callback, Rule) and callback.kind == "enforce" and family_of(type(callback)) in families
    return acts and not isinstance(callback, LRFinder)


def _ignored(trainer: Trainer) -> dict[str, str]:
    """What the settings ignore (`ignore_rules`), as the trainer's rules have been told."""
    rules = [rule for rule in trainer.callbacks if isinstance(rule, Rule)]  # type: ignore[attr-defined]
    whole = {rule.name: rule.reason for rule in rules if isinstance(rule, Ignored)}
    return {**whole, **{name: reason for rule in rules for name, reason in rule.ignored.items()}}


def _reasons(skip: Iterable[str]) -> dict[str, str]:
    """`NAME=REASON` taken apart."""
    pairs = [given.partition("=") for given in skip]
    for name, _, reason in pairs:
        if not reason.strip():
            raise ValueError(f"--skip {name} gives no reason: write --skip '{name}=why it is left out'.")
    return {name: reason for name, _, reason in pairs}


def _page(report: Report) -> str:
    """The table, and how long it took."""
    slowest = max(report.seconds, key=lambda name: report.seconds[name], default=None)
    total = f"{len(report.seconds)} checks in {sum(report.seconds.values()):.1f} s"
    return f"{report}\n{total}" + (f", {report.seconds[slowest]:.1f} s of it for {slowest}" if slowest else "")

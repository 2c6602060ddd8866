"""Which rules to use when one does not want to choose, in the order of a project's life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_rules.finding import Finding, Severity
from lightning_rules.init.last_layer_bias_init import LastLayerBiasInit
from lightning_rules.init.loss_at_init import LossAtInit
from lightning_rules.optimise.gradient_clipping import GradientClipping
from lightning_rules.reproduce.seed_everything import SeedEverything
from lightning_rules.rule import Rule

RECOMMENDED: tuple[type[Rule], ...] = (SeedEverything, LastLayerBiasInit, GradientClipping, LossAtInit)


def recommended(ignore: Mapping[str, str] | None = None) -> list[Rule]:
    """The rules that are safe to add to any run: ``Trainer(callbacks=[*recommended(), *mine])``.

    Args:
        ignore: Names of rules to leave out, each with the reason, which the findings then tell:
            ``{"loss-at-init": "the loss is a lower bound, not a likelihood"}``.

    Returns:
        New instances, in the order in which they have to stand in the list.

    Raises:
        ValueError: ``ignore`` names a rule that is not among these, or gives no reason.
    """
    ignore = dict(ignore or {})
    names = [rule.name for rule in RECOMMENDED]
    for name, reason in ignore.items():
        if name not in names:
            raise ValueError(f"Cannot ignore the rule {name!r}: the recommended rules are {', '.join(names)}.")
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"Expected a reason for ignoring {name!r}, one sentence, but got {reason!r}.")
    return [Ignored(rule.name, ignore[rule.name]) if rule.name in ignore else rule() for rule in RECOMMENDED]


class Ignored(Rule):
    """Stands in the place of a rule that was ignored, and says so with the reason.

    Args:
        name: The rule that is ignored.
        reason: Why, in one sentence.
    """

    source = "the user"
    kind = "report"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]  # one class stands for all
        self.reason = reason

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record that the rule did not run."""
        said = Finding(self.name, Severity.INFO, f"Ignored: {self.reason.strip().rstrip('.')}.")
        self.observe(trainer, lambda: None, lambda ranks: [said])

"""What scripts/new_rule.py writes: a rule that works, with a docstring that a person has to fill in, and its test."""

RULE = '''"""The rule $name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
$imports
from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.view import View

NAME = "$name"


@dataclass(frozen=True)
class Seen:
    """What one rank measured.

    Attributes:
        loss: The loss of its first batch.
    """

    loss: float


class $CLASS(Rule):
    """FILL IN: the rule in one sentence, which says what holds when all is well.

    Why: FILL IN: the harm that it prevents.

    What it does: FILL IN: what is measured, when, and how it is judged$acts.

    Fires when: FILL IN: the threshold, where it comes from, and the severity.

    Under DDP: FILL IN: what is gathered, and why all ranks decide alike.

    Cost: FILL IN: time and memory, and how often.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[$CLASS()], logger=False)

    Source: FILL IN: author (year), title, section.

    Args:
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = "FILL IN: author (year), title, section"
    kind = "$kind"

    def __init__(self, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)

$hook


def measure(trainer: Any, pl_module: Any) -> Seen:
    """What this rank sees.

    Raises:
        NotApplicable: The run has no training loader, or its step returns no loss.
    """
    view = View(trainer, pl_module)
    batch: Any = view.batches(1)[0]
    with view.step(batch) as step:
        if step.loss is None:
            raise NotApplicable("training_step returns no loss.")
        return Seen(float(step.loss))


def judge(ranks: Sequence[Seen]) -> list[Finding]:
    """Findings from what the ranks saw, in the order of ranks; pure."""
    loss = sum(seen.loss for seen in ranks) / len(ranks)
$judgement
'''

WATCHES = '''    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the first batch."""
        self.observe(trainer, lambda: measure(trainer, pl_module), judge)'''

ACTS = '''    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the first batch, then act; the findings are the same on all ranks."""
        found = self.observe(trainer, lambda: measure(trainer, pl_module), judge)
        if any(finding.evidence.get("acts") for finding in found):
            act(pl_module)'''

CHECK = """    evidence = {"loss": loss}
    if math.isfinite(loss):
        return [Finding(NAME, Severity.OK, f"The loss of the first batch is {loss:.3g}.", evidence=evidence)]
    message = f"The loss of the first batch is {loss}; it should be finite."
    advice = "Look for a division by zero or the logarithm of zero on the way to the loss."
    return [Finding(NAME, Severity.ERROR, message, advice, evidence)]"""

REPORT = """    message = f"The loss of the first batch is {loss:.3g}."
    return [Finding(NAME, Severity.INFO, message, evidence={"loss": loss, "finite": math.isfinite(loss)})]"""

ENFORCE = '''    acts = not math.isfinite(loss)
    done = "parameters that are not finite were set to zero" if acts else "the parameters were left alone"
    message = f"The loss of the first batch is {loss:.3g}: {done}."
    return [Finding(NAME, Severity.INFO, message, evidence={"loss": loss, "acts": acts})]


@torch.no_grad()
def act(pl_module: Any) -> None:
    """Change the module in place, on each rank alike."""
    for parameter in pl_module.parameters():
        parameter.nan_to_num_(posinf=0.0, neginf=0.0)'''

TEST = '''"""The rule $name: its judgement, a planted bug and its healthy twin."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_rules import $CLASS, Severity
from $module import Seen, judge


def run(module: BoringModel) -> $CLASS:
    rule = $CLASS()
    Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[rule],
    ).fit(module)
    return rule


@pytest.mark.parametrize(("ranks", "severity"), [([1.0], $fine), ([1.0, 3.0], $fine), ([1.0, math.nan], $fires)])
def test_judgement(ranks: list[float], severity: Severity) -> None:
    (finding,) = judge([Seen(loss) for loss in ranks])
    assert finding.severity is severity
    assert finding.evidence["loss"] == pytest.approx(sum(ranks) / len(ranks), nan_ok=True)


def test_planted_bug() -> None:
    module = BoringModel()
    torch.nn.init.constant_(module.layer.weight, math.inf)
    (finding,) = run(module).findings
    assert finding.severity is $fires$bug


def test_healthy_twin() -> None:
    module = BoringModel()
    (finding,) = run(module).findings
    assert finding.severity is $fine$twin
'''

KINDS: dict[str, dict[str, str]] = {
    "enforce": {
        "imports": "\nimport torch\n",
        "acts": ", and what is done then",
        "hook": ACTS,
        "judgement": ENFORCE,
        "fine": "Severity.INFO",
        "fires": "Severity.INFO",
        "bug": "\n    assert all(parameter.isfinite().all() for parameter in module.parameters())",
        "twin": '\n    assert finding.evidence["acts"] is False',
    },
    "check": {
        "imports": "",
        "acts": "",
        "hook": WATCHES,
        "judgement": CHECK,
        "fine": "Severity.OK",
        "fires": "Severity.ERROR",
        "bug": "\n    assert finding.advice",
        "twin": "",
    },
    "report": {
        "imports": "",
        "acts": "",
        "hook": WATCHES,
        "judgement": REPORT,
        "fine": "Severity.INFO",
        "fires": "Severity.INFO",
        "bug": '\n    assert finding.evidence["finite"] is False',
        "twin": '\n    assert finding.evidence["finite"] is True',
    },
}

"""The example rule: its contract, its judgement, and a run with and without the bug it looks for."""

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from lightning_rules import Severity
from lightning_rules.testing import check_rule

from {{ cookiecutter.package }}.callbacks.blank_inputs import BlankInputs, judge_counts


def test_keeps_the_contract_of_a_rule() -> None:
    check_rule(BlankInputs)


@pytest.mark.parametrize(
    ("ranks", "severity"),
    [([(80, 0)], Severity.OK), ([(80, 1)], Severity.WARNING), ([(80, 0), (80, 1)], Severity.WARNING)],
)
def test_judges_the_counts_of_all_ranks(ranks: list[tuple[int, int]], severity: Severity) -> None:
    (finding,) = judge_counts(ranks)
    assert finding.severity is severity


@pytest.mark.parametrize(("bug", "severity"), [(False, Severity.OK), (True, Severity.WARNING)])
def test_fires_on_a_blank_example_alone(bug: bool, severity: Severity) -> None:
    inputs = torch.randn(32, 32)
    if bug:
        inputs[9] = 0.5
    rule = BlankInputs(batches=2)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[rule], logger=False, enable_checkpointing=False)
    trainer.fit(BoringModel(), DataLoader(inputs, batch_size=8))
    assert [finding.severity for finding in rule.findings] == [severity]

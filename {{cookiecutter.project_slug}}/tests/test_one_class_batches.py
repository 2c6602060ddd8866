"""The example rule: its contract, its judgement, and a run with and without the bug it looks for."""

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Severity
from lightning_rules.testing import check_rule
from {{ cookiecutter.package }}.callbacks.one_class_batches import OneClassBatches, judge_batches


def test_keeps_the_contract_of_a_rule() -> None:
    check_rule(OneClassBatches)


@pytest.mark.parametrize(
    ("ranks", "severity"),
    [
        ([(10, 0, 0, 4)], Severity.OK),
        ([(10, 5, 0, 4)], Severity.OK),
        ([(10, 6, 0, 4)], Severity.WARNING),
        ([(10, 10, 0, 0), (10, 10, 1, 1)], Severity.WARNING),  # each rank has one class, both have two
        ([(10, 10, 3, 3)], Severity.OK),  # there is only one class to hold
    ],
)
def test_judges_the_numbers_of_all_ranks(ranks: list[tuple[int, int, int, int]], severity: Severity) -> None:
    assert judge_batches(ranks, share=0.5).severity is severity


class Quiet(BoringModel):
    """A model that reads the batches of this project and learns nothing from them."""

    def training_step(self, batch, batch_idx):
{% if cookiecutter.task == 'sequence-classification' %}
        return self(batch["x"]).sum()
{% else %}
        return self(batch[0]).sum()
{% endif %}


@pytest.mark.parametrize(("shuffle", "severity"), [(False, Severity.WARNING), (True, Severity.OK)])
def test_fires_on_sorted_data_alone(shuffle: bool, severity: Severity) -> None:
    inputs, labels = torch.randn(64, 32), torch.arange(64) // 32
{% if cookiecutter.task == 'sequence-classification' %}
    data = [{"x": x, "y": y} for x, y in zip(inputs, labels, strict=True)]
{% else %}
    data = TensorDataset(inputs, labels)
{% endif %}
    rule = OneClassBatches()
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[rule], logger=False, enable_checkpointing=False)
    trainer.fit(Quiet(), DataLoader(data, batch_size=8, shuffle=shuffle))
    assert [finding.severity for finding in rule.findings] == [severity]

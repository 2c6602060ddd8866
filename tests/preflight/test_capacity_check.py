"""capacity-check: the judgement on numbers, then networks that are too small, and one that size harms."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import CapacityCheck, Finding, Severity
from lightning_rules.preflight.capacity_check import CapacitySeen, judge_capacity
from lightning_rules.preflight.larger_twin import hyperparameters, larger_by_default
from lightning_rules.rule import NotApplicable


class Model(L.LightningModule):
    def __init__(self, hidden_size: int = 4, classes: int = 10, harmed: bool = False, name: str = "plain") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, hidden_size), nn.Tanh(), nn.Linear(hidden_size, classes))
        if harmed:  # outputs that grow with the square of the width
            nn.init.normal_(self.net[0].weight, std=hidden_size**2 / 100)
            nn.init.normal_(self.net[2].weight, std=hidden_size**2 / 50)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Forgets(Model):
    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.hparams.clear()


def loader() -> DataLoader[Any]:
    bunch = load_digits()
    inputs, labels = torch.tensor(bunch.data).float() / 8 - 1, torch.tensor(bunch.target)
    return DataLoader(TensorDataset(inputs, labels), 32, shuffle=True)


def fit(model: Any, rule: CapacityCheck | None, epochs: int = 1, batches: int = 15) -> tuple[Any, list[Finding]]:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=batches,
        callbacks=[] if rule is None else [rule],
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    L.seed_everything(1, verbose=False)
    trainer.fit(model, loader())
    return trainer, [] if rule is None else rule.findings


def found(model: Any, **options: Any) -> Finding:
    (finding,) = fit(model, CapacityCheck(budget=None, **options))[1]
    return finding


def test_a_network_that_is_too_small() -> None:
    finding = found(Model(4))
    assert finding.severity is Severity.OK
    assert "with hidden_size=4 -> 8 (310 to 610 trained values)" in finding.message
    assert finding.evidence["larger_loss"] < 0.9 * finding.evidence["loss"] < finding.evidence["start"]


def test_a_network_that_size_harms() -> None:
    finding = found(Model(8, harmed=True), larger={"hidden_size": 24})
    assert finding.severity is Severity.WARNING
    assert finding.message.startswith("More capacity raises the training loss")
    assert "initial scale" in finding.advice


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (Model(), {"larger": {"name": "large"}}, "name=plain -> large gives 310 trained values in place of 310"),
        (
            Model(),
            {"larger": {"width": 3}},
            "width is none of the hyperparameters (hidden_size, classes, harmed, name)",
        ),
        (Model(), {"larger": {"hidden_size": "wide"}}, "could not be built with hidden_size='wide'"),
        (Forgets(8), {}, "does not keep what it was made with (hidden_size): call save_hyperparameters()"),
    ],
)
def test_where_it_does_not_apply(model: Any, options: dict[str, Any], words: str) -> None:
    finding = found(model, **options)
    assert finding.severity is Severity.INFO
    assert words in finding.message


def test_no_trace() -> None:
    ends = []
    for rule in (None, CapacityCheck(steps=30, budget=None)):
        L.seed_everything(2, verbose=False)
        model = Model()
        trainer, _ = fit(model, rule, epochs=2, batches=4)
        ends.append((model.state_dict(), trainer.optimizers[0].state_dict(), torch.rand(3)))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "larger"),
    [
        ({"hidden_size": 8, "num_layers": 2, "in_dim": 64}, {"hidden_size": 16}),
        ({"widths": [8, 16], "input_width": 5, "num_classes": 3}, {"widths": [16, 32]}),
        ({"num_layers": 2, "lr": 0.1, "patch_size": 4}, {"num_layers": 4}),
        ({"in_channels": 3, "channels": (4, 8), "bidirectional": True}, {"channels": (8, 16)}),
        ({"d_model": 32, "nhead": 4, "vocab_size": 100}, {"d_model": 64}),
    ],
)
def test_which_hyperparameters_are_widths(given: dict[str, Any], larger: dict[str, Any]) -> None:
    assert larger_by_default(given) == larger


def test_no_width_among_the_hyperparameters() -> None:
    with pytest.raises(NotApplicable, match=r"none of the hyperparameters .lr, backbone. is known to be a width"):
        larger_by_default({"lr": 0.1, "backbone": "resnet18"})


def test_hyperparameters_of_a_module() -> None:
    assert hyperparameters(Model(5)) == {"hidden_size": 5, "classes": 10, "harmed": False, "name": "plain"}


@pytest.mark.parametrize(
    ("here", "larger", "severity"),
    [
        ((1.0, 1.1, 0.9), (0.8, 0.9, 0.7), Severity.OK),
        ((1.0, 1.1, 0.9), (1.0, 1.08, 0.93), Severity.INFO),
        ((1.0, 1.1, 0.9), (1.5, 1.6, 1.5), Severity.WARNING),
        ((1.0, 1.1, 0.9), (1.05, 1.15, 0.95), Severity.INFO),  # worse by less than a tenth of what was learned
        ((2.2, 2.2, 2.2), (2.5, 2.6, 2.5), Severity.INFO),  # the network itself learns nothing
        ((0.01, 0.01, 0.01), (0.02, 0.02, 0.02), Severity.INFO),  # both near zero
        ((1.0, float("nan"), 0.9), (0.8, 0.9, 0.7), Severity.INFO),
    ],
)
def test_judgement(here: tuple[float, ...], larger: tuple[float, ...], severity: Severity) -> None:
    seen = CapacitySeen("hidden=4 -> 8", (310, 610), (2.3, 2.3, 2.3), here, larger)
    assert judge_capacity([seen]).severity is severity
    assert judge_capacity([seen, seen]).message == judge_capacity([seen]).message


def test_options() -> None:
    with pytest.raises(ValueError, match=r"Expected `steps` to be at least 30, but got 5\."):
        CapacityCheck(steps=5)

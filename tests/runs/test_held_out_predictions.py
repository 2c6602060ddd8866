"""Tables of predictions, from the tests of models that know nothing of them."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_recipe.runs.held_out_predictions import HeldOutPredictions

X = torch.arange(8.0).reshape(4, 2) / 8
LOSSES = {"classes": nn.functional.cross_entropy, "labels": nn.functional.binary_cross_entropy_with_logits}
TARGETS = {
    "classes": torch.tensor([0, 1, 2, 1]),
    "labels": torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]]),
    "values": torch.tensor([[0.5], [1.5], [2.5], [3.5]]),
}
WIDTHS = {"classes": 3, "labels": 2, "values": 1}


class Foreign(L.LightningModule):
    """Logs its loss in the test, and offers no `predict_step`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(2, WIDTHS[kind])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = LOSSES.get(self.kind, nn.functional.mse_loss)
        self.log("test/loss", loss(self(batch[0]), batch[1]))


class Segments(L.LightningModule):
    """A class for each of two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, None])

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class Silent(L.LightningModule):
    """Cannot be asked."""

    def forward(self, x: Tensor) -> str:
        return "nothing"

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", torch.tensor(1.0))


def ask(module: L.LightningModule, path: Path, dataset: Any) -> dict[str, float]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(callbacks=[HeldOutPredictions(str(path))], **quiet)
    return dict(trainer.test(module, DataLoader(dataset, batch_size=3), verbose=False)[0])


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.with_suffix(".csv").open()))


def test_classes(tmp_path: Path) -> None:
    module, path = Foreign("classes"), tmp_path / "new" / "held_out"
    ask(module, path, TensorDataset(X, TARGETS["classes"]))
    rows = rows_of(path)
    expected = module(X).softmax(1)
    assert list(rows[0]) == ["index", "true", "predicted", "p(0)", "p(1)", "p(2)"]
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    assert [int(row["true"]) for row in rows] == TARGETS["classes"].tolist()
    assert [int(row["predicted"]) for row in rows] == expected.argmax(1).tolist()
    told = [[float(row[f"p({k})"]) for k in range(3)] for row in rows]
    assert told == pytest.approx(np.array(expected.tolist()), rel=1e-4)


def test_yes_and_no_and_values(tmp_path: Path) -> None:
    module = Foreign("labels")
    ask(module, tmp_path / "labels", TensorDataset(X, TARGETS["labels"]))
    row = rows_of(tmp_path / "labels")[0]
    assert list(row) == ["index", "true(0)", "true(1)", "p(0)", "p(1)"]
    assert float(row["p(1)"]) == pytest.approx(float(module(X).sigmoid()[0, 1]), rel=1e-4)
    module = Foreign("values")
    ask(module, tmp_path / "values", TensorDataset(X, TARGETS["values"]))
    row = rows_of(tmp_path / "values")[3]
    assert (row["index"], row["true(0)"]) == ("3", "3.5")
    assert float(row["predicted(0)"]) == pytest.approx(float(module(X)[3]), rel=1e-4)


def test_examples_are_called_by_their_numbers_in_the_data(tmp_path: Path) -> None:
    dataset = Subset(TensorDataset(X, TARGETS["classes"]), [3, 1])
    ask(Foreign("classes"), tmp_path / "part", dataset)
    assert [(row["index"], row["true"]) for row in rows_of(tmp_path / "part")] == [("3", "1"), ("1", "1")]


def test_many_answers_an_example_are_arrays(tmp_path: Path) -> None:
    targets = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 0]])
    ask(Segments(), tmp_path / "pixels", TensorDataset(X, targets))
    kept = np.load(tmp_path / "pixels.npz")
    assert kept["values"].shape == (4, 3, 2)
    assert kept["values"].sum(1) == pytest.approx(np.ones((4, 2)), rel=1e-5)
    assert kept["targets"].tolist() == targets.tolist()
    assert kept["index"].tolist() == [0, 1, 2, 3]


def test_a_model_that_cannot_be_asked_keeps_its_test(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="The predictions of held_out are not kept: TypeError: `forward` returned str"):
        found = ask(Silent(), tmp_path / "held_out", TensorDataset(X, TARGETS["classes"]))
    assert found == {"test/loss": 1.0}
    assert list(tmp_path.iterdir()) == []

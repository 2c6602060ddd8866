"""What a fit tells of itself, with real Trainers."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.runs.fit_record import FitRecord


class Small(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", torch.tensor([3.0, float("nan"), 1.0, 2.0][self.current_epoch % 4]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Ask(L.Callback):
    """Asks the fit to end, after its second epoch."""

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.stop_file.touch()


def fitted(folder: Path, record: FitRecord, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    keeper = ModelCheckpoint(folder / "kept", monitor="val/loss")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=4, callbacks=[record, *callbacks, keeper], **quiet, **options)
    loader = DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2)
    trainer.fit(Small(), loader, loader)
    return trainer


def test_the_course_of_a_fit(tmp_path: Path) -> None:
    record = FitRecord(str(tmp_path / "one.json"))
    fitted(tmp_path, record)
    told = record.entry.read()
    assert told["status"] == "finished"
    assert told["history"] == [[2, 3.0], [4, None], [6, 1.0], [8, 2.0]]
    assert told["best"] == {"name": "val/loss", "value": 1.0, "mode": "min"}
    assert (told["epochs"], told["step"]) == (4, 8)
    assert told["metrics"] == {"val/loss": 2.0}
    assert 0 <= told["seconds"] < 60
    assert record.entry.checkpoint().parent == tmp_path / "kept"
    assert not record.entry.lock.exists()
    with pytest.raises(ValueError, match=r"one is finished \(kept/.*\): remove .*one.json to train it again"):
        fitted(tmp_path, FitRecord(str(tmp_path / "one.json")))


def test_it_is_finished_when_all_is_measured(tmp_path: Path) -> None:
    record = FitRecord(str(tmp_path / "one.json"), awaits=["test", "training"])
    trainer = fitted(tmp_path, record)
    assert record.entry.read()["status"] == "measuring"
    trainer.validate(Small(), DataLoader(TensorDataset(torch.ones(4, 1))), verbose=False)
    assert len(record.entry.read()["history"]) == 4, "no validation of the fit"
    record.tell("training", {"val/loss": 0.5})
    assert record.entry.read()["status"] == "measuring"
    assert record.entry.holder() is not None
    record.tell("test", {"test/loss": 0.75})
    told = record.entry.read()
    assert (told["status"], told["training"], told["test"]) == ("finished", {"val/loss": 0.5}, {"test/loss": 0.75})
    assert record.entry.holder() is None
    record.tell("test", {"test/loss": 9.0})
    assert record.entry.read() == told, "what is finished stays"


@pytest.mark.parametrize("stoppable", [True, False])
def test_it_can_be_asked_to_end(tmp_path: Path, stoppable: bool) -> None:
    record = FitRecord(str(tmp_path / "one.json"), stoppable=stoppable, awaits=["test"])
    trainer = fitted(tmp_path, record, Ask(tmp_path / "one.stop"))
    told = record.entry.read()
    assert told["status"] == ("stopped" if stoppable else "measuring")
    assert trainer.global_step == (4 if stoppable else 8)
    if stoppable:
        assert told["best"]["value"] == 3.0
        assert record.entry.checkpoint().exists()
        with pytest.raises(ValueError, match="one is stopped"):
            fitted(tmp_path, FitRecord(str(tmp_path / "one.json")))


def test_a_fit_without_validation_tells_how_far_it_is(tmp_path: Path) -> None:
    record = FitRecord(str(tmp_path / "one.json"))
    seen: list[int] = []

    class Look(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen.append(record.entry.read().get("step", 0))

    keeper = ModelCheckpoint(tmp_path)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=3, limit_val_batches=0, callbacks=[record, Look(), keeper], **quiet)
    trainer.fit(Small(), DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2))
    assert seen == [0, 2, 4]
    assert record.entry.read()["best"] is None
    assert record.entry.read()["status"] == "finished"

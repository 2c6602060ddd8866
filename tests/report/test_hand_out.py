"""The figures of a page as files and in loggers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import GradientHealth, ReportCard
from lightning_rules.exhibit import Curves
from lightning_rules.report.document import Document
from lightning_rules.report.hand_out import figures_of, hand_out


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(logger: Any, form: str = "html") -> Trainer:
    inputs, labels = torch.randn(256, 8), torch.arange(256) % 3
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=logger,
        callbacks=[GradientHealth(), ReportCard(form)],  # type: ignore[arg-type]
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Model(), DataLoader(TensorDataset(inputs, labels), 16))
    return trainer


NAMES = {"learning_rate_schedule", "metric_loss", "gradient_norm"}


def test_files_and_tensorboard() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = fit(TensorBoardLogger("logs", name="run"))
    folder = Path(str(trainer.log_dir))
    files = {path.stem: path for path in (folder / "rules/figures").iterdir()}
    assert set(files) >= NAMES
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    logged = {f"rules/figures/{name}" for name in NAMES}
    assert set(events.Tags()["images"]) >= logged
    (event,) = events.Images("rules/figures/metric_loss")
    assert event.step == 32
    with Image.open(files["metric_loss"]) as file, Image.open(io.BytesIO(event.encoded_image_string)) as picture:
        assert file.convert("RGB").tobytes() == picture.convert("RGB").tobytes(), "the same figure"
        assert file.width > 500
        assert len(file.convert("RGB").getcolors(1 << 20)) > 5, "something is drawn"


def test_wandb_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="rules", save_dir=".", offline=True)
    fit(logger)
    run = Path(logger.experiment.dir)
    logger.experiment.finish()
    names = {path.name for path in (run / "media/images/rules/figures").iterdir()}
    assert all(any(name.startswith(wanted) for name in names) for wanted in NAMES), names


@pytest.mark.parametrize("form", ["json", "none"])
def test_no_figures_without_the_page(form: str) -> None:
    trainer = fit(TensorBoardLogger("logs", name="run"), form)
    assert not list(Path(str(trainer.log_dir)).rglob("*.png"))


def test_names_are_files_of_their_own(documents: dict[str, Document]) -> None:
    document = documents["healthy"]
    one = document.exhibits[0]
    names = ["../../etc/passwd", "a/b", "a b", "a_b", "", "é<script>", "x" * 300, one.name, one.name]
    many = replace(document, exhibits=[replace(one, name=name) for name in names])
    made = [name for name, _ in figures_of(many)]
    assert len(set(made)) == len(made)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") and len(name) < 70 for name in made)


def test_a_figure_that_cannot_be_drawn_is_left_out(documents: dict[str, Document], tmp_path: Path) -> None:
    document = documents["healthy"]
    broken = replace(document.exhibits[0], name="broken", content=Curves([None], "x", "y"))  # type: ignore[list-item]
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    hand_out(replace(document, exhibits=[broken, document.exhibits[0]]), str(tmp_path), trainer)
    names = {path.stem for path in (tmp_path / "rules/figures").iterdir()}
    assert "broken" not in names
    assert document.exhibits[0].name in names

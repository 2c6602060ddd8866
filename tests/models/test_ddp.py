"""Two processes over gloo measure what one process measures, and write one whole table of predictions."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.models import ImageClassifier, SequenceClassifier
from lightning_recipe.predictions import PredictionsCSV

# Both use the two functions below, which the script gets as its first lines.
SCRIPT = """
for form in ("images", "rows"):
    module, trainer, data = make(form, devices=2)
    trainer.fit(module, datamodule=data)
    trained = {key: float(value) for key, value in trainer.callback_metrics.items()}
    measured = measure(module, trainer, data)
    trainer.predict(module, datamodule=data, return_predictions=False)
    if trainer.is_global_zero:
        torch.save(module.state_dict(), f"{form}.pth")
        Path(f"{form}-2.json").write_text(json.dumps({"trained": trained, "measured": measured}))
"""


def make(form: str, devices: int) -> tuple[Any, L.Trainer, DigitsDataModule]:
    L.seed_everything(0, workers=True)
    module: Any = SequenceClassifier(8, 10, hidden_size=16, lr=1e-2, scheduler="cosine")
    if form == "images":
        module = ImageClassifier("test_resnet", 10, in_chans=1, lr=1e-3)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        limit_train_batches=8,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=[PredictionsCSV(f"{form}-{devices}.csv")],
    )
    return module, trainer, DigitsDataModule(form=form, image_size=16)


def measure(module: Any, trainer: L.Trainer, data: DigitsDataModule) -> dict[str, float]:
    validated = trainer.validate(module, datamodule=data, verbose=False)[0]
    return {**validated, **trainer.test(module, datamodule=data, verbose=False)[0]}


def _rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_measure_and_predict_as_one() -> None:
    before_tests = Path(__file__).read_text().partition("def _rows(")[0]
    Path("run.py").write_text(before_tests + SCRIPT)
    done = subprocess.run(
        [sys.executable, "run.py"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for form in ("images", "rows"):
        two = json.loads(Path(f"{form}-2.json").read_text())
        module, trainer, data = make(form, devices=1)
        module.load_state_dict(torch.load(f"{form}.pth"))
        alone = measure(module, trainer, data)
        assert two["measured"] == pytest.approx(alone, rel=1e-5)
        assert set(alone) == {"val/loss", "val/accuracy", "test/loss", "test/accuracy"}
        assert {key: two["trained"][key] for key in ("val/loss", "val/accuracy")} == pytest.approx(
            {key: alone[key] for key in ("val/loss", "val/accuracy")}, rel=1e-5
        )
        trainer.predict(module, datamodule=data, return_predictions=False)
        rows, rows_alone = _rows(f"{form}-2.csv"), _rows(f"{form}-1.csv")
        # An odd number of examples, so that one rank has one more.
        assert [row["index"] for row in rows] == [str(i) for i in range(179)]
        assert [row["true"] for row in rows] == [row["true"] for row in rows_alone]
        for row, other in zip(rows, rows_alone, strict=True):
            assert float(row["confidence"]) == pytest.approx(float(other["confidence"]), abs=2e-5)
        right = sum(row["predicted"] == row["true"] for row in rows)
        assert right / 179 == pytest.approx(alone["test/accuracy"])

"""The page while a run goes on, and of a run that was killed."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import GradientHealth, ReportCard, record
from lightning_rules.report import report_card
from lightning_rules.report.document import HTML, JSON, Document
from lightning_rules.report.page import page_of

AFTER = 20  # batches, when a look has been taken


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(*callbacks: Any) -> L.Trainer:
    labels = torch.arange(512) % 3
    data = TensorDataset(torch.randn(512, 8) + labels[:, None], labels)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    logger = CSVLogger("logs", name="digits")
    trainer = L.Trainer(accelerator="cpu", max_epochs=4, logger=logger, callbacks=[*callbacks], **quiet)
    trainer.fit(Model(), DataLoader(data, 32), DataLoader(data, 64))
    return trainer


class Waits(L.Callback):
    """Reads the page in the middle of the run, as a browser would, as soon as there is one."""

    def __init__(self, then: Any = lambda: None) -> None:
        self.pages: list[str] = []
        self.then = then

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        path = Path(trainer.log_dir) / HTML
        if trainer.global_step == AFTER:
            until = time.monotonic() + 120
            while not path.is_file() and time.monotonic() < until:
                time.sleep(0.05)
            self.then()
        if path.is_file():
            self.pages.append(path.read_text(encoding="utf-8"))


def test_the_page_of_a_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_card, "EVERY", 0.0)
    reader = Waits()
    trainer = fit(GradientHealth(), ReportCard(), reader)
    assert reader.pages, "no page while the run went on"
    assert all(page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>") for page in reader.pages)
    assert "Unfinished" in reader.pages[0]
    assert "step 16" in reader.pages[0]
    page = (Path(str(trainer.log_dir)) / HTML).read_text(encoding="utf-8")
    assert "Finished" in page
    assert "Unfinished" not in page
    left = [path.name for path in (Path(str(trainer.log_dir)) / "rules").iterdir() if path.name.startswith(".")]
    assert not left


def test_the_page_is_drawn_without_torch(documents: dict[str, Document], tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / JSON).write_text(documents["healthy"].to_json(), encoding="utf-8")
    command = [sys.executable, "-P", "-X", "importtime", str(report_card.DRAW), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert "matplotlib" in imported
    assert not imported & {"torch", "lightning", "torchmetrics", "pandas", "sklearn"}
    assert (tmp_path / HTML).read_text(encoding="utf-8") == page_of(documents["healthy"], tmp_path)


def test_pages_come_the_more_seldom_the_longer_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(report_card.time, "perf_counter", lambda: now[0])
    card = ReportCard()
    card._forget()
    pages = []
    for now[0] in range(36_000):
        if card._is_due():
            card._written = now[0]
            pages.append(now[0])
    gaps = [late - early for early, late in itertools.pairwise(pages)]
    assert pages[0] == 31
    assert gaps == sorted(gaps)
    assert gaps[-1] == 301
    assert len(pages) < 200


def test_training_does_not_wait_for_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_card, "EVERY", 0.0)
    started: list[Any] = []

    class Slow(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(self)
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"], **options)

    monkeypatch.setattr(report_card, "subprocess", SimpleNamespace(Popen=Slow, DEVNULL=subprocess.DEVNULL))
    began = time.monotonic()
    fit(GradientHealth(), ReportCard())
    assert time.monotonic() - began < 300
    assert len(started) == 1, "one page at a time"
    assert started[0].returncode == -signal.SIGTERM, "the last page is drawn in its place"


def test_a_disk_that_is_full_for_a_while_costs_these_pages_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(report_card, "EVERY", 0.0)
    monkeypatch.setattr(logging.getLogger("lightning_rules"), "propagate", True)
    write, tries = record.write_file, []

    def full(content: Any, path: str) -> None:
        tries.append(path)
        if path.endswith(JSON) and sum(one.endswith(JSON) for one in tries) == 1:
            raise OSError(28, "No space left on device")
        write(content, path)

    monkeypatch.setattr(record, "write_file", full)
    trainer = fit(GradientHealth(), ReportCard("json"))
    assert {one.message for one in caplog.records if "No space left" in one.message} == {
        f"The report of this run in {trainer.log_dir} could not be made (OSError: [Errno 28] No space left on device)."
    }
    found = Document.read(Path(str(trainer.log_dir)))
    assert found.state == "finished"
    assert found.series["gradient_norm/total"].steps[-1] == 64, "it has gone on"


KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import test_live as t
t.report_card.EVERY = 0.0
t.fit(t.GradientHealth(), t.ReportCard(), t.Waits(lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_its_last_page() -> None:
    command = [sys.executable, "-c", KILLED.format(folder=str(Path(__file__).parent))]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    folder = Path("logs/digits/version_0")
    found = Document.read(folder)
    assert found.is_unfinished
    assert found.progress["step"] == 16, "as of the last look"
    assert found.series["learning_rate/0.0"].steps[-1] == 16
    page = (folder / HTML).read_text(encoding="utf-8")
    assert "Unfinished" in page
    assert "it goes on, or was killed" in page

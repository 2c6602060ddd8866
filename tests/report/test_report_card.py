"""report-card: what it collects of real runs, whatever way they end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import BiasVariance, DataAudit, GradientHealth, ReportCard, Severity, WorstErrors
from lightning_rules.report.document import JSON, Document
from lightning_rules.report.series import Series


class Model(L.LightningModule):
    def __init__(self, rate: float = 1e-2, fails_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.rate, self.fails_at = rate, fails_at

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == self.fails_at:
            raise ValueError("the <b>data</b> is gone\nand more")
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        answer = self.net(batch[0])
        self.log("val/loss", F.cross_entropy(answer, batch[1]))
        self.log("val/accuracy", (answer.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)]


def loaders() -> tuple[DataLoader, DataLoader]:
    bunch = load_digits()
    x, y = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    return DataLoader(TensorDataset(x[:512], y[:512]), 32), DataLoader(TensorDataset(x[512:768], y[512:768]), 64)


def trainer_with(*callbacks: Any, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 4}
    logger = CSVLogger("logs", name="digits")
    kept = ModelCheckpoint(monitor="val/accuracy", mode="max", dirpath="kept")
    return L.Trainer(**{"logger": logger, **quiet, **options}, callbacks=[*callbacks, kept])


def fit(model: Model, *callbacks: Any, ckpt_path: str | None = None, **options: Any) -> L.Trainer:
    torch.manual_seed(0)
    trainer = trainer_with(*callbacks, **options)
    trainer.fit(model, *loaders(), ckpt_path=ckpt_path)
    return trainer


def read(trainer: L.Trainer) -> Document:
    return Document.read(Path(str(trainer.log_dir)))


def rules(**options: Any) -> list[Any]:
    return [GradientHealth(), WorstErrors(), BiasVariance(human_error=0.02), ReportCard("json", **options)]


def test_a_run_that_ends() -> None:
    trainer = fit(Model(), *rules())
    found = read(trainer)
    assert (found.state, found.is_unfinished) == ("finished", False)
    assert found.run == "digits/version_0"
    assert found.progress == {"epoch": 4, "epochs": 4, "step": 64, "steps": None}
    assert [one["name"] for one in found.rules][:2] == ["gradient-health", "worst-errors"]
    assert found.rules[0]["says"].startswith("Gradients are finite")
    assert {one.rule for one in found.findings} >= {"non-finite-gradients", "worst-errors", "high-bias"}
    assert {name: len(one.steps) for name, one in found.metrics.items()} == {
        "train/loss": 4,
        "val/loss": 4,
        "val/accuracy": 4,
    }
    assert found.metrics["val/loss"].steps == [16, 32, 48, 64]
    assert found.series["learning_rate/0.0"].values[0] == pytest.approx(1e-2)
    assert found.series["learning_rate/0.0"].values[-1] == pytest.approx(1e-4)
    assert "gradient_norm/total" in found.series
    assert {one.name for one in found.exhibits} == {"worst_errors", "confusion", "bias_variance"}
    assert found.cost["seconds"] > 0
    assert found.cost["batch_seconds"] > 0
    assert found.cost["peak_bytes"] > 1e8
    assert found.record["config"]
    assert torch.__version__.startswith(found.record["versions"]["torch"])


def test_the_score_and_what_it_is_held_against() -> None:
    first = fit(Model(), *rules())
    second = fit(Model(), *rules())
    other = fit(Model(rate=1e-3), *rules())
    best = max(read(first).metrics["val/accuracy"].values)
    for trainer in (first, second):
        score = read(trainer).score
        assert score is not None
        assert (score.name, score.mode, score.examples, score.known) == ("val/accuracy", "max", 256, 0.98)
        assert score.value == pytest.approx(best)
        assert score.low is not None
        assert score.high is not None
        assert score.low < best < score.high
        assert score.majority is not None
        assert 0.1 <= score.majority < 0.15
    assert read(first).score.previous is None  # type: ignore[union-attr]
    assert read(second).score.previous == pytest.approx(best)  # type: ignore[union-attr]
    assert read(second).score.previous_run == "digits/version_0"  # type: ignore[union-attr]
    assert read(other).score.previous is None, "another configuration"  # type: ignore[union-attr]


def test_a_run_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_with(*rules())
    with pytest.raises(ValueError, match="the <b>data</b> is gone"):
        trainer.fit(Model(fails_at=40), *loaders())
    found = read(trainer)
    assert found.state == "failed: ValueError: the <b>data</b> is gone"
    assert found.progress["step"] == 40
    assert len(found.metrics["val/loss"].steps) == 2


def test_the_test_that_follows() -> None:
    trainer = fit(Model(), *rules())
    trainer.test(dataloaders=loaders()[1], verbose=False)
    found = read(trainer)
    assert found.score is not None
    assert found.tested == {"test/accuracy": pytest.approx(found.score.value)}, "of the best weights"
    assert found.state == "finished"
    assert len(found.findings) > 3


def test_a_checkpoint_holds_little_of_a_long_run() -> None:
    card = ReportCard()
    card._forget()
    for name in range(150):
        card.document.series[f"gradient_norm/{name}"] = Series(list(range(256)), torch.rand(256).tolist(), 1, 256)
    whole, kept = len(card.document.to_json()), card.state_dict()["document"]
    assert kept.dtype is torch.uint8
    assert kept.numel() < 0.5 * whole < 1e6
    again = ReportCard()
    again._forget()
    again.load_state_dict(card.state_dict())
    assert again.document.series == card.document.series


def test_a_resumed_run_goes_on_with_its_series() -> None:
    first = [DataAudit(), *rules()]
    fit(Model(), *first, max_epochs=2)
    (path,) = Path("kept").iterdir()
    found = read(fit(Model(), DataAudit(), *rules(), ckpt_path=str(path)))
    assert found.metrics["val/loss"].steps[-1] == 64
    assert found.metrics["val/loss"].steps[0] == 16
    assert [one.name for one in found.exhibits].count("class_balance") == 1, "seen at the start of the first fit alone"


@pytest.mark.parametrize("options", [{"form": "none"}, {"form": "json", "fast_dev_run": 2}])
def test_nothing_is_written(options: dict[str, Any]) -> None:
    card = ReportCard(options.pop("form"))
    fit(Model(), card, **options)
    assert not list(Path(".").rglob("report.*"))
    (said,) = card.findings
    assert said.severity is Severity.INFO
    assert said.message.startswith("No report is written")


def test_what_fails_costs_the_report_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_rules.record.write_file", full)
    monkeypatch.setattr(logging.getLogger("lightning_rules"), "propagate", True)
    trainer = fit(Model(), ReportCard("json"))
    assert trainer.state.finished
    (said,) = {
        one.message for one in caplog.records if one.message.startswith("The report") and one.levelno == logging.WARNING
    }
    assert "No space left on device" in said


def test_a_rule_whose_exhibits_fail_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(WorstErrors, "exhibits", broken)
    assert {one.name for one in read(fit(Model(), *rules())).exhibits} == {"bias_variance"}


def test_no_trace() -> None:
    ends = []
    for callbacks in ([], [ReportCard("json")]):
        model = Model()
        fit(model, *callbacks)
        ends.append(([one.clone() for one in model.parameters()], torch.get_rng_state()))
    assert all(torch.equal(one, other) for one, other in zip(ends[0][0], ends[1][0], strict=True))
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_form_that_is_none() -> None:
    with pytest.raises(ValueError, match="Expected `form` to be 'html', 'json' or 'none', but got 'pdf'"):
        ReportCard("pdf")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "not a report"), ("[]", "not a report"), ('{"format": 1}', "not a report"), ('{"format": 7}', "format 7")],
)
def test_a_file_that_is_no_report(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / JSON
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        Document.read(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no report in .*: expected the file rules/report.json"):
        Document.read(tmp_path)


def test_the_document_is_what_json_knows() -> None:
    document = Document(tested={"test/loss": float("nan")})
    assert json.loads(document.to_json())["tested"] == {"test/loss": None}


def test_metrics_of_an_epoch_stand_at_its_end() -> None:
    card = ReportCard()
    seen = [(10, {"val/loss": 2.0}), (10, {"val/loss": 2.0, "train/loss": 3.0}),
            (20, {"val/loss": 1.0, "train/loss": 3.0}), (20, {"val/loss": 1.0, "train/loss": 1.5})]  # fmt: skip
    card._add_logged(seen)
    assert card.document.metrics["train/loss"].values == [3.0, 1.5], "not those of the epoch before"
    assert card.document.metrics["val/loss"].values == [2.0, 1.0]
    assert card.document.metrics["train/loss"].steps == [10, 20]

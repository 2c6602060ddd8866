"""label-suspects: the judgement on numbers, then planted bugs and their healthy twins in real fits."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import LabelSuspects, Severity
from lightning_rules.data.confident_learning import Suspect, Suspects, judge_suspects
from lightning_rules.data.label_pictures import draw
from lightning_rules.data.label_signal import Signal, SplitSignal, Transfer, judge
from lightning_rules.figures import as_picture

pytestmark = pytest.mark.filterwarnings("ignore")
GENERATOR = torch.Generator().manual_seed(0)


def split(z: float, gain: float, n: int = 1000, classes: int = 10, noise: float = 0.015) -> SplitSignal:
    return SplitSignal(n, classes, "neighbours", z, gain, noise)


KNOWN, UNKNOWN = split(80.0, 0.95), split(0.5, 0.01)
HERE, THERE = split(35.0, 0.9, 300), split(0.5, 0.01, 300)
GOES = Transfer(0.93, 50.0, (("0", "0", 0.95, 30), ("1", "1", 0.95, 30), ("2", "2", 0.9, 30)))
FAILS = Transfer(0.0, 0.3)
SHIFTED = Transfer(-0.1, -9.0, (("0", "1", 0.95, 30), ("1", "2", 0.95, 30), ("2", "0", 0.9, 30)))
ONE_SIDED = Transfer(0.0, 1.0, (("0", "2", 0.95, 30), ("1", "2", 0.95, 30), ("2", "2", 0.9, 30)))


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (Signal(KNOWN, HERE, GOES, 0.6, 0.4, KNOWN), Severity.OK, "finds the labels"),
        (Signal(KNOWN, None, None, 0.6, 0.4, KNOWN), Severity.OK, "finds the labels"),
        (Signal(UNKNOWN, HERE, FAILS, 0.6, 0.4, UNKNOWN), Severity.ERROR, "Training labels say nothing"),
        (Signal(UNKNOWN, HERE, FAILS, 1.0, 0.8, UNKNOWN), Severity.ERROR, "Training labels say nothing"),
        (Signal(KNOWN, THERE, FAILS, 0.6, 0.4, KNOWN), Severity.ERROR, "Validation labels say nothing"),
        (Signal(KNOWN, THERE, GOES, 0.6, 0.4, KNOWN), Severity.OK, "finds the labels"),  # a small split
        (Signal(UNKNOWN, THERE, FAILS, 0.6, 0.4, UNKNOWN), Severity.ERROR, "form clusters"),
        (Signal(UNKNOWN, THERE, FAILS, 1.0, 0.4, UNKNOWN), Severity.INFO, "hard tasks look like that"),
        (Signal(UNKNOWN, THERE, FAILS, 0.6, 0.8, UNKNOWN), Severity.INFO, "hard tasks look like that"),
        (Signal(split(0.5, 0.01, 60, 2, 0.2), None, None, 0.6, 0.4, split(0.5, 0.01, 60, 2, 0.2)), Severity.INFO, ""),
        (Signal(split(0.5, 0.01, classes=0), None, None, 0.6, 0.4, split(0.5, 0.01, classes=0)), Severity.INFO, "0.01"),
        (Signal(split(-20.0, -0.7), None, None, 0.6, 0.4, split(-20.0, -0.7)), Severity.OK, "finds"),  # parity
        (Signal(KNOWN, HERE, SHIFTED, 0.6, 0.4, KNOWN), Severity.ERROR, "validation's 0 looks like training's 1"),
        (Signal(KNOWN, HERE, ONE_SIDED, 0.6, 0.4, KNOWN), Severity.OK, "finds the labels"),  # inputs shifted
        (Signal(split(40.0, 0.6), HERE, GOES, 0.6, 0.4, KNOWN), Severity.WARNING, "Many training labels look wrong"),
        (Signal(split(40.0, 0.85), HERE, GOES, 0.6, 0.4, KNOWN), Severity.OK, "finds the labels"),
    ],
)
def test_judgement_of_the_signal(seen: Signal, severity: Severity, words: str) -> None:
    (finding,) = judge(seen)
    assert finding.severity is severity, finding.message
    assert words in finding.message
    assert bool(finding.advice) or severity is Severity.OK


def test_suspects_are_no_alarm() -> None:
    listed = [Suspect(7, "3", "8", 0.01)]
    (some,) = judge_suspects(Suspects(100, 60, 0.9, listed))
    (none,) = judge_suspects(Suspects(100, 0, 0.9, []))
    (missing,) = judge_suspects(Suspects(100, 0, 0.9, [], "No."))
    assert [some.severity, none.severity, missing.severity] == [Severity.INFO, Severity.OK, Severity.INFO]
    assert "60 of 100" in some.message
    assert "7 is labelled 3 and looks like 8" in some.message


class Model(L.LightningModule):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Linear(inputs, outputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out, target = self.net(batch[0].flatten(1)), batch[1]
        if target.is_floating_point():
            return F.mse_loss(out[:, 0], target)
        return F.cross_entropy(out, target)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


def digits() -> tuple[Tensor, Tensor]:
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(1))
    bunch = load_digits()
    return torch.tensor(bunch.images[order], dtype=torch.float32)[:, None], torch.tensor(bunch.target[order])


def cancer() -> tuple[Tensor, Tensor]:
    bunch = load_breast_cancer()
    return torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)


def diabetes() -> tuple[Tensor, Tensor]:
    bunch = load_diabetes()
    return torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target / 77).float()


def parity() -> tuple[Tensor, Tensor]:
    bits = torch.randint(0, 2, (1000, 30), generator=GENERATOR).float()
    return bits, (bits.sum(1) % 2).long()


def noise() -> tuple[Tensor, Tensor]:
    return torch.randn(600, 8, generator=GENERATOR), torch.randint(0, 3, (600,), generator=GENERATOR)


def walks() -> tuple[Tensor, Tensor]:
    """Random walks with heavy tails; which way they go on cannot be told."""
    steps = torch.randn(800, 31, generator=GENERATOR) * torch.rand(800, 1, generator=GENERATOR).pow(-0.4)
    return steps.cumsum(1)[:, :30], (steps[:, 30] > 0).long()


def fit(data: Any, change: Callable[[Tensor, int], Tensor], callbacks: list[Any], **options: Any) -> Any:
    """The first four fifths are for training; ``change`` gets the labels, and where validation begins."""
    torch.manual_seed(0)
    inputs, targets = data
    begins = len(inputs) * 4 // 5
    targets = change(targets.clone(), begins)
    train, validation = (
        TensorDataset(inputs[:begins], targets[:begins]),
        TensorDataset(inputs[begins:], targets[begins:]),
    )
    outputs = 1 if targets.is_floating_point() else int(targets.max()) + 1
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **{"max_steps": 1, **quiet, **options})
    module = Model(inputs[0].numel(), outputs)
    trainer.fit(module, DataLoader(train, 64, shuffle=True), DataLoader(validation, 64))
    return trainer


def as_they_are(targets: Tensor, begins: int) -> Tensor:
    return targets


def shuffled(targets: Tensor, begins: int) -> Tensor:
    return targets[torch.randperm(len(targets))]


def shuffled_in_training(targets: Tensor, begins: int) -> Tensor:
    return torch.cat([targets[:begins][torch.randperm(begins)], targets[begins:]])


def shifted_by_one_row(targets: Tensor, begins: int) -> Tensor:
    return targets.roll(1)


def counted_from_one(targets: Tensor, begins: int) -> Tensor:
    targets[begins:] = (targets[begins:] + 1) % (targets.max() + 1)
    return targets


def noisy(targets: Tensor, begins: int) -> Tensor:
    wrong = torch.rand(begins) < 0.4
    targets[:begins][wrong] = torch.randint(0, int(targets.max()) + 1, (int(wrong.sum()),))
    return targets


@pytest.mark.parametrize(
    ("data", "change", "severity", "words"),
    [
        (digits, shuffled, Severity.ERROR, "Labels say nothing about the inputs"),
        (digits, shifted_by_one_row, Severity.ERROR, "Labels say nothing about the inputs"),
        (cancer, shuffled, Severity.ERROR, "Labels say nothing about the inputs"),
        (digits, shuffled_in_training, Severity.ERROR, "Training labels say nothing"),
        (diabetes, shuffled_in_training, Severity.ERROR, "Training labels say nothing"),
        (digits, counted_from_one, Severity.ERROR, "validation's 4 looks like training's 3"),
        (digits, noisy, Severity.WARNING, "Many training labels look wrong"),
    ],
)
def test_fires_on_a_planted_bug(data: Any, change: Any, severity: Severity, words: str) -> None:
    rule = LabelSuspects(budget=None)
    fit(data(), change, [rule])
    worst = max(rule.findings, key=lambda finding: finding.severity)
    assert worst.severity is severity
    assert words in worst.message
    assert worst.advice


@pytest.mark.parametrize("data", [digits, cancer, diabetes, parity, noise, walks])
def test_silent_on_healthy_twins(data: Any) -> None:
    rule = LabelSuspects(budget=None)
    fit(data(), as_they_are, [rule])
    assert all(finding.severity <= Severity.INFO for finding in rule.findings), rule.findings


def test_wrong_labels_are_listed_and_drawn(tmp_path: Path) -> None:
    inputs, targets = digits()
    planted = list(range(100, 900, 100))
    targets[planted] = (targets[planted] + 5) % 10
    rule = LabelSuspects(budget=None)
    trainer = fit((inputs, targets), as_they_are, [rule], logger=CSVLogger(tmp_path))
    listed = str(rule.findings[-1].evidence["indices"]).split()
    assert len(listed) <= 9
    assert len({str(index) for index in planted} & set(listed)) >= 6
    with Image.open(Path(trainer.log_dir, "rules", "label-suspects.png")) as picture:
        assert min(picture.size) > 200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 8


def test_without_cleanlab_the_signal_is_still_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    rule = LabelSuspects(budget=None)
    fit(digits(), as_they_are, [rule])
    assert [finding.severity for finding in rule.findings] == [Severity.OK, Severity.INFO]
    assert "pip install 'lightning-rules[check]'" in rule.findings[1].message


def test_what_cannot_be_probed_is_left_alone() -> None:
    inputs, targets = digits()
    for data, why in [
        ((inputs[:30], targets[:30]), "too few for a probe"),
        ((torch.ones_like(inputs), targets), "inputs do not vary"),
        ((inputs, torch.zeros_like(targets)), "all labels are the same"),
    ]:
        rule = LabelSuspects(budget=None)
        fit(data, as_they_are, [rule])
        assert why in rule.findings[0].message
        assert rule.findings[0].severity is Severity.INFO


def test_leaves_no_trace() -> None:
    ends = []
    for callbacks in ([], [LabelSuspects(budget=None)]):
        trainer = fit(digits(), as_they_are, callbacks, max_steps=-1, max_epochs=2, limit_train_batches=4)
        state = trainer.optimizers[0].state.values()
        ends.append(
            [*trainer.model.state_dict().values(), torch.get_rng_state(), *(s["momentum_buffer"] for s in state)]
        )
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_no_picture_without_images(tmp_path: Path) -> None:
    assert as_picture(torch.rand(30)) is None
    assert as_picture(torch.rand(2, 40)) is None
    assert as_picture(torch.rand(5, 8, 8)) is None
    assert as_picture(torch.rand(3, 8, 9)).shape == (8, 9, 3)  # type: ignore[union-attr]
    assert as_picture(torch.rand(8, 9, 4)).shape == (8, 9, 3)  # type: ignore[union-attr]
    assert as_picture(torch.rand(8, 9)).shape == (8, 9)  # type: ignore[union-attr]
    assert not draw([(Suspect(0, "a", "b", 0.1), torch.rand(30))], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_seconds_are_positive() -> None:
    with pytest.raises(ValueError, match="Expected `seconds` to be positive, but got 0"):
        LabelSuspects(seconds=0)

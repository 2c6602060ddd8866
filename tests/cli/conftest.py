"""A small module and datamodule that know nothing of this project, and a way to call the command line."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.cli import RecipeCLI, main

CommandLine = Callable[..., RecipeCLI]


class Separable(L.LightningModule):
    """Two classes told apart by the sign of one number; `answer` fixes the prediction, `log` what is logged."""

    def __init__(
        self, log: str = "test/accuracy", in_training: str = "", in_setup: str = "", in_init: str = ""
    ) -> None:
        super().__init__()
        if in_init == "by accident":
            int("forty-two")
        elif in_init:
            raise ConnectionError(in_init)
        self.layer = nn.Linear(1, 2)
        self.logged, self.in_training, self.in_setup = log, in_training, in_setup

    def setup(self, stage: str) -> None:
        if self.in_setup:
            raise ValueError(self.in_setup)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.in_training == "by accident":
            int("forty-two")
        elif self.in_training:
            raise ValueError(self.in_training)
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/accuracy", (self.layer(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log(self.logged, (batch[0][:, 0].gt(0) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Negated(Separable):
    """Its loss has the wrong sign."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return -super().training_step(batch, batch_idx)


class Unlabelled(L.LightningDataModule):
    """Eleven test examples, nine of them on the right side; batches of four, so the last is smaller."""

    x = torch.tensor([[-1.0], [-1], [-1], [-1], [1], [1], [1], [1], [1], [-1], [1]])
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader()

    def _loader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=4)


class Labelled(Unlabelled):
    """The same, with labels to be asked for: 0 is the commonest in training, 1 in the test."""

    def labels(self, split: str) -> list[int]:
        return [0, 0, 0, 1] if split == "train" else self.y.tolist()


class Many(L.LightningDataModule):
    """512 training examples, told apart by their sign."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.randn(512, 1, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x[:, 0].gt(0).long()), batch_size=16, shuffle=True)


class Untestable(L.LightningDataModule):
    """Has nothing to test on."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return Unlabelled()._loader()


QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Call the command line in this process, as if the arguments stood in a shell."""

    def call(*arguments: str) -> RecipeCLI:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        return main()

    return call


@pytest.fixture
def fit(command: CommandLine) -> CommandLine:
    """`fit` the small module above on the data named first, for one epoch."""

    def call(data: str = "Labelled", arguments: Sequence[str] = (), model: str = "Separable") -> RecipeCLI:
        return command("fit", f"--model={model}", f"--data={data}", "--trainer.logger=CSVLogger", *QUICK, *arguments)

    return call


@pytest.fixture
def error(command: CommandLine, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command line, see that it exits with status 2 and no traceback, and return its last line."""

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as raised:
            command(*arguments)
        assert raised.value.code == 2
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        return printed.strip().splitlines()[-1]

    return call


@pytest.fixture
def repository() -> Path:
    """The folder that holds scripts/ and configs/."""
    return Path(__file__).resolve().parents[2]

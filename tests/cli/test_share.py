"""`fit` on a share of the data, from the command line to its folder."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_recipe.cli import RecipeCLI
from lightning_recipe.data import DigitsDataModule

Command = Callable[..., RecipeCLI]
Error = Callable[..., str]

MODEL = ["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=4"]
DIGITS = [*MODEL, "--data=DigitsDataModule", "--data.form=rows", "--rules=none", "--data.batch_size=256"]
QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def reference(*share) -> DigitsDataModule:
    data = DigitsDataModule(form="rows")
    getattr(data, f"setup_{share[0]}")(*share[1:])
    data.setup("fit")
    return data


def test_a_fit_is_scored_on_what_it_holds_out(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    keep = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
    cli = command("fit", *DIGITS, *QUICK, *keep, "--held_out=2/4@3", "--test_after_fit=true")
    expected = reference("fold", 1, 4, 3, True)
    data = cli.datamodule
    assert isinstance(data, DigitsDataModule)
    assert data.held_out.tolist() == expected.held_out.tolist()
    assert data.normalisation == expected.normalisation
    assert cli.trainer.num_training_batches == len(expected.labels("train")) // 256
    assert f"of {len(expected.held_out)} examples right" in capsys.readouterr().out
    # Its checkpoint is tested and predicted with the same share, and with its statistics alone.
    log_dir, checkpoint = cli.trainer.log_dir, cli.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    again = [f"--config={log_dir}/config.yaml", f"--ckpt_path={checkpoint}"]
    command("test", *again)
    assert f"of {len(expected.held_out)} examples right" in capsys.readouterr().out
    predicted = command("predict", *again, "--trainer.callbacks+=PredictionsCSV")
    with Path(str(predicted.trainer.log_dir), "predictions.csv").open() as file:
        assert [int(row["true"]) for row in csv.DictReader(file)] == expected.labels("predict").tolist()


def test_a_fit_on_a_subset_and_on_everything(command: Command) -> None:
    for option, share in (("--subset=300@2", ("subset", 300, 2)), ("--all_data=anew", ("all", "anew"))):
        cli = command(
            "fit", *DIGITS, *QUICK, option, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"
        )
        expected = reference(*share)
        assert isinstance(cli.datamodule, DigitsDataModule)
        assert torch.equal(cli.datamodule.datasets["train"].x, expected.datasets["train"].x)
        assert np.array_equal(cli.datamodule.labels("val"), expected.labels("val"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fold=1/5", "--held_out=1/5"], "--fold 1/5 and --held_out 1/5 were given, but each says by itself what"),
        (["--held_out=5"], "--held_out 5 was given, but it must be K/N or K/N@SEED"),
        (["--held_out=1/900"], "examples, which is too few for 900 folds: ask for"),
        (["--subset=5"], "A subset of 5 training examples was asked for, but there are 10 classes"),
        (["--subset=all"], "--subset all was given, but it must be COUNT or COUNT@SEED"),
        (["--all_data=both"], "both"),
    ],
)
def test_a_share_that_cannot_be_had_is_one_sentence(error: Error, options: list[str], said: str) -> None:
    assert said in error("fit", *DIGITS, *QUICK, *options)
    assert not list(Path.cwd().rglob("*.ckpt"))

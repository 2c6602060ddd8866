"""The model learns: one batch by heart, one epoch with a checkpoint and a test, two processes together."""

import subprocess
import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lightning_recipe.cli import RecipeCLI, main

TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"


def test_learns_one_batch_by_heart(stage) -> None:
    """A model that cannot has a bug, or its data has (Karpathy 2019)."""
    cli = RecipeCLI([*stage("overfit"), "--data.batch_size", "8"], run=False)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    batch = next(iter(cli.datamodule.train_dataloader()))
    stop = EarlyStopping("train/loss", stopping_threshold=0.05, patience=100, check_on_train_epoch_end=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=100, accelerator="cpu", callbacks=[stop], **quiet)
    trainer.fit(cli.model, DataLoader([batch], batch_size=None))
    assert trainer.callback_metrics["train/loss"] < 0.05


def test_one_epoch_leaves_a_checkpoint_and_is_tested(stage) -> None:
    cli = main(["fit", *stage("baseline"), "--trainer.max_epochs", "1", "--test_after_fit", "true"])
    assert Path(cli.trainer.checkpoint_callback.best_model_path).is_file()
    assert 0 <= cli.trainer.callback_metrics["test/accuracy"] <= 1


def test_two_processes_train_together(stage) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.fast_dev_run", "2"]
    command = [sys.executable, str(TRAIN), "fit", *stage("baseline"), *two]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr

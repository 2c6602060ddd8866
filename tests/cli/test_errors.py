"""What a wrong setting looks like at the command line: one line and status 2, or a traceback where one is wanted."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_recipe.cli import RecipeCLI

Command = Callable[..., object]
Error = Callable[..., str]

RUN = ("--model=Separable", "--data=Labelled", "--rules=none")


def test_config_that_does_not_exist(error: Error) -> None:
    assert "nowhere.yaml" in error("fit", "--config=nowhere.yaml")


def test_no_subcommand(error: Error) -> None:
    assert "{fit,validate,test,predict,check" in error()


@pytest.mark.parametrize("save_dir", ["a_file/logs", "/proc/logs"])
def test_log_folder_that_cannot_be_written(error: Error, tmp_path: Path, save_dir: str) -> None:
    (tmp_path / "a_file").write_text("a file, not a folder")
    said = error("fit", *RUN, "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={save_dir}")
    assert said.startswith(f"error: The folder {Path(tmp_path, save_dir)}/")
    assert "cannot be written" in said
    assert "name another" in said


@pytest.mark.parametrize("devices", ["0", "-1", "-3"])
def test_number_of_devices_that_makes_no_sense(error: Error, devices: str) -> None:
    said = error("fit", *RUN, "--trainer.accelerator=cpu", f"--trainer.devices={devices}")
    assert said.startswith(f"error: --trainer.accelerator cpu --trainer.devices {devices}: expected at least 1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_gpus_on_a_machine_without(error: Error) -> None:
    said = error("fit", *RUN, "--trainer.accelerator=gpu", "--trainer.devices=3")
    assert "this machine has no GPU that torch can use; use --trainer.accelerator cpu" in said


def test_checkpoint_that_is_not_there_or_is_none(error: Error, tmp_path: Path) -> None:
    assert "nowhere.ckpt" in error("test", *RUN, "--ckpt_path=nowhere.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"garbage")
    said = error("test", *RUN, "--ckpt_path=broken.ckpt")
    assert said.startswith("error: --ckpt_path broken.ckpt cannot be read as a checkpoint")
    assert "give a .ckpt file" in said


def test_own_sentence_before_training_is_a_message(error: Error) -> None:
    assert error("fit", *RUN, "--model.in_setup=Give me 3 classes.") == "error: Give me 3 classes."


def test_sentence_of_a_constructor_is_a_message(error: Error) -> None:
    """Without the types that jsonargparse has tried, and without the arguments of the whole model."""
    assert error("fit", *RUN, "--model.in_init=Give me a network.") == "error: Give me a network."
    said = error("fit", "--model=ImageClassifier", "--model.num_classes=2", "--model.backbone=resnet_81", *RUN[1:])
    assert said.startswith("error: backbone='resnet_81' is unknown to timm: choose a name of timm.list_models(), such")


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image_is_named_wherever_it_is_read(error: Error, tmp_path: Path, workers: int) -> None:
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(8):
            Image.new("RGB", (16, 16), (index * 30, 0, 0)).save(tmp_path / "images" / name / f"{index}.png")
    for index in range(8):
        (tmp_path / "images" / "b" / f"{index}.png").write_bytes(b"not an image")
    model = ("--model=ImageClassifier", "--model.num_classes=2", "--model.backbone=test_resnet", "--rules=none")
    data = (
        "--data=ImageFolderDataModule",
        "--data.root=images",
        "--data.image_size=32",
        f"--data.num_workers={workers}",
    )
    said = error("fit", *model, *data)
    assert re.match(r"error: .*images/b/\d\.png", said), said


def test_accident_in_a_constructor_keeps_its_traceback(command: Command) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        command("fit", *RUN, "--model.in_init=by accident")


@pytest.mark.parametrize("raised", ["in the training code", "by accident"])
def test_own_training_code_keeps_its_traceback(command: Command, raised: str) -> None:
    with pytest.raises(ValueError, match=r"in the training code|invalid literal"):
        command("fit", *RUN, f"--model.in_training={raised}", "--trainer.enable_progress_bar=false")


def test_wandb_without_login_names_the_ways_out(repository: Path, tmp_path: Path) -> None:
    """In a process of its own: no terminal, no key, nothing to be asked; it must neither hang nor ask."""
    hidden = {"WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    configs = [f"--config={repository}/configs/{name}.yaml" for name in ("digits", "logger_wandb")]
    done = subprocess.run(
        [sys.executable, str(repository / "scripts" / "train.py"), "fit", *configs],
        env={**environment, "HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: Weights & Biases did not start a run (No API key configured.")
    for way_out in ("`wandb login`", "WANDB_MODE=offline", "configs/logger_csv.yaml"):
        assert way_out in said
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("logs/**/*.csv")), "nothing was trained"


def test_a_checkpoint_is_not_unpickled_without_being_asked(error: Error, command: Command) -> None:
    command("fit", *RUN, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=.")
    path = next(Path().glob("*.ckpt"))
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "note": Fraction(1, 3)}, "foreign.ckpt")
    said = error("test", *RUN, "--ckpt_path=foreign.ckpt")
    assert said.startswith("error: --ckpt_path foreign.ckpt holds fractions.Fraction, which only unpickling makes")
    command("test", *RUN, "--ckpt_path=foreign.ckpt", "--weights_only=false")


def test_what_comes_from_another_host_is_loaded_safely(command: Callable[..., RecipeCLI]) -> None:
    """Lightning's own choice is weights_only=False for addresses."""
    cli = command("fit", *RUN)
    assert cli.config.fit.weights_only is True

"""What must hold before a run begins; each check raises one sentence that says what to do about it."""

import os
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.loggers import WandbLogger

# Logger class: the modules of which it needs one. The first names the extra that brings it, too.
_LOGGER_NEEDS = {"WandbLogger": ["wandb"], "TensorBoardLogger": ["tensorboard", "tensorboardX"]}


def check_devices(accelerator: Any, devices: Any) -> None:
    """Refuse a number of devices that this machine does not have.

    Args:
        accelerator: `Trainer`'s argument; what is not auto, cpu, gpu, cuda or mps is left to Lightning.
        devices: `Trainer`'s argument: a count, a list of indices, either as text, or auto.

    Raises:
        MisconfigurationException: If the accelerator is not available, or has not so many devices.
    """
    if accelerator in ("auto", "cpu", "gpu", "cuda", "mps"):
        complaint = devices_complaint(accelerator, devices, *_available(accelerator))
        if complaint:
            raise MisconfigurationException(complaint)


def devices_complaint(accelerator: str, devices: Any, kind: str, present: int) -> str | None:
    """What is wrong with a number of devices, given what is there; None if nothing is.

    Args:
        accelerator: As in `check_devices`.
        devices: As in `check_devices`.
        kind: What the accelerator means on this machine: CPU (any number of processes) or GPU.
        present: How many of that kind there are.
    """
    given = f"--trainer.accelerator {accelerator} --trainer.devices {devices}"
    if not present:
        return (
            f"{given}: this machine has no {kind} that torch can use; "
            "use --trainer.accelerator cpu, or auto for what there is."
        )
    wanted = _count(devices)
    if wanted is None or (wanted == -1 and kind != "CPU"):
        return None
    if wanted < 1:
        every = "" if kind == "CPU" else ", or -1 for all of them"
        return f"{given}: expected at least 1 device; use --trainer.devices 1{every}."
    if kind != "CPU" and wanted > present:
        return (
            f"{given}: {wanted} would be needed, and this machine has {present}; "
            f"use --trainer.devices {present}{' or fewer' if present > 1 else ''}."
        )
    return None


def _available(accelerator: str) -> tuple[str, int]:
    """The kind of device an accelerator flag means here, and how many of it there are."""
    if accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available():
        return "GPU", CUDAAccelerator.auto_device_count()
    if accelerator in ("auto", "gpu", "mps") and MPSAccelerator.is_available():
        return "GPU", MPSAccelerator.auto_device_count()
    if accelerator in ("auto", "cpu"):
        return "CPU", CPUAccelerator.auto_device_count()
    return "GPU", 0


def _count(devices: Any) -> int | None:
    """How many devices an argument asks for; None if it leaves that open or is for Lightning to judge."""
    if isinstance(devices, str) and "," in devices:
        devices = [part.strip() for part in devices.split(",") if part.strip()]
    try:
        return max((int(index) + 1 for index in devices), default=0) if isinstance(devices, list) else int(devices)
    except (TypeError, ValueError):
        return None


def check_logger_packages(class_paths: Iterable[str]) -> None:
    """Refuse a logger whose package is not installed, before Lightning tries to build it.

    Args:
        class_paths: Class paths (or short names) of the loggers asked for.

    Raises:
        ModuleNotFoundError: If one is missing; names the extra that brings it.
    """
    for class_path in class_paths:
        modules = _LOGGER_NEEDS.get(class_path.rpartition(".")[2], [])
        if modules and all(find_spec(module) is None for module in modules):
            raise ModuleNotFoundError(
                f"{class_path} needs the package {modules[0]}, which is not installed: install it with "
                f"`pip install 'lightning-rules[{modules[0]}]'`, or log with configs/logger_csv.yaml."
            )


def check_wandb_login(trainer: Trainer) -> None:
    """Open the W&B run now, so that a missing login ends the program before any work is done.

    W&B itself looks for the key (environment, netrc, settings) and asks for it where there is a terminal.

    Args:
        trainer: The trainer whose loggers are looked at; on other ranks than 0 nothing happens.

    Raises:
        MisconfigurationException: If W&B refuses to start the run, with its reason and the ways out.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            try:
                _ = logger.experiment
            except wandb.Error as error:
                raise MisconfigurationException(
                    f"Weights & Biases did not start a run ({' '.join(str(error).split())}): log in with "
                    "`wandb login`, or keep the run on this machine with WANDB_MODE=offline, "
                    "or log to plain files with --config configs/logger_csv.yaml."
                ) from error


def check_folders(trainer: Trainer) -> None:
    """Make sure that the folders for logs and checkpoints can be written, leaving no trace of the attempt.

    Args:
        trainer: The trainer about to run; on other ranks than 0 nothing happens.

    Raises:
        OSError: If a file cannot be made in a folder or, where it is yet to be made, in its nearest parent.
    """
    if not trainer.is_global_zero:
        return
    folders = [getattr(logger, "log_dir", None) or logger.save_dir for logger in trainer.loggers]
    folders += [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    for folder in folders or [trainer.default_root_dir]:
        if folder and "://" not in str(folder):
            _check_writable(Path(folder).absolute())


def _check_writable(folder: Path) -> None:
    parent = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise OSError(
            f"The folder {folder} for logs and checkpoints cannot be written ({parent}: {error.strerror}): "
            "name another in the config (trainer.logger.init_args.save_dir), or change its permissions."
        ) from error

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_recipe import preconditions
from lightning_recipe.preconditions import check_devices, devices_complaint


@pytest.mark.parametrize(
    ("accelerator", "devices", "kind", "present"),
    [
        ("auto", "auto", "CPU", 2),
        ("cpu", 8, "CPU", 2),  # processes, of which a CPU runs any number
        ("gpu", -1, "GPU", 2),
        ("gpu", "0,1", "GPU", 2),
        ("gpu", [1], "GPU", 2),
        ("cuda", "2", "GPU", 2),
    ],
)
def test_what_the_machine_has_is_not_refused(accelerator: str, devices: Any, kind: str, present: int) -> None:
    assert devices_complaint(accelerator, devices, kind, present) is None


@pytest.mark.parametrize(
    ("accelerator", "devices", "kind", "present", "said"),
    [
        ("gpu", 3, "GPU", 0, "has no GPU"),
        ("auto", 0, "CPU", 2, "expected at least 1"),
        ("cpu", -1, "CPU", 2, "expected at least 1"),
        ("cpu", -2, "CPU", 2, "expected at least 1"),
        ("gpu", -2, "GPU", 2, "or -1 for all"),
        ("gpu", 3, "GPU", 1, "3 would be needed, and this machine has 1"),
        ("gpu", "0,4", "GPU", 2, "5 would be needed"),
        ("gpu", [], "GPU", 2, "expected at least 1"),
    ],
)
def test_what_it_has_not_is(accelerator: str, devices: Any, kind: str, present: int, said: str) -> None:
    complaint = devices_complaint(accelerator, devices, kind, present)
    assert complaint is not None
    assert said in complaint
    assert f"--trainer.devices {devices}" in complaint, "what was given"
    assert "use --trainer." in complaint, "what to do"


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine without a GPU")
def test_this_machine_is_looked_at() -> None:
    check_devices("auto", "auto")
    check_devices("tpu", 0)  # left to Lightning
    with pytest.raises(MisconfigurationException, match="no GPU that torch can use"):
        check_devices("gpu", 3)


def test_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    preconditions._check_writable(tmp_path / "logs" / "version_0")
    assert list(tmp_path.iterdir()) == []


def test_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(OSError, match=r"logs/run .*cannot be written .*Not a directory.*name another"):
        preconditions._check_writable(tmp_path / "logs" / "run")


def test_missing_package_of_a_logger_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "_LOGGER_NEEDS", {"WandbLogger": ["wandb_that_is_not_there"]})
    preconditions.check_logger_packages(["lightning.pytorch.loggers.CSVLogger"])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-rules\[wandb_that_is_not_there\]'"):
        preconditions.check_logger_packages(["lightning.pytorch.loggers.WandbLogger"])

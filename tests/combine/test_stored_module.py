"""Modules out of checkpoints: safe, whole, or one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rules.combine.stored_module import build, description, load_module, read_checkpoint


def test_a_module_comes_back(members: Any, classifier: Any) -> None:
    (path,) = members(5)
    module = load_module(path, classifier)
    assert module.net[0].out_features == 5
    assert not module.training
    for name, value in torch.load(path, weights_only=True)["state_dict"].items():
        assert torch.equal(module.state_dict()[name], value)


def test_the_class_that_a_checkpoint_names(members: Any, classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = members(5)
    with pytest.raises(ValueError, match=r"member0.ckpt does not name the class of its module: give it as"):
        load_module(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "their_project.Net"
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"made by their_project.Net, which is not imported"):
        load_module(path)
    monkeypatch.setitem(sys.modules, "their_project", type("Module", (), {"Net": classifier}))
    assert isinstance(load_module(path), classifier)


def test_a_file_never_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "folder": tmp_path}, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match="which only unpickling makes"):
        read_checkpoint(tmp_path / "odd.ckpt")


def test_damaged_files_are_named(members: Any, tmp_path: Path) -> None:
    (path,) = members(5)
    Path("half.ckpt").write_bytes(Path(path).read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half.ckpt is damaged or no checkpoint .*: restore it from a copy"):
        load_module("half.ckpt")
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint gone.ckpt"):
        load_module("gone.ckpt")
    torch.save({"weights": 1}, "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt is no Lightning checkpoint"):
        load_module("other.ckpt")


def test_a_class_that_has_changed(members: Any, classifier: Any) -> None:
    (path,) = members(5)

    class Changed(classifier):  # type: ignore[misc]
        def __init__(self, width: int) -> None:
            super().__init__(width + 1)

    with pytest.raises(ValueError, match=r"The weights in member0.ckpt are not those of Changed \(size mismatch"):
        load_module(path, Changed)


def test_hyperparameters_that_do_not_make_it(classifier: Any) -> None:
    class Needs(classifier):  # type: ignore[misc]
        def __init__(self, teacher: object) -> None:
            super().__init__()

    with pytest.raises(ValueError, match=r"Needs cannot be made again .*save_hyperparameters"):
        build(Needs, {"hyper_parameters": {"width": 3}}, "x.ckpt")


def test_hyperparameters_in_one_argument(classifier: Any) -> None:
    class Hparams(classifier):  # type: ignore[misc]
        def __init__(self, hparams: Any) -> None:
            super().__init__(hparams["width"])

    described = description(Hparams, {"hyper_parameters": {"width": 3}, "hparams_name": "hparams", "state_dict": {}})
    assert described["hyper_parameters"]["_class_path"].endswith("Hparams")
    assert build(Hparams, described, "x").net[0].out_features == 3


def test_a_module_may_mend_its_checkpoint(members: Any, classifier: Any) -> None:
    (path,) = members(5)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {f"old.{name}": value for name, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, path)

    class Mends(classifier):  # type: ignore[misc]
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name.removeprefix("old."): value for name, value in state.items()}

    assert load_module(path, Mends).net[0].out_features == 5

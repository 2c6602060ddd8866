"""Several networks as one LightningModule and as one file."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_rules import EnsembleModule, save_ensemble
from lightning_rules.combine.stored_module import load_module


@pytest.fixture(autouse=True)
def _importable(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members' class can be found by its name, as any project's can."""
    monkeypatch.setitem(
        sys.modules, classifier.__module__, sys.modules.get(classifier.__module__) or _holder(classifier)
    )


def _holder(classifier: Any) -> Any:
    return type("Module", (), {classifier.__qualname__: classifier})


def test_averages_the_members(members: Any, classifier: Any) -> None:
    paths = members(5, 9)
    ensemble = EnsembleModule(paths, "multiclass", module_class=classifier)
    x = torch.randn(7, 4)
    expected = torch.stack([load_module(path, classifier)(x).softmax(1) for path in paths]).mean(0)
    torch.testing.assert_close(ensemble(x).exp(), expected)
    assert not ensemble.train().members[0].training


def test_judges_each_example_once(members: Any, classifier: Any, data: Any, trainer: Any) -> None:
    ensemble = EnsembleModule(members(5, 9), module_class=classifier)
    metrics = trainer().test(ensemble, datamodule=data, verbose=False)[0]
    x, y = data.parts["test"].tensors
    answer = ensemble(x)
    assert metrics["test/accuracy"] == pytest.approx(float((answer.argmax(1) == y).float().mean()))
    assert metrics["test/loss"] == pytest.approx(float(nn.functional.nll_loss(answer, y)), rel=1e-5)
    assert 0 < metrics["test/calibration_error"] < 1
    assert trainer().validate(ensemble, datamodule=data, verbose=False)[0].keys() == {
        "val/loss",
        "val/accuracy",
        "val/calibration_error",
    }


def test_predicts_probabilities(members: Any, classifier: Any, data: Any, trainer: Any) -> None:
    ensemble = EnsembleModule(members(5, 9), "multiclass", module_class=classifier)
    parts = trainer().predict(ensemble, datamodule=data)
    shares = torch.cat([part["probabilities"] for part in parts])
    torch.testing.assert_close(shares.sum(1), torch.ones(41))
    assert torch.equal(torch.cat([part["label"] for part in parts]), data.parts["test"].tensors[1])


def test_the_file_needs_no_other(members: Any, classifier: Any, data: Any, trainer: Any) -> None:
    paths = members(5, 9)
    ensemble = EnsembleModule(paths, "multiclass", average="logits", weights=[3, 1], module_class=classifier)
    save_ensemble(ensemble, "out/ensemble.ckpt")
    for path in paths:
        Path(path).unlink()
    x = torch.randn(7, 4)
    for again in (
        EnsembleModule.load_from_checkpoint("out/ensemble.ckpt", weights_only=True),
        load_module("out/ensemble.ckpt", EnsembleModule),
    ):
        torch.testing.assert_close(again(x), ensemble(x))
        assert again.weights.tolist() == [0.75, 0.25]
    untrained = copy.deepcopy(again)
    for parameter in untrained.parameters():
        nn.init.zeros_(parameter)
    by_trainer = trainer().test(untrained, datamodule=data, ckpt_path="out/ensemble.ckpt", weights_only=True)
    assert by_trainer == trainer().test(ensemble, datamodule=data)
    assert [path.name for path in Path("out").iterdir()] == ["ensemble.ckpt"]


def test_an_ensemble_of_ensembles(members: Any, classifier: Any) -> None:
    inner = EnsembleModule(members(5, 9), "multiclass", module_class=classifier)
    outer = EnsembleModule([inner, load_module("member0.ckpt", classifier)], "multiclass")
    x = torch.randn(3, 4)
    expected = (inner(x).exp() + load_module("member0.ckpt", classifier)(x).softmax(1)) / 2
    torch.testing.assert_close(outer(x).exp(), expected)


def test_values_and_their_spread() -> None:
    low, high = nn.Linear(4, 1), nn.Linear(4, 1)
    for layer, value in ((low, 1.0), (high, 3.0)):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)
    said = EnsembleModule([low, high], "regression").predict_step((torch.randn(5, 4), torch.zeros(5)), 0)
    assert said["mean"].tolist() == [[2.0]] * 5
    assert said["variance"].tolist() == [[1.0]] * 5


def test_a_task_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="give the ensemble its `task`"):
        EnsembleModule([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["b", "a", "c"]}, r"class 0 is 'b' to member1.ckpt and 'a' to member0.ckpt"),
        ({"class_names": ["a", "b"]}, r"class 2 is None to member1.ckpt and 'c' to member0.ckpt"),
        ({"normalisation": {"mean": [0.5], "std": [1.0]}}, r"expects normalisation mean \[0.5\], std \[1\], and"),
    ],
)
def test_members_that_differ(members: Any, classifier: Any, change: dict[str, Any], message: str) -> None:
    paths = members(5, 5)
    facts = {"class_names": ["a", "b", "c"], "normalisation": {"mean": [0.1], "std": [1.0]}}
    for path, told in zip(paths, (facts, {**facts, **change}), strict=True):
        checkpoint = torch.load(path, weights_only=True)
        torch.save({**checkpoint, "Data": told}, path)
    with pytest.raises(ValueError, match=message):
        EnsembleModule(paths, module_class=classifier)


def test_facts_go_with_the_file(members: Any, classifier: Any) -> None:
    paths = members(5, 5)
    for path in paths:
        checkpoint = torch.load(path, weights_only=True)
        torch.save({**checkpoint, "Data": {"class_names": ["a", "b", "c"]}}, path)
    save_ensemble(EnsembleModule(paths, "multiclass", module_class=classifier), "ensemble.ckpt")
    assert torch.load("ensemble.ckpt", weights_only=True)["Data"] == {"class_names": ["a", "b", "c"]}


def test_other_numbers_of_classes(members: Any, classifier: Any) -> None:
    (path,) = members(5)
    other = classifier(5)
    other.num_classes = 4
    with pytest.raises(ValueError, match=r"member 1 has 4 classes, and member0.ckpt has 3"):
        EnsembleModule([path, other], module_class=classifier)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, r"Expected one weight for each of the 2 members"),
        ({"weights": [-1.0, 2.0]}, r"not negative"),
        ({"average": "median"}, r"Expected `average` to be 'probabilities' or 'logits', but got 'median'"),
        ({"format": 99}, r"saved by a newer lightning-rules \(format 99"),
        ({"task": "classes"}, r"Expected `task`"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleModule([nn.Linear(4, 3), nn.Linear(4, 3)], **options)


def test_one_member_only(members: Any, classifier: Any) -> None:
    with pytest.raises(ValueError, match=r"needs at least 2 members, but got 1 \(member0.ckpt\)"):
        EnsembleModule(members(5), module_class=classifier)


def test_what_cannot_be_made_again_is_not_half_saved() -> None:
    ensemble = EnsembleModule([nn.Linear(4, 3), nn.Linear(4, 3)], "multiclass")
    with pytest.raises(ValueError, match=r"member 0 cannot be saved in an ensemble.*save_hyperparameters"):
        save_ensemble(ensemble, "out/ensemble.ckpt")
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_written(members: Any, classifier: Any) -> None:
    Path("file").touch()
    ensemble = EnsembleModule(members(5, 5), "multiclass", module_class=classifier)
    with pytest.raises(OSError, match=r"file/ensemble.ckpt was not written .*: name another folder"):
        save_ensemble(ensemble, "file/ensemble.ckpt")


def test_members_made_within_lightning_cli_keep_their_own_hyperparameters(members: Any, classifier: Any) -> None:
    from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context

    paths = members(5, 9)
    with _given_hyperparameters_context({"members": paths}, "lightning.pytorch.cli.instantiate_module"):
        ensemble = EnsembleModule(paths, "multiclass", module_class=classifier)
    assert [member.hparams["width"] for member in ensemble.members] == [5, 9]
    assert isinstance(ensemble, L.LightningModule)


def test_members_that_stay_on_the_host(members: Any, classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, x = members(5, 9), torch.randn(6, 4)
    expected = EnsembleModule(paths, "multiclass", module_class=classifier)(x)
    streamed = EnsembleModule(paths, "multiclass", module_class=classifier, stream=True).double()
    assert next(streamed.members.parameters()).dtype == torch.float32  # they were not moved
    assert streamed.weights.dtype == torch.float64
    torch.testing.assert_close(streamed(x).float(), expected)
    asked = []
    monkeypatch.setattr(
        "lightning_rules.combine.ensemble_module.fits", lambda size, device: asked.append(size) or False
    )
    too_large = EnsembleModule(paths, "multiclass", module_class=classifier).to("meta")
    assert next(too_large.members.parameters()).device.type == "cpu"
    assert asked == [sum(p.numel() for p in too_large.members.parameters()) * 4]


def test_members_on_several_devices(members: Any, classifier: Any) -> None:
    paths, x = members(5, 9), torch.randn(6, 4)
    spread = EnsembleModule(paths, "multiclass", module_class=classifier, devices=["cpu", "cpu"]).double()
    expected = EnsembleModule(paths, "multiclass", module_class=classifier)(x)
    torch.testing.assert_close(spread(x).float(), expected)
    assert spread.calls.placement == [torch.device("cpu")] * 2
    assert next(spread.members.parameters()).dtype == torch.float32  # each is where `devices` has put it


def test_copies_work_apart(members: Any, classifier: Any) -> None:
    ensemble, x = EnsembleModule(members(5, 5), "multiclass", module_class=classifier), torch.randn(6, 4)
    with torch.no_grad():
        before = ensemble(x)
        other = copy.deepcopy(ensemble)
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        torch.testing.assert_close(ensemble(x), before)
        assert other(x).exp().allclose(torch.full((6, 3), 1 / 3))

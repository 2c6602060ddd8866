"""normalise-inputs, same-distribution, scrambled-inputs, label-in-input: judgements, and statistics of known data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from torch import Tensor

from lightning_rules import Severity
from lightning_rules.data import distribution_shift, input_scale, input_structure, label_probe
from lightning_rules.data.distribution_shift import shift_between
from lightning_rules.data.input_scale import Scale, feature_scales
from lightning_rules.data.input_structure import structure
from lightning_rules.data.label_probe import probe
from lightning_rules.rule import NotApplicable


def scale(rms: float, **more: Any) -> Scale:
    known = {"rms_of_nonzero": rms, "mean": 0.0, "lowest": -rms, "highest": rms, "ratio": 2.0, "largest": rms}
    return Scale(rms, **{**known, "layer": "Linear net", "normalised": "", "examples": 512, **more})


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (scale(1.0), Severity.OK),
        (scale(7.8), Severity.INFO),  # raw pixels of 0 to 16
        (scale(0.0476), Severity.INFO),  # diabetes as scikit-learn gives it
        (scale(130.0), Severity.WARNING),
        (scale(130.0, normalised="before"), Severity.OK),
        (scale(0.002), Severity.WARNING),  # divided by 255 twice
        (scale(0.003, rms_of_nonzero=0.1), Severity.INFO),  # sparse rows
        (scale(20.0, ratio=5000.0), Severity.WARNING),
        (scale(1.0, ratio=5000.0), Severity.OK),
    ],
)
def test_judgement_of_scale(seen: Scale, severity: Severity) -> None:
    (finding,) = input_scale.judge([seen])
    assert finding.severity is severity, finding.message


def test_scales_of_features_leave_out_zeros_and_constants() -> None:
    rows = torch.tensor([[0.0, 3.0, 5.0], [2.0, -3.0, 5.0], [0.0, 3.0, 5.0]])
    assert feature_scales(rows).tolist() == pytest.approx([2.0, 3.0])


def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    inputs = torch.tensor(bunch.data, dtype=torch.float64)
    return (inputs - inputs.mean()) / inputs.std(), torch.tensor(bunch.target)


def scrambled(inputs: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([row[torch.randperm(len(row), generator=generator)] for row in inputs])


CHANGES = {
    "x255": lambda x: x * 255,
    "shifted a feature": lambda x: x + 0.7 * torch.randn(x.shape[1], generator=torch.Generator().manual_seed(1)),
    "not normalised": lambda x: 6 * x + 4.9,
    "of half the spread": lambda x: x / 2,
    "scrambled": scrambled,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("held", [60, 360])
def test_one_split_preprocessed_otherwise(change: str, held: int) -> None:
    inputs, _ = digits()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    other = CHANGES[change](inputs[order[:held]])
    (finding,) = distribution_shift.judge([shift_between(inputs[order[-512:]], other)])
    assert finding.severity is Severity.WARNING, finding.message
    assert finding.rule == "same-distribution"


@pytest.mark.parametrize("held", [16, 40, 360])
@pytest.mark.parametrize("load", [load_digits, load_diabetes, load_breast_cancer, load_wine])
def test_random_splits_are_alike(load: Any, held: int) -> None:
    inputs = torch.tensor(load().data, dtype=torch.float64)
    for seed in range(20):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        train, validation = inputs[order[held:]][:512], inputs[order[:held]]
        if len(train) < 16:
            continue
        (finding,) = distribution_shift.judge([shift_between(train, validation)])
        assert finding.severity is Severity.OK, finding.message


def test_noise_augmentation_and_one_drifting_feature_are_no_shift() -> None:
    inputs, _ = digits()
    drift = torch.zeros(64).double()
    drift[5] = 3.0
    noisy = inputs[:500] + 0.5 * torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    for train, validation in ((noisy, inputs[500:]), (inputs[order[:900]], inputs[order[900:]] + drift)):
        (finding,) = distribution_shift.judge([shift_between(train, validation)])
        assert finding.severity is Severity.OK, finding.message


def test_crops_of_pictures_are_no_shift_but_another_scale_is() -> None:
    inputs, _ = digits()
    pictures = inputs.reshape(-1, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pictures), generator=generator)
    moved = torch.stack(
        [p.roll(tuple(torch.randint(-3, 4, (2,), generator=generator).tolist()), (1, 2)) for p in pictures[order[:512]]]
    )
    held = pictures[order[-300:]]
    (finding,) = distribution_shift.judge([shift_between(moved, held, augmented=True)])
    assert finding.severity is Severity.OK, finding.message
    (finding,) = distribution_shift.judge([shift_between(moved, held)])
    assert finding.severity is Severity.WARNING  # the places alone would say otherwise
    for other in (held * 255, held / 4, held + 2):
        (finding,) = distribution_shift.judge([shift_between(moved, other, augmented=True)])
        assert finding.severity is Severity.WARNING, finding.message


def test_too_few_examples_or_no_variation_are_not_compared() -> None:
    with pytest.raises(NotApplicable, match="fewer than 16"):
        shift_between(torch.randn(100, 3), torch.randn(5, 3))
    with pytest.raises(NotApplicable, match="no feature varies"):
        shift_between(torch.ones(100, 3), torch.ones(50, 3))


def test_scrambled_pictures_are_told_from_pictures_and_from_noise() -> None:
    inputs, _ = digits()
    (finding,) = input_structure.judge([structure(scrambled(inputs[:512]))])
    assert finding.severity is Severity.WARNING
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(512, 64, generator=generator)
    bits = torch.randint(2, (512, 64), generator=generator).double()
    levels = torch.randint(256, (512, 64), generator=generator).double()
    one_order = inputs[:512][:, torch.randperm(64, generator=generator)]  # the same for all: learnable
    for healthy in (inputs[:512], noise, bits, levels, one_order):
        assert input_structure.judge([structure(healthy)]) == []


def test_label_in_one_input_value() -> None:
    inputs, labels = digits()
    leaking = inputs.clone()
    leaking[:, 0] = labels / 10
    (finding,) = label_probe.judge([probe(leaking.float(), labels, classes=True)])
    assert finding.severity is Severity.WARNING
    assert "input value 0" in finding.message
    (finding,) = label_probe.judge([probe(inputs.float(), labels, classes=True)])
    assert finding.severity is Severity.OK
    bright = (inputs.reshape(-1, 1, 8, 8) + 0 * 1.0).float()
    bright = bright - bright.mean((2, 3), keepdim=True) + labels[:, None, None, None]
    (finding,) = label_probe.judge([probe(bright, labels, classes=True)])
    assert finding.evidence["feature"] == 64  # the mean of the only channel


def test_target_in_one_column() -> None:
    bunch = load_diabetes()
    inputs, target = torch.tensor(bunch.data).float(), torch.tensor(bunch.target).float()
    leaking = torch.cat([inputs, target[:, None] / 100], 1)
    (finding,) = label_probe.judge([probe(leaking, target, classes=False)])
    assert finding.severity is Severity.WARNING
    (finding,) = label_probe.judge([probe(inputs, target, classes=False)])
    assert finding.severity is Severity.OK


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_a_strong_feature_is_no_leak(load: Any) -> None:
    bunch = load()
    found = probe(torch.tensor(bunch.data).float(), torch.tensor(bunch.target), classes=True)
    (finding,) = label_probe.judge([found])
    assert finding.severity is Severity.OK
    assert found.explained > 0.5


def test_easy_data_are_no_leak() -> None:
    labels = torch.arange(400) % 4
    easy = labels[:, None] * 10.0 + torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    found = probe(easy, labels, classes=True)
    assert found.accuracy > 0.99
    assert label_probe.judge([found])[0].severity is Severity.OK

"""Which number a run is judged by, how sure it is, and what a series keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.signal import savgol_filter
from scipy.stats import binom

from lightning_rules.report import cost
from lightning_rules.report.score import Score, best_of, differ, interval, main_metric, mode_of
from lightning_rules.report.series import POINTS, Series, smoothed


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val/accuracy", "max"),
        ("val_acc", "max"),
        ("val/loss", "min"),
        ("valid-mae", "min"),
        ("val/f1", "max"),
        ("val_map", "max"),
        ("val/gap", None),
        ("validation_top5", "max"),
        ("val/CrossEntropyLoss", "min"),
    ],
)
def test_the_mode_by_the_name(name: str, mode: str | None) -> None:
    assert mode_of(name) == mode


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["val/loss", "val/accuracy"], [], ("val/accuracy", "max")),
        (["val/loss", "val/accuracy"], [("val/loss", "min")], ("val/accuracy", "max")),
        (["val/loss", "val/f1", "val/accuracy"], [("val/f1", "max")], ("val/f1", "max")),
        (["val/loss"], [("val/loss", "min")], ("val/loss", "min")),
        (["val/gap"], [("val/gap", "min")], ("val/gap", "min")),
        (["val/gap"], [("val/other", "max")], None),
        (["val/loss"], [], ("val/loss", "min")),
        ([], [("val/loss", "min")], None),
    ],
)
def test_the_main_metric(names: list[str], wanted: list, found: tuple | None) -> None:
    assert main_metric(names, wanted) == found


@pytest.mark.parametrize(("share", "examples"), [(0.5, 100), (0.9, 397), (0.97, 179), (0.1, 200)])
def test_the_interval_covers(share: float, examples: int) -> None:
    counts = np.arange(examples + 1)
    covered = [low <= share <= high for low, high in (interval(count / examples, examples) for count in counts)]
    assert 0.93 <= binom.pmf(counts, examples, share)[covered].sum() <= 0.99


def score(value: float, examples: int | None, name: str = "val/accuracy") -> Score:
    return Score(name, "max", value, 10, examples)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (score(0.90, 100), score(0.92, 100), False),
        (score(0.90, 2000), score(0.95, 2000), True),
        (score(0.9, None), score(0.1, 100), None),
        (score(0.9, 100, "val/loss"), score(0.1, 100, "val/loss"), None),
    ],
)
def test_whether_two_runs_differ(one: Score, other: Score, expected: bool | None) -> None:
    assert differ(one, other) is expected


def test_the_best_is_the_first_of_equals() -> None:
    assert best_of([1, 2, 3, 4], [0.1, 0.3, float("nan"), 0.3], "max") == (2, 0.3)
    assert best_of([1, 2], [0.1, 0.3], "min") == (1, 0.1)
    assert best_of([1], [float("inf")], "min") is None


@pytest.mark.parametrize("count", [1, 5, POINTS, POINTS + 1, 1000, 5000])
def test_a_series_is_bounded_even_and_up_to_date(count: int) -> None:
    series = Series()
    for step in range(count):
        series.add(step, step / 2)
        assert (series.steps[0], series.steps[-1]) == (0, step), "the first and the latest are there"
        assert len(series.steps) <= POINTS
    gaps = {late - early for early, late in zip(series.steps[:-2], series.steps[1:-1], strict=True)}
    assert gaps <= {series.every}
    assert series.values == [step / 2 for step in series.steps]
    assert len(series.steps) == count or len(series.steps) >= POINTS // 2


def test_smoothing_does_not_lag_behind() -> None:
    assert smoothed([4.0], 10) == [4.0]
    assert smoothed([3.0] * 5, 4) == pytest.approx([3.0] * 5)
    assert smoothed([0.0, 1.0], 1) == [0.0, 1.0], "a width of one smooths nothing"
    late = smoothed([0.0] * 50 + [1.0] * 50, 10)
    assert late[40] == pytest.approx(0.0)
    assert late[49] + late[50] == pytest.approx(1.0), "the jump stays where it is"
    assert late[60] == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "width"), [(3, 4), (5, 4), (24, 7), (100, 9), (100, 100), (30, 2)])
def test_smoothing_is_that_of_scipy(count: int, width: int) -> None:
    values = np.random.default_rng(count).normal(size=count).tolist()
    odd = min(width, count) // 2 * 2 - 1
    assert smoothed(values, width) == pytest.approx(list(savgol_filter(values, odd, 1)) if odd >= 3 else values)


def test_energy_is_told_where_the_machine_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "energy_uj"
    monkeypatch.setattr(cost, "ENERGY", file)
    cpu = torch.device("cpu")
    assert "joules" not in cost.Meter(cpu).read(), "no such file"
    file.write_text("3000000\n")
    meter = cost.Meter(cpu)
    file.write_text("5500000\n")
    assert meter.read()["joules"] == pytest.approx(2.5)
    file.write_text("100\n")
    assert "joules" not in meter.read(), "the counter has begun anew"


def test_the_energy_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's library is stood in for: there is no card here."""
    asked = []
    driver = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: asked.append(name) or "handle",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 7250,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    assert cost.energy_of(torch.device("cuda:1")) == pytest.approx(7.25)
    assert asked == ["GPU-12-34"]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert cost.energy_of(torch.device("cuda:1")) is None

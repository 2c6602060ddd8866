"""What the report draws from metrics and series."""

import math

import pytest

from lightning_rules.exhibit import Curves, Listing, Panels, Section
from lightning_rules.report.course import exhibits_of, split_of
from lightning_rules.report.document import Document
from lightning_rules.report.score import Score
from lightning_rules.report.series import Series, smoothed


def series(values: list[float]) -> Series:
    return Series(list(range(10, 10 * len(values) + 10, 10)), values, 1, len(values))


@pytest.mark.parametrize(
    ("name", "metric", "role"),
    [("val/loss", "loss", "validation"), ("train_loss", "loss", "train"), ("valid-Acc", "Acc", "validation"),
     ("loss/train", "loss", "train"), ("test.f1", "f1", "test"), ("loss", "loss", "other"), ("value", "value", "other"),
     ("validation_loss_a", "loss_a", "validation")],
)  # fmt: skip
def test_a_metric_and_its_split(name: str, metric: str, role: str) -> None:
    assert split_of(name) == (metric, role)


def test_splits_of_a_metric_share_axes_and_the_judged_one_comes_first() -> None:
    doubles = {"train/loss_step": series([9.0]), "train/loss_epoch": series([2.0, 1.0]), "odd": series([math.nan])}
    wanted = {"train/loss": series([2.0, 1.0]), "val/loss": series([2.1, 1.2]), "val/acc": series([0.5, 0.7])}
    metrics = wanted | doubles
    document = Document(metrics=metrics, score=Score("val/acc", "max", 0.7, 20), progress={"epoch": 2})
    accuracy, loss = exhibits_of(document)
    assert (accuracy.title, loss.title) == ("acc", "loss")
    assert isinstance(loss.content, Curves)
    assert [(one.label, one.role) for one in loss.content.curves] == [("train", "train"), ("validation", "validation")]
    assert loss.content.marks == [(20, "best val/acc: epoch 2, step 20")]


def test_many_points_are_drawn_raw_and_smoothed() -> None:
    values = [2.0 - 0.01 * place + (0.1 if place % 2 else -0.1) for place in range(100)]
    (shown,) = exhibits_of(Document(metrics={"val/loss": series([*values, None])}))  # type: ignore[list-item]
    raw, smooth = shown.content.curves
    assert raw.faint
    assert list(raw.y) == values
    assert max(abs(value - (2.0 - 0.01 * place)) for place, value in enumerate(smooth.y)) < 0.06  # it does not lag
    assert smoothed([1.0, 2.0], 9) == [1.0, 2.0]


def test_layers_are_small_multiples_in_order_and_schedules_one_figure() -> None:
    layers = {f"gradient_norm/net.{place}": series([1.0, 10.0**-place]) for place in range(60)}
    rates = {"learning_rate/0.0": series([0.1, 0.01]), "learning_rate/0.1": series([1e-4, 1e-5])}
    schedule, norms = exhibits_of(Document(series={**layers, **rates, "gradient_norm/none": Series()}))
    assert (schedule.section, norms.section) == (Section.LEARNING_RATE, Section.LAYERS)
    assert isinstance(norms.content, Panels)
    assert isinstance(schedule.content, Curves)
    assert (norms.content.titles[0], norms.content.titles[-1], len(norms.content.titles)) == ("net.0", "net.59", 24)
    assert "24 of 60" in norms.caption
    assert norms.content.panels[0].log_y
    assert [one.label for one in schedule.content.curves] == ["group 0", "group 1"]
    assert schedule.content.log_y


def test_groups_with_the_same_rates_share_a_curve() -> None:
    same = {f"learning_rate/0.{group}": series([0.1, 0.2]) for group in range(3)}
    (alone,) = exhibits_of(Document(series=same))
    assert [one.label for one in alone.content.curves] == [""]
    (two,) = exhibits_of(Document(series={**same, "learning_rate/1.0": series([0.3, 0.3])}))
    assert [one.label for one in two.content.curves] == ["groups 0, 1, 2", "group 1.0 of another optimiser"]
    assert exhibits_of(Document()) == []


def test_of_very_many_metrics_some_are_drawn_and_all_are_told() -> None:
    metrics = {f"val/recall_{place}": series([0.5, 0.1 * place]) for place in range(40)}
    shown = exhibits_of(Document(metrics=metrics))
    assert len(shown) == 17
    assert isinstance(shown[-1].content, Listing)
    assert shown[-1].content.rows[-1] == ["val/recall_39", "3.9", "20"]
    assert len(shown[-1].content.rows) == 40 - 16

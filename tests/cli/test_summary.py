import math
from pathlib import Path

import pytest

from lightning_recipe.summary import Proportion, accuracy_line, count, duration, majority_line, shown_path


@pytest.mark.parametrize(("right", "total"), [(9, 11), (178, 180), (0, 10), (10, 10), (9_700, 10_000)])
def test_interval_is_wilsons(right: int, total: int) -> None:
    z, p = 1.959963984540054, right / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    assert Proportion(right, total).interval() == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize(
    ("right", "total", "printed"),
    [(9, 11, "82%"), (178, 180, "99%"), (999, 1000, "99.9%"), (9_712, 10_000, "97.12%"), (1, 3, "33%")],
)
def test_no_digit_is_finer_than_one_example(right: int, total: int, printed: str) -> None:
    assert Proportion(right, total).percent() == printed
    weight_of_one, last_digit = 100 / total, 10.0 ** -(len(printed.rstrip("%").partition(".")[2]))
    assert last_digit >= min(weight_of_one, 1) / 10 * (1 - 1e-9)


def test_share_is_taken_back_to_a_count_only_where_there_is_one() -> None:
    assert Proportion.from_share(0.8181818127632141, 11) == Proportion(9, 11)  # 9/11 in single precision
    assert Proportion.from_share(0.85, 11) is None  # a macro average
    assert Proportion.from_share(1.2, 10) is None
    assert Proportion.from_share(0.5, 0) is None


def test_accuracy_line_says_what_it_can() -> None:
    assert accuracy_line({"test/accuracy": 9 / 11}, 11) == (
        "82%, 95% interval 52% to 95% (Wilson): 9 of 11 examples right"
    )
    assert "no interval: this is not a share of the 11 examples" in accuracy_line({"test/accuracy": 0.85}, 11)
    assert "logs no 'test/accuracy'" in accuracy_line({"test_loss": 0.25}, 11)
    assert "test_loss 0.25" in accuracy_line({"test_loss": 0.25}, 11)


class _Data:
    class_names = ("cat", "dog")

    def labels(self, split: str) -> list[int]:
        return {"train": [0, 0, 1], "test": [1, 1, 1, 0]}[split]


class _Broken:
    def labels(self, split: str) -> list[int]:
        raise KeyError(split)


def test_majority_class_is_that_of_training_scored_on_the_test() -> None:
    line = majority_line(_Data())
    assert line.startswith("25%:")
    assert "'cat'" in line
    assert "(1 of 4)" in line


def test_majority_is_unknown_where_the_data_cannot_tell() -> None:
    assert majority_line(object()) == "unknown: object has no method labels(split)"
    assert "_Broken.labels(split) raised KeyError" in majority_line(_Broken())


def test_paths_are_relative_below_the_current_folder(tmp_path: Path) -> None:
    assert shown_path(tmp_path / "logs" / "a.ckpt") == "logs/a.ckpt"
    assert shown_path("logs/a.ckpt") == "logs/a.ckpt"
    assert shown_path(tmp_path.parent) == str(tmp_path.parent)


def test_durations_and_counts_read_well() -> None:
    assert [duration(s) for s in (0.25, 41.32, 59.99, 725, 12_000)] == [
        "0.2 s",
        "41.3 s",
        "60.0 s",
        "12 min 5 s",
        "3 h 20 min",
    ]
    assert [count(1, "epoch"), count(2, "process"), count(1200, "step")] == ["1 epoch", "2 processes", "1,200 steps"]

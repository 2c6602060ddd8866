import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_recipe.runs import progress
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.progress import Display, progress_line, seconds_left, share_done

RUNNING = {
    "status": "running",
    "epoch": 4,
    "epochs": 10,
    "best": {"name": "val/loss", "value": 0.25, "mode": "min"},
}


def test_how_far_a_fit_is() -> None:
    assert progress_line("fold_1", {"status": "waiting"}) == "fold_1 has begun"
    assert progress_line("fold_1", RUNNING) == "fold_1 in epoch 5 of 10, best val/loss 0.25"
    assert progress_line("fold_1", {**RUNNING, "epochs": -1, "best": None}) == "fold_1 in epoch 5"
    assert progress_line("fold_1", {**RUNNING, "status": "measuring"}) == "fold_1 is being measured, best val/loss 0.25"
    assert progress_line("fold_1", {**RUNNING, "epoch": 10, "best": None}) == "fold_1 in epoch 10 of 10"
    assert share_done(RUNNING) == 0.5
    assert share_done({**RUNNING, "epochs": -1}) is None
    assert share_done({"status": "running"}) is None


@pytest.mark.parametrize(
    ("durations", "running", "total", "jobs", "expected"),
    [
        ([], [], 4, 1, None),
        ([10.0], [], None, 1, None),
        ([10.0, 20.0], [], 4, 1, 30.0),
        ([10.0], [(5.0, 0.5)], 3, 1, 15.0),
        ([10.0], [(4.0, None)], 2, 1, 6.0),
        ([10.0], [(5.0, 0.5), (1.0, 0.1)], 3, 2, 9.0),  # no sooner than the one that has just begun
        ([], [(3.0, 0.25)], 2, 1, 21.0),
    ],
)
def test_the_time_that_is_left(
    durations: list[float], running: list[tuple[float, float | None]], total: int | None, jobs: int, expected: float
) -> None:
    assert seconds_left(durations, running, total, jobs) == (None if expected is None else pytest.approx(expected))


def fit_with(record: dict[str, Any], folder: Path, name: str) -> Fit:
    fit = Fit(folder, name, {})
    fit.entry.write(record)
    return fit


def test_bars_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    fits = [fit_with(RUNNING, tmp_path, "fold_1"), fit_with({"status": "running"}, tmp_path, "fold_2")]
    with Display(4, 2, console) as display:
        display.ended(20.0)
        display.show([(fits[0], 10.0), (fits[1], 1.0)])
        assert display._bars is not None
        display.show([(fits[1], 2.0)])
        assert len(display._bars.tasks) == 3, "records are not read at each turn"
        monkeypatch.setattr(progress, "LOOK", 0.0)
        display.show([(fits[1], 2.0)])
        assert [task.description for task in display._bars.tasks] == ["all", "fold_2"], "what has ended goes"
        display._bars.refresh()
    text = shown.getvalue()
    assert "1 of 4 fits, about " in text
    assert "fold_2" in text


def test_lines_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_with(RUNNING, tmp_path, "fold_1")
    with Display(2, 1) as display:
        display.show([(fit, 10.0)])
        assert capsys.readouterr().out == "", "not at once"
        monkeypatch.setattr(progress, "TELL", -1.0)
        display.show([(fit, 10.0)])
    assert capsys.readouterr().out == "  fold_1 in epoch 5 of 10, best val/loss 0.25; about 30.0 s left\n"

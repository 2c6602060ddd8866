"""The search for a learning rate as a file to read and a picture to look at."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from lightning_rules.exhibit import Curve, Curves, Exhibit, Section
from lightning_rules.optimise.rate_search import Candidate, Search

log = logging.getLogger(__name__)
FILE = "rules/lr-finder"


def save_curve(search: Search, before: float, folder: str | None) -> None:
    """Write ``rules/lr-finder.json`` and ``rules/lr-finder.png`` below a run's log folder.

    Each appears whole or not at all. A folder that is not local, or cannot be written, is a warning, not the end of
    the run. Without a folder (``fast_dev_run``) nothing is written.
    """
    if folder is None or "://" in folder:
        return
    try:
        target = Path(folder, FILE)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_dict(search, before), indent=1)
        _replace(target.with_suffix(".json"), lambda path: path.write_text(text, encoding="utf-8"))
        _replace(target.with_suffix(".png"), lambda path: draw(search, before).savefig(path, format="png", dpi=120))
    except Exception as error:
        log.warning(f"The curve of the learning rate could not be written to {folder} ({error}); the run goes on.")


def _replace(path: Path, write: Any) -> None:
    beside = path.with_name(f".{path.name}")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def to_dict(search: Search, before: float) -> dict[str, Any]:
    """Plain values that any JSON reader takes; the loss of a run that diverged is None, as are losses not finite."""
    return {
        "rate": search.rate,
        "rate_before": before,
        "best_after_short_runs": search.best,
        "steps": search.steps,
        "range_test": {
            "rates": search.range_test.rates.tolist(),
            "losses": search.range_test.losses.tolist(),
            "smoothed": search.range_test.smoothed.tolist(),
            "start": search.range_test.start,
            "steepest": search.range_test.steepest,
        },
        "candidates": [
            {"rate": c.rate, "loss": _finite(c.loss), "losses": [_finite(loss) for loss in c.losses.tolist()]}
            for c in search.candidates
        ],
    }


def exhibit(search: Search, before: float) -> Exhibit:
    """The range test, with the rates before and after."""
    test = search.range_test
    rates = test.rates.tolist()
    curves = [
        Curve("each batch", rates, test.losses.tolist(), "train", faint=True),
        Curve("smoothed", rates, test.smoothed.tolist(), "train"),
    ]
    marks = [(before, f"before: {before:.1e}"), (search.rate, f"suggested: {search.rate:.1e}")]
    content = Curves(curves, "learning rate", "loss", log_x=True, marks=marks)
    caption = "The loss while the rate grows from step to step; short runs at constant rates decided."
    return Exhibit("lr_finder", Section.LEARNING_RATE, "Search for a learning rate", caption, content, ["lr-finder"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def draw(search: Search, before: float) -> Any:
    """A figure: the range test on the left, the short runs on the right."""
    from matplotlib.figure import Figure  # slow to import, and needed once

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    test = search.range_test
    left.plot(test.rates, test.losses, color="0.7", linewidth=0.8, label="loss of each batch")
    left.plot(test.rates, test.smoothed, label="smoothed")
    if test.steepest is not None:
        left.axvline(test.steepest, color="C2", linestyle=":", label=f"falls fastest, {test.steepest:.1e}")
    left.set(xscale="log", xlabel="learning rate", ylabel="loss", title="Range test")
    top = test.start + 2 * (test.start - float(test.smoothed.min()))
    left.set_ylim(None, max(top, float(test.smoothed[:20].max())))
    ended = sorted((c for c in search.candidates if math.isfinite(c.loss)), key=lambda c: c.rate)
    right.errorbar([c.rate for c in ended], [c.loss for c in ended], [c.error for c in ended], fmt="o-", capsize=3)
    _mark_diverged(right, [c for c in search.candidates if not math.isfinite(c.loss)])
    right.axvline(before, color="0.6", linestyle="--", label=f"before, {before:.1e}")
    right.axvline(search.rate, color="C3", label=f"suggested, {search.rate:.1e}")
    steps = max(len(c.losses) for c in search.candidates)
    right.set(xscale="log", xlabel="learning rate", ylabel="loss", title=f"After {steps} steps at a constant rate")
    left.legend()
    right.legend()
    return figure


def _mark_diverged(axes: Any, candidates: list[Candidate]) -> None:
    for number, candidate in enumerate(candidates):
        axes.axvline(candidate.rate, color="C1", linestyle=":", label="diverged" if number == 0 else None)

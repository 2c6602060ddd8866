"""Checkpoints on two ranks: the files and decisions of one process, and failures on all ranks together."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow  # one start of three processes for all


@pytest.mark.parametrize("scenario", ["kept", "tagged", "resumed"])
def test_two_ranks_keep_what_one_process_keeps(results: Any, scenario: str) -> None:
    one, first, second = (run[scenario] for run in results)
    assert first == second
    for what in ("best", "score", "files", "state", "moments", "step"):
        assert first[what] == one[what], what
    assert first["weight"] == pytest.approx(one["weight"], abs=1e-5)


def test_the_worst_is_gone_and_rank_0_tags(results: Any) -> None:
    for run in results:
        assert run["kept"]["files"] == [
            "last.ckpt", "last.ckpt.json", "step=4.ckpt", "step=4.ckpt.json", "step=6.ckpt", "step=6.ckpt.json",
        ]  # fmt: skip
        assert run["tagged"]["tags"] == ["4-score=3"]
        assert run["tagged"]["said"][0].startswith("Checkpoints of this run are tied to commit ")


@pytest.mark.parametrize(
    ("scenario", "kind", "said"),
    [
        ("rank_0_loses_the_folder", "OSError", "kept is gone; was it moved, deleted or unmounted?"),
        ("the_last_rank_cannot_dump", "RuntimeError", "only here"),
        ("code_is_not_clean", "RuntimeError", "`require_clean` is set"),
    ],
)
def test_all_ranks_fail_together_with_one_sentence(results: Any, scenario: str, kind: str, said: str) -> None:
    one, first, second = (run[scenario] for run in results)
    assert first == second
    for error in (one, first):
        assert error[0] == kind
        assert said in error[1]


def test_all_ranks_forget_a_best_that_is_gone(results: Any) -> None:
    for run in results:
        assert run["resumed"]["same"]
        assert run["resumed"]["best"] == ["step=10.ckpt", "step=6.ckpt", "step=10.ckpt"]
        assert "1 of the best checkpoints that the resumed run knew are gone: step=4.ckpt." in run["resumed"]["said"]

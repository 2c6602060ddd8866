"""The optional enforcers do on two ranks what they do in one process at the same global batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def test_ranks_agree_to_the_bit(results: Any) -> None:
    _, first, second = results
    for scenario in first:
        assert first[scenario] == second[scenario], scenario


@pytest.mark.parametrize(
    "scenario", ["recurrent_init", "recurrent_init_sparse", "max_norm", "weight_decay_groups", "freeze_by_size"]
)
def test_as_in_one_process(results: Any, scenario: str) -> None:
    one, first, _ = (run[scenario] for run in results)
    for (message, evidence), (message_, evidence_) in zip(first["said"], one["said"], strict=True):
        assert message == message_
        assert evidence == pytest.approx(evidence_, rel=1e-4)
    for moment in ("start", "end"):
        for value, expected in zip(first[moment], one[moment], strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-5)


def test_recurrent_weights_were_set(results: Any) -> None:
    for run in results:
        weight = np.array(run["recurrent_init"]["start"][1]).reshape(4, 16, 16)
        np.testing.assert_allclose(weight @ weight.transpose(0, 2, 1), np.stack([np.eye(16)] * 4), atol=1e-5)


def test_units_are_limited(results: Any) -> None:
    for run in results:
        norms = np.linalg.norm(np.array(run["max_norm"]["end"][2]).reshape(4, 16), axis=1)
        assert norms.max() == pytest.approx(0.5, rel=1e-5)


def test_the_scale_is_that_of_both_batches(results: Any) -> None:
    one, first, _ = (run["activation_scale_init"] for run in results)
    for value, expected in zip(first["start"], one["start"], strict=True):
        np.testing.assert_allclose(value, expected, rtol=0.1)
    assert first["said"][0][1]["layers_set"] == 2


def test_frozen_layers_are_no_unused_parameters_to_ddp(results: Any) -> None:
    for run in results:
        start, end = (run["freeze_by_size"][moment] for moment in ("start", "end"))
        same = [first == last for first, last in zip(start, end, strict=True)]
        # linear (2), batch norm (2, and 3 statistics) | the last stage | the head
        assert same == [True] * 7 + [False] * 2 + [False] * 2


def test_ranks_share_one_bootstrap_sample(results: Any) -> None:
    one, first, _ = (run["bootstrap"] for run in results)
    assert one == first
    assert one[0] == one[1], "the same in each epoch"
    assert len(one[0]) == 128
    assert 60 < len(set(one[0])) < 100

"""One seed on two ranks: weights and order agree, augmentation differs, and a second run has the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # one start of two processes for all


@pytest.fixture(scope="module")
def results(ran: Path) -> list[dict[str, Any]]:
    """What each of two ranks saw."""
    return [json.loads((ran / f"two/2-{rank}.json").read_text()) for rank in range(2)]


APART = [
    "main_process",
    "workers",
    "persistent_workers",
    "own_worker_init_fn",
    "own_sampler",
    "own_sampler_with_workers",
    "stream",
    "fresh",
]


@pytest.mark.parametrize("scenario", APART)
def test_no_two_ranks_workers_or_epochs_draw_the_same(results: Any, scenario: str) -> None:
    noise = results[0][scenario]["noise"] + results[1][scenario]["noise"]
    assert len(noise) == 2 * 32 * 3
    assert len(set(noise)) == len(noise)


@pytest.mark.parametrize("scenario", ["plain_main_process", "plain_workers"])
def test_lightning_alone_draws_the_same_on_each_rank(results: Any, scenario: str) -> None:
    """What the rule is for; if this fails, Lightning has changed, and the rule's page is out of date."""
    assert results[0][scenario]["noise"] == results[1][scenario]["noise"]


@pytest.mark.parametrize("scenario", APART)
def test_ranks_share_the_data_between_them(results: Any, scenario: str) -> None:
    for epoch in range(2):
        halves = [run[scenario]["order"][epoch * 16 : epoch * 16 + 16] for run in results]
        assert sorted(halves[0] + halves[1]) == list(range(32))


@pytest.mark.parametrize("scenario", ["own_sampler", "own_sampler_with_workers", "main_process", "workers"])
def test_each_epoch_has_an_order_of_its_own(results: Any, scenario: str) -> None:
    order = results[0][scenario]["order"]
    assert order[:16] != order[16:]


@pytest.mark.parametrize("scenario", APART)
def test_weights_agree_though_the_module_draws_them_late(results: Any, scenario: str) -> None:
    assert results[0][scenario]["weights"] == results[1][scenario]["weights"]
    assert all(severity != "error" for severity, _ in results[0][scenario]["said"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("main_process", "main_process_again"), ("workers", "workers_again"), ("fresh", "fresh_repeated")],
)
def test_one_seed_gives_the_same_bits(results: Any, first: str, second: str) -> None:
    for run in results:
        for what in ("seed", "noise", "order", "weights"):
            assert run[first][what] == run[second][what]


def test_all_ranks_hold_rank_0s_fresh_seed(results: Any) -> None:
    assert results[0]["fresh"]["seed"] == results[1]["fresh"]["seed"]
    assert results[0]["fresh"]["said"] == results[1]["fresh"]["said"]


def test_a_resumed_run_keeps_ranks_apart_and_replays_nothing(results: Any) -> None:
    runs = [run["resumed_within_an_epoch"] for run in results]
    noise = runs[0]["noise"] + runs[1]["noise"] + runs[0]["before"] + runs[1]["before"]
    assert len(noise) == 2 * 10 * 4 * 3
    assert len(set(noise)) == len(noise)


def test_weights_that_differ_are_an_error_on_all_ranks(results: Any) -> None:
    for run in results:
        assert run["weights_that_differ"]["said"][-1] == [
            "error",
            "The 2 ranks start training with different weights, and DDP keeps them different.",
        ]


def test_what_the_user_seeds_alone_is_kept_and_told(results: Any) -> None:
    """PyTorch's recipe of generator and worker_init_fn knows nothing of ranks."""
    runs = [run["own_generator_and_worker_init_fn"] for run in results]
    assert runs[0]["noise"] == runs[1]["noise"]
    assert "have a generator and a worker_init_fn of their own" in runs[0]["said"][-1][1]


def test_the_default_keeps_workers_apart_and_changes_nothing_else(results: Any) -> None:
    noise = [run["default_with_workers"]["noise"] for run in results]
    assert not set(noise[0]) & set(noise[1])
    assert results[0]["default_with_workers"]["order"] == results[0]["plain_workers"]["order"]
    assert results[0]["default_with_workers"]["said"] == [
        ["info", "Seeded the workers of 2 ranks apart; nothing else was changed."]
    ]
    alone = results[0]["default_in_the_main_process"]
    assert alone["weights"] == results[0]["plain_main_process"]["weights"]
    assert alone["said"][0] == [
        "ok",
        "No training loader has worker processes, whose random numbers would be kept apart.",
    ]
    assert alone["said"][-1][1].startswith("All 2 ranks draw the same random numbers in the main process")

"""When monitors sample and look: dense at first, then as seldom as their cost asks for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lightning_rules.cadence import DENSE, DENSELY, FREE_LOOKS, FREE_SAMPLES, LONGEST, LOOK, SELDOM, Cadence


def drive(
    cadence: Cadence, batches: int, batch: float = 1e-3, sample: float = 0.0, look: float = 0.0, inside: float = 0.0
) -> tuple[list[int], list[int], float]:
    """Which batches were sampled, after which it looked, and what both took, in seconds."""
    sampled, looked, spent = [], [], 0.0
    for _ in range(batches):
        due, timed = cadence.sample_is_due, cadence.timing_is_due
        if due:
            sampled.append(cadence.batches)
        cadence.batches += 1
        if due:
            cadence.sampled(sample, batch + sample + inside)
            spent += sample + inside
        elif timed:
            cadence.timed(batch)
        assert cadence.batches >= cadence.idle_until or not (cadence.look_is_due or cadence.sample_is_due)
        if cadence.look_is_due:
            looked.append(cadence.batches)
            cadence.agree([cadence.proposal()])
            cadence.looked(look)
            spent += look
    return sampled, looked, spent


def test_it_samples_densely_at_first() -> None:
    sampled, looked, _ = drive(Cadence(), 400)
    assert sampled[:DENSE] == list(range(0, DENSE * DENSELY, DENSELY))
    assert {later - earlier for earlier, later in pairwise(sampled[DENSE:])} == {SELDOM}
    assert looked[:4] == [LOOK, 2 * LOOK, 4 * LOOK, 8 * LOOK]


@pytest.mark.parametrize(
    ("batch", "sample", "look", "inside"),
    [(1e-3, 1e-3, 1e-3, 0.0), (1e-3, 4e-3, 0.0, 0.0), (2.0, 0.1, 0.01, 0.0), (1e-3, 1e-4, 0.0, 4e-3)],
)
def test_it_stays_within_its_share(batch: float, sample: float, look: float, inside: float) -> None:
    cadence = Cadence(overhead=0.03)
    _, _, begun = drive(cadence, 1000, batch, sample, look, inside)
    _, _, spent = drive(cadence, 50_000, batch, sample, look, inside)
    assert 0 < spent <= 0.0301 * 50_000 * batch
    assert begun <= FREE_SAMPLES * (sample + inside) + FREE_LOOKS * look + 0.031 * 1000 * batch


def test_short_runs_are_seen_whatever_it_costs() -> None:
    sampled, looked, _ = drive(Cadence(), 300, batch=1e-4, sample=1e-2, look=1e-2)
    assert len(sampled) == DENSE + (299 - (DENSE - 1) * DENSELY) // SELDOM
    assert looked == [16, 32, 64, 128, 192, 256]


def test_what_costs_more_than_its_share_is_still_looked_at() -> None:
    sampled, _, _ = drive(Cadence(), 5000, batch=1e-6, sample=1.0)
    assert sampled[-1] - sampled[-2] == LONGEST


def test_ranks_take_the_longest_interval() -> None:
    cadence = Cadence()
    cadence.agree([(20, 64), (300, 16)])
    assert (cadence.sample_every, cadence.look_every) == (300, 64)


def test_it_goes_on_where_it_stood() -> None:
    cadence, again = Cadence(), Cadence()
    drive(cadence, 137, sample=1e-3, look=1e-3)
    for name, value in cadence.state().items():
        setattr(again, name, value)
    assert again.state() == cadence.state()
    assert (again.next_sample, again.samples) == (cadence.next_sample, cadence.samples)

"""What loaders do to a run: the judgements alone, on numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Sampler, TensorDataset

from lightning_rules import Severity
from lightning_rules.data import distributed_sampling, repeated_batches, same_draws, shuffle, validation_passes
from lightning_rules.data.distributed_sampling import Share
from lightning_rules.data.loader_order import digest, index_batches
from lightning_rules.data.repeated_batches import Repeats
from lightning_rules.data.same_draws import Draws
from lightning_rules.data.shuffle import Order
from lightning_rules.data.validation_passes import Passes

RANDOM = np.random.default_rng(0)
GROUPED = np.repeat(np.arange(40), 32).reshape(40, 32) * 7 % 10
IN_ORDER = np.sort(RANDOM.integers(0, 10, 1280)).reshape(40, 32)
MIXED = RANDOM.integers(0, 10, (40, 32))


@pytest.mark.parametrize(
    ("order", "severity", "words"),
    [
        (Order("in order", True, IN_ORDER), Severity.WARNING, "32 examples of a step hold 1.2 classes"),
        (Order("stream", False, IN_ORDER), Severity.WARNING, "sorted by label"),
        (Order("sampler", False, IN_ORDER), Severity.WARNING, "sorted by label"),
        (Order("sampler", False, GROUPED), Severity.INFO, "in groups"),  # one class a batch, in random order
        (Order("in order", True, MIXED), Severity.INFO, "the same order at each pass; in it labels lie mixed"),
        (Order("sampler", False, MIXED), Severity.OK, "well mixed"),
        (Order("stream", False, np.zeros((16, 32)), elsewhere=MIXED.ravel()), Severity.WARNING, "1.0 of 10 classes"),
        (Order("stream", False, np.zeros((16, 32))), Severity.OK, "all labels are the same"),
        (Order("in order", True, None), Severity.INFO, "the labels are not known"),
        (Order("in order", True, IN_ORDER[:2]), Severity.INFO, "too few steps"),
        (Order("in order", True, np.sort(RANDOM.normal(size=640)).reshape(20, 32), False), Severity.WARNING, "by 1.00"),
        (Order("in order", True, RANDOM.normal(size=(20, 32)), False), Severity.INFO, "lie mixed"),
        (Order("in order", True, np.sort(RANDOM.integers(0, 900, 9000)).reshape(90, 100)), Severity.WARNING, "sorted"),
    ],
)
def test_order_of_labels(order: Order, severity: Severity, words: str) -> None:
    (finding,) = shuffle.judge([order])
    assert finding.severity is severity, finding.message
    assert words in finding.message


def test_ranks_are_one_step() -> None:
    """Each rank has one class in a step, the step has ten."""
    ranks = [Order("in order", True, np.full((40, 32), label)) for label in range(10)]
    assert next(shuffle.judge(ranks)).severity is Severity.INFO
    assert next(shuffle.judge([Order("in order", True, IN_ORDER)] * 2)).severity is Severity.WARNING


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (Repeats(1000, 1000, 1000, 32, 32, False, False, 32), Severity.OK, "draws 1,000 of 1,000"),
        (Repeats(1000, 1000, 640, 32, 32, False, False, 32), Severity.OK, "draws 640 of 1,000"),  # with replacement
        (Repeats(1000, 64, 64, 2, 32, False, False, 32), Severity.OK, "draws 64 of 1,000"),  # a subset
        (Repeats(1000, 1000, 32, 32, 32, False, False, 32), Severity.WARNING, "The same batch at every step"),
        (Repeats(1000, 1000, 40, 32, 32, False, False, 32), Severity.WARNING, "The sampler draws only 40 of 1,000"),
        (Repeats(200, 4000, 200, 125, 32, False, False, 32), Severity.OK, "draws 200 of 200"),
        (Repeats(8, 8, 8, 1, 8, False, False, 8), Severity.INFO, "one batch holds them all"),
        (Repeats(1000, 1000, 1000, 32, 32, False, True, 32), Severity.WARNING, "Every example is the same"),
        (Repeats(None, 0, 0, None, 0, True, False, 4), Severity.WARNING, "the first 4 batches hold the same"),
        (Repeats(None, 0, 0, 1, 0, False, False, 1), Severity.OK, "differ"),
        (Repeats(1000, 1000, 1000, 32, 32, False, False, 32, True), Severity.WARNING, "training_step computes"),
    ],
)
def test_repeats(seen: Repeats, severity: Severity, words: str) -> None:
    (finding,) = repeated_batches.judge([seen])
    assert finding.severity is severity, finding.message
    assert words in finding.message


@pytest.mark.parametrize(
    ("seen", "severities"),
    [
        (Passes(False, 12, 0, 0.0, False), [Severity.OK]),
        (Passes(True, 12, 0, 0.0, False), [Severity.INFO, Severity.OK]),
        (Passes(False, 12, 12, 0.3, False), [Severity.WARNING]),
        (Passes(False, 12, 12, 0.3, False, "step"), [Severity.WARNING]),
        (Passes(False, 12, 12, 0.3, True), [Severity.INFO]),  # denoising
        (Passes(False, 12, 12, 1.0, False), [Severity.INFO]),  # drawn anew
    ],
)
def test_two_passes(seen: Passes, severities: list[Severity]) -> None:
    assert [finding.severity for finding in validation_passes.judge([seen])] == severities


@pytest.mark.parametrize(
    ("ranks", "severities"),
    [
        ([Draws("apart")], []),
        ([Draws("workers", True, False)], [Severity.OK]),
        ([Draws("workers", True, True)], [Severity.WARNING]),
        ([Draws("workers", False, True)], [Severity.OK]),  # nothing is random
        ([Draws("alone", True, mine="a"), Draws("alone", True, mine="a")], [Severity.INFO]),
        ([Draws("alone", True, mine="a"), Draws("alone", True, mine="b")], []),
        ([Draws("apart", True, unasked="Because.")], [Severity.INFO]),
    ],
)
def test_draws(ranks: list[Draws], severities: list[Severity]) -> None:
    assert [finding.severity for finding in same_draws.judge(ranks)] == severities


def shares(*indices: Any, size: int | None = 100, **more: Any) -> list[Share]:
    return [Share(size, len(drawn), np.asarray(drawn), **more) for drawn in indices]


HALVES = (range(0, 100, 2), range(1, 100, 2))
STREAMS = (["a", "b", "c"], ["d", "e", "f"])


@pytest.mark.parametrize(
    ("ranks", "severity", "words"),
    [
        (shares(*HALVES), Severity.OK, "draw examples of their own"),
        (shares(RANDOM.permutation(100), RANDOM.permutation(100)), Severity.WARNING, "draws the whole training set"),
        (shares(range(100), range(100)), Severity.ERROR, "the same examples in the same order"),
        (shares(range(60), range(40, 100)), Severity.WARNING, "20 of 60 are drawn by another rank"),
        (shares([*range(0, 100, 2), 1], range(1, 100, 2)), Severity.OK, "of their own"),  # padded
        (shares([1, 1, 2], [2, 2, 3], again=True), Severity.OK, "of their own"),  # with replacement
        (shares(*HALVES, hidden=True), Severity.WARNING, "set_epoch"),
        (shares(*STREAMS, size=None), Severity.OK, "of their own"),
        (shares(STREAMS[0], STREAMS[0], size=None), Severity.WARNING, "read the same stream"),
        (shares(["a", "a"], ["a", "a"], size=None), Severity.OK, "of their own"),  # all examples are alike
    ],
)
def test_shares_of_ranks(ranks: list[Share], severity: Severity, words: str) -> None:
    finding, *_ = distributed_sampling.judge(ranks)
    assert finding.severity is severity, finding.message
    assert words in finding.message


def test_padded_validation_is_counted() -> None:
    ranks = [
        Share(100, 50, np.asarray(HALVES[rank]), validation=np.asarray(own), validation_size=5)
        for rank, own in enumerate(([0, 2, 4], [1, 3, 0]))
    ]
    _, finding = distributed_sampling.judge(ranks)
    assert finding.severity is Severity.INFO
    assert "Validation counts 1 of 5 examples twice" in finding.message


class Hides(Sampler[Any]):
    """Hands indices on, and the epoch not."""

    def __init__(self, sampler: Any) -> None:
        self.hidden = sampler

    def __iter__(self) -> Any:
        return iter(self.hidden)

    def __len__(self) -> int:
        return len(self.hidden)


def test_epochs_are_told_where_lightning_tells_them() -> None:
    data = TensorDataset(torch.arange(40))
    open_, hidden = (
        DataLoader(data, batch_sampler=BatchSampler(sampler, 4, False))
        for sampler in (DistributedSampler(data, 2, 0), Hides(DistributedSampler(data, 2, 0)))
    )
    assert index_batches(open_, epoch=0) != index_batches(open_, epoch=1)
    assert index_batches(hidden, epoch=0) == index_batches(hidden, epoch=1)
    assert distributed_sampling._hides_a_sampler(hidden)
    assert open_.batch_sampler.sampler.epoch == 0  # type: ignore[union-attr]


def test_indices_are_drawn_beside_the_run() -> None:
    data = TensorDataset(torch.arange(40))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(data, 4, sampler=RandomSampler(data, generator=generator))
    before = generator.get_state(), torch.get_rng_state()
    drawn = [index for batch in index_batches(loader, epoch=0) for index in batch]
    assert sorted(drawn) == list(range(40))
    assert torch.equal(before[0], generator.get_state())
    assert torch.equal(before[1], torch.get_rng_state())
    assert len(index_batches(loader, most=8)) == 2


def test_digests_tell_contents_apart() -> None:
    one = {"x": torch.ones(2), "y": [1, "a", None]}
    assert digest(one) == digest({"x": torch.ones(2), "y": [1, "a", None]})
    assert digest(one) != digest({"x": torch.ones(2), "y": [1, "b", None]})
    assert digest(one) != digest({"x": torch.tensor([1.0, 2.0]), "y": [1, "a", None]})
    assert digest(torch.ones(2, dtype=torch.bfloat16)) == digest(np.ones(2, np.float32))

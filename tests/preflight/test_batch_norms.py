"""Batch norms: the judgement on numbers, and the size of the last batch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Severity
from lightning_rules.preflight.batch_norms import NormsSeen, judge, last_batch


@pytest.mark.parametrize(
    ("seen", "aspect", "severity", "words"),
    [
        (
            NormsSeen(smallest=("bn", 2)),
            "tiny-batch-norm",
            Severity.WARNING,
            "`bn` normalises over 2 examples a device",
        ),
        (NormsSeen(refused=True), "tiny-batch-norm", Severity.ERROR, "which torch refuses"),
        (
            NormsSeen(smallest=("bn", 32), last_batch=1, flat="bn"),
            *("tiny-batch-norm", Severity.ERROR, "The last batch of an epoch has 1 example"),
        ),
        (
            NormsSeen((("a", 8), ("b", 16))),
            "no-bias-before-norm",
            Severity.INFO,
            "(a, b), 24 parameters without effect",
        ),
        (NormsSeen(still=("bn",)), "still-batch-norm", Severity.WARNING, "(bn, ...) have momentum 0"),
        (NormsSeen(recurrent=(("bn", 8),)), "layer-norm-rnn", Severity.INFO, "`bn` runs 8 times in one step"),
    ],
)
def test_judgement(seen: NormsSeen, aspect: str, severity: Severity, words: str) -> None:
    (finding,) = judge([seen, seen])
    assert (finding.rule, finding.severity) == (aspect, severity)
    assert words in finding.message


@pytest.mark.parametrize(
    "seen",
    [
        NormsSeen(),
        NormsSeen(smallest=("bn", 4)),
        NormsSeen(smallest=("bn", 32), last_batch=1),  # of images: many values a channel
        NormsSeen(smallest=("bn", 32), last_batch=32, flat="bn"),
    ],
)
def test_healthy(seen: NormsSeen) -> None:
    assert judge([seen]) == []


@pytest.mark.parametrize(
    ("examples", "drop_last", "batches", "last"),
    [(97, False, 4, 1), (97, True, 3, 32), (96, False, 3, 32), (97, False, 2, 32), (100, False, float("inf"), 4)],
)
def test_last_batch(examples: int, drop_last: bool, batches: float, last: int) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(examples)), 32, drop_last=drop_last)
    assert last_batch(loader, batches) == last
    assert last_batch([torch.zeros(3)], 1) is None

"""batch-independence: the judgement on numbers, then planted bugs and their healthy twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_rules import BatchIndependence, Severity
from lightning_rules.preflight.batch_independence import judge_rows, judge_times
from lightning_rules.preflight.row_mixing import Mixing, example_dimensions
from lightning_rules.rule import NotApplicable

APART = Mixing(0.0, 1.0, 1e-3, 13, "cross_entropy", "", outside=False)
MIXED = replace(APART, untouched=0.4, where="in net.1 (Softmax)")


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        ([APART], Severity.OK, "stay as they are"),
        ([replace(APART, untouched=1e-5)], Severity.OK, "stay as they are"),
        ([replace(APART, untouched=0.01, tolerance=0.05)], Severity.OK, "stay as they are"),
        ([replace(APART, touched=0.0)], Severity.INFO, "do not change with any input"),
        ([APART, MIXED], Severity.WARNING, "rows mix first in net.1 (Softmax)"),
        ([replace(MIXED, outside=True)], Severity.INFO, "as in mixup"),
    ],
)
def test_judgement(seen: list[Mixing], severity: Severity, words: str) -> None:
    finding = judge_rows(seen)
    assert finding.severity is severity
    assert words in finding.message


def test_judgement_of_times() -> None:
    assert judge_times([APART]).severity is Severity.OK
    assert judge_times([APART, MIXED]).severity is Severity.WARNING


def test_dimensions_that_may_count_examples() -> None:
    assert example_dimensions([torch.zeros(32, 8)], [torch.zeros(32)]) == [0]
    assert example_dimensions([torch.zeros(9, 32, 8)], [torch.zeros(32)]) == [1]
    assert example_dimensions([torch.zeros(32, 20)], [torch.zeros(32, 20)]) == [0, 1]
    with pytest.raises(NotApplicable):  # nodes, edges and graphs of a batch of graphs
        example_dimensions([torch.zeros(70, 8), torch.zeros(2, 300)], [torch.zeros(4)])


class Net(nn.Module):
    """A network around a function."""

    def __init__(self, function: Any, inputs: int = 64, outputs: int = 10) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.function = nn.Linear(inputs, 60), nn.Linear(60, outputs), function

    def forward(self, x: Tensor) -> Any:
        return self.head(self.function(self.body(x)))


class Reader(nn.Module):
    """Digits read row by row."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=batch_first), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x.view(-1, 8, 8))[0][:, -1])


class TimeMajor(Reader):
    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x.view(-1, 8, 8).transpose(0, 1))[0][-1])


def mixing_reshape(x: Tensor) -> Tensor:
    return x.view(-1, 6, 10).permute(1, 0, 2).reshape(len(x), -1)


def by_hand(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


BUGS: dict[str, Any] = {
    "reshape": (lambda: Net(mixing_reshape), None, "before net.head (Linear)"),
    "softmax": (lambda: nn.Sequential(Net(F.relu), nn.Softmax(0)), None, "in net.1 (Softmax)"),
    "softmax-in-the-loss": (lambda: Net(F.relu), lambda o, t: F.nll_loss(o.log_softmax(0), t), "and its loss"),
    "batch-first": (lambda: Reader(False), None, "in net.rnn (LSTM)"),
    "statistics-by-hand": (lambda: Net(by_hand), None, "before net.head (Linear)"),
    "before-the-first-layer": (lambda: nn.Sequential(Before(), nn.Linear(64, 10)), None, "in net.0 (Before)"),
}


class Before(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.view(-1, 8, 8).permute(1, 0, 2).reshape(len(x), -1)


TWINS: dict[str, Any] = {
    "mlp": (lambda: Net(F.relu), None),
    "batch-norm": (lambda: nn.Sequential(nn.Linear(64, 13), nn.BatchNorm1d(13), nn.Dropout(), nn.Linear(13, 10)), None),
    "batch-first": (lambda: Reader(True), None),
    "time-major": (lambda: TimeMajor(False), None),
    "by-hand": (lambda: Net(F.relu), lambda o, t: -o.log_softmax(1).gather(1, t[:, None]).mean()),
    "contrastive": (lambda: Net(F.relu), lambda o, t: F.cross_entropy(o @ o.T, torch.arange(len(o)))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bug", BUGS)
def test_fires_on_a_planted_bug(bug: str, found: Any, plain: Any, digits: Any) -> None:
    net, loss, where = BUGS[bug]
    (finding,) = found(BatchIndependence(), plain(net(), loss or F.cross_entropy), digits)
    assert finding.severity is Severity.WARNING, finding.message
    assert where in finding.message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("batch", [13, 64])
def test_silent_on_healthy_twins(twin: str, batch: int, found: Any, plain: Any, digits: Any) -> None:
    net, loss = TWINS[twin]
    (finding,) = found(BatchIndependence(), plain(net(), loss or F.cross_entropy), digits, batch=batch)
    assert finding.severity is Severity.OK, finding.message


def mixed_up(self: Any, batch: Any) -> Tensor:
    inputs, labels = batch
    return F.cross_entropy(self.net(0.6 * inputs + 0.4 * inputs.flip(0)), labels)


@pytest.mark.filterwarnings("ignore")
def test_mixup_is_no_alarm(found: Any, plain: Any, digits: Any) -> None:
    (finding,) = found(BatchIndependence(), plain(Net(F.relu), step=mixed_up), digits)
    assert finding.severity is Severity.INFO
    assert "as in mixup" in finding.message


class Tokens(nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rnn = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.head = nn.Linear(32 if both else 16, 30)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.rnn(self.embedding(tokens))[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["flat", "classes-second"])
@pytest.mark.parametrize("both", [False, True])
def test_times(both: bool, layout: str, found: Any, plain: Any) -> None:
    """Rows of a language model are apart; only one that reads in both directions sees later times."""
    tokens = torch.randint(30, (64, 21), generator=torch.Generator().manual_seed(0))

    def step(self: Any, batch: Any) -> Tensor:
        output = self.net(batch[0])
        if layout == "flat":
            return F.cross_entropy(output.flatten(0, 1), batch[1].flatten())
        return F.cross_entropy(output.transpose(1, 2), batch[1])

    data = tokens[:, :-1], tokens[:, 1:]
    rows, times = found(BatchIndependence(time_steps=True), plain(Tokens(both), step=step), data)
    assert rows.severity is Severity.OK, rows.message
    assert times.severity is (Severity.WARNING if both else Severity.OK), times.message

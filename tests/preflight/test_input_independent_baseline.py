"""input-independent-baseline: the judgement on numbers, then planted bugs and their healthy twins."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_rules import InputIndependentBaseline, Severity
from lightning_rules.preflight.input_independent_baseline import joined, judge_pair
from lightning_rules.preflight.paired_training import Pair, gains, pieces
from lightning_rules.rule import NotApplicable

BLIND = [2.30, 2.32, 2.28, 2.31]
SEEING = Pair(
    real=[2.3, 2.0, 1.6, 1.2],
    blind=[2.3, 2.3, 2.3, 2.29],
    held_real=[BLIND, [1.5, 1.6, 1.4, 1.5]],
    held_blind=[BLIND],
    held_shuffled=[3.0, 3.1, 2.9, 3.0],
    supervised=True,
    how="zeroed",
    examples=240,
    finished=True,
)
UNDECIDED = replace(SEEING, held_real=[BLIND, [1.2, 3.4, 1.1, 3.3]])
BY_HEART = replace(SEEING, real=[2.3, 0.1, 0.1, 0.1, 0.1, 0.1], held_real=[BLIND, [loss + 0.5 for loss in BLIND]])
UNSEEN = replace(SEEING, real=[2.3, 2.2, 2.1], blind=[2.3, 2.2, 2.1], held_real=[BLIND, BLIND])
STILL = replace(UNSEEN, real=[1.0] * 3, blind=[1.0] * 3, held_real=[[1.0] * 4] * 2, held_blind=[[1.0] * 4])


@pytest.mark.parametrize(
    ("pair", "severity", "words"),
    [
        (SEEING, Severity.OK, "1.5 with real inputs, 2.3 with zeroed ones"),
        (UNDECIDED, Severity.INFO, "undecided"),
        (UNSEEN, Severity.ERROR, "does not see its inputs"),
        (
            replace(UNSEEN, real=[1.0] * 3, blind=[1.0] * 3, held_real=[[1.0] * 4] * 2, held_blind=[[1.0] * 4]),
            Severity.INFO,
            "undecided",
        ),
        (replace(UNSEEN, real=[2.3, 2.2, 2.101]), Severity.INFO, "undecided"),
        (BY_HEART, Severity.WARNING, "learned by heart"),
        (replace(BY_HEART, supervised=False), Severity.INFO, "undecided"),
        (replace(BY_HEART, finished=False), Severity.INFO, "undecided"),
        (replace(BY_HEART, how="shuffled"), Severity.INFO, "undecided"),
        (replace(BY_HEART, examples=100), Severity.INFO, "undecided"),
        (replace(BY_HEART, real=[2.3] * 6), Severity.INFO, "undecided"),
        (replace(BY_HEART, held_real=[BLIND, [2.0, 2.7, 1.9, 2.8]]), Severity.INFO, "undecided"),
        (replace(SEEING, held_real=[BLIND, [math.nan] * 4]), Severity.INFO, "not to be compared"),
    ],
)
def test_judgement(pair: Pair, severity: Severity, words: str) -> None:
    finding = judge_pair(pair)
    assert finding.severity is severity, finding.message
    assert words in finding.message
    assert bool(finding.advice) == (severity >= Severity.WARNING)


def test_gain_is_paired() -> None:
    gain, error = gains([1.0, 11.0, 21.0], [2.0, 12.0, 22.0])
    assert gain == pytest.approx(1.0)
    assert error == pytest.approx(0.0)


def test_ranks_are_judged_together() -> None:
    both = joined([SEEING, replace(SEEING, held_real=[BLIND, BLIND, BLIND])])
    assert both.examples == 480
    assert [len(losses) for losses in both.held_real] == [8, 8]
    assert len(both.held_blind[0]) == 8


def test_batches_are_divided_into_examples_to_train_on_and_others() -> None:
    batch = torch.arange(256.0).reshape(256, 1), torch.arange(256)
    found = pieces([batch])
    assert len(found) == 8
    seen = [index for known, _ in found for index in known[1].tolist()]
    held = [index for _, held in found for index in held[1].tolist()]
    assert len(seen) == 192
    assert not set(seen) & set(held)
    assert all(torch.equal(known[0][:, 0].long(), known[1]) for known, _ in found)
    with pytest.raises(NotApplicable, match="too few"):
        pieces([(torch.zeros(4, 1), torch.zeros(4))] * 3)


def column(o: Any) -> Any:
    return o[:, 0]


BUGS: dict[str, Any] = {
    "zeroed-by-the-loader": lambda net, inputs, labels: (net, F.cross_entropy, 0 * inputs, labels),
    "zeroed-in-the-loss": lambda net, inputs, labels: (nn.Sequential(Zeroed(), net), F.cross_entropy, inputs, labels),
    "zeros": lambda net, inputs, labels: (filled(net), F.cross_entropy, inputs, labels),
    "dead": lambda net, inputs, labels: (dead(net), F.cross_entropy, inputs, labels),
}


class Zeroed(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.zeros_like(x)


def filled(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def dead(net: Any) -> nn.Module:
    nn.init.constant_(net[2].bias, -10.0)
    return net  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bug", BUGS)
def test_fires_where_inputs_are_not_seen(bug: str, found: Any, plain: Any, mlp: Any, digits: Any) -> None:
    net, loss, *data = BUGS[bug](mlp(), *digits)
    (finding,) = found(InputIndependentBaseline(), plain(net, loss), data)
    assert finding.severity is Severity.ERROR, finding.message
    assert "does not see its inputs" in finding.message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
def test_silent_on_healthy_twins(seed: int, found: Any, plain: Any, mlp: Any, digits: Any, diabetes: Any) -> None:
    (finding,) = found(InputIndependentBaseline(), plain(mlp()), digits, seed=seed)
    assert finding.severity is Severity.OK, finding.message
    (finding,) = found(InputIndependentBaseline(), plain(mlp()), digits, batch=256, seed=seed)
    assert finding.severity is Severity.OK, finding.message
    regression = plain(mlp(10, 1), lambda o, t: F.mse_loss(column(o), t))
    (finding,) = found(InputIndependentBaseline(), regression, diabetes, seed=seed)
    assert finding.severity is Severity.OK, finding.message


@pytest.mark.filterwarnings("ignore")
def test_labels_without_signal_never_pass(found: Any, plain: Any, mlp: Any, digits: Any) -> None:
    """They are an alarm only where noise leaves no doubt, but never OK."""
    order = torch.randperm(len(digits[1]), generator=torch.Generator().manual_seed(0))
    (finding,) = found(InputIndependentBaseline(), plain(mlp()), (digits[0], digits[1][order]))
    assert finding.severity in (Severity.INFO, Severity.WARNING), finding.message


@pytest.mark.filterwarnings("ignore")
def test_does_not_apply_to_an_autoencoder(found: Any, plain: Any, mlp: Any, digits: Any) -> None:
    module = plain(mlp(outputs=64), step=lambda self, batch: F.mse_loss(self.net(batch[0]), batch[0]))
    (finding,) = found(InputIndependentBaseline(), module, digits)
    assert finding.severity is Severity.INFO
    assert "its own inputs" in finding.message

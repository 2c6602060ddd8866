"""replica-drift: sums over bits, and the judgement on numbers; real ranks are in tests/ddp/test_replica_ddp.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch import Tensor

from lightning_rules import ReplicaDrift, Severity
from lightning_rules.monitor import NotApplicable, View
from lightning_rules.watch.bit_sums import bit_sum, content_of, place_weights
from lightning_rules.watch.replicas import ReplicaSeen, judge_batches, judge_ranks, judge_replicas

WEIGHTS = place_weights(4096, torch.device("cpu"))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_sums_tell_contents_apart(dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, (30, 41), generator=torch.Generator().manual_seed(0)).to(dtype)
    changed = tensor.clone()
    changed[7, 11] = 1 - changed[7, 11].long()
    same = bit_sum(tensor.clone(), WEIGHTS)
    assert torch.equal(bit_sum(tensor, WEIGHTS), same)  # type: ignore[arg-type]
    assert not torch.equal(bit_sum(changed, WEIGHTS), same)  # type: ignore[arg-type]
    assert not torch.equal(bit_sum(tensor.flip(0), WEIGHTS), same)  # type: ignore[arg-type]


def test_one_bit_anywhere_in_a_large_tensor_counts() -> None:
    tensor = torch.rand(1000, 999)
    before = content_of([tensor], WEIGHTS)
    tensor[501, 3] = torch.nextafter(tensor[501, 3], torch.tensor(2.0))
    assert (content_of([tensor], WEIGHTS) != before).any()
    assert bit_sum(torch.rand(4, 4, dtype=torch.complex64), WEIGHTS) is not None
    assert bit_sum(torch.rand(50, 50)[:, :7], WEIGHTS) is not None
    assert bit_sum(torch.empty(0), WEIGHTS) is None


def seen(
    values: Tensor, looks: Any = ((16, 1),), batches: Any = (), names: Any = ("a", "b"), content: Any = None
) -> ReplicaSeen:
    content = content_of(list(values), WEIGHTS) if content is None else content
    return ReplicaSeen(list(names), content, values, list(looks), list(batches))


VALUES = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, torch.nan]])


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        (0.0, Severity.OK, "The 2 trainable parameters are the same on all 3 ranks"),
        (1e-5, Severity.INFO, "as rounding does"),
        (0.9, Severity.ERROR, "1 of 2 parameters differ between ranks (`b`), seen first at step 64, and by 10.00%"),
    ],
)
def test_judgement_of_replicas(change: float, severity: Severity, words: str) -> None:
    looks = ((16, 5), (32, 6), (64, 7))
    ranks = [seen(VALUES.clone(), looks) for _ in range(3)]
    if change:
        ranks[2] = seen(VALUES + torch.tensor([[0.0], [change]]) * torch.tensor([1.0, 0.0, 0.0]), (*looks[:2], (64, 8)))
    (finding,) = judge_replicas(ranks)
    assert finding.severity is severity, finding.message
    assert words in finding.message or change == 0.9
    if change == 0.9:
        assert finding.evidence["distance"] == pytest.approx(0.9 / 9.9)
        assert "(`b`), seen first at step 64" in finding.message


def test_weights_that_are_not_finite_are_left_to_others() -> None:
    one, other = torch.full((2, 3), torch.nan), torch.full((2, 3), torch.inf)
    (finding,) = judge_replicas([seen(one), seen(other)])
    assert finding.severity is Severity.INFO


def test_replicas_with_other_parameters() -> None:
    (finding,) = judge_ranks([seen(VALUES), seen(VALUES[:1], names=["a"])])
    assert finding.severity is Severity.ERROR
    assert "2, 1 trainable parameters, and `b`" in finding.message


def batches(*contents: int) -> list[tuple[int, int]]:
    return [(4 * place, content) for place, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("first", "second", "severity"),
    [
        (range(8), range(8), Severity.WARNING),
        (range(7), range(7), None),  # too early
        (range(8), [0, 1, 2, 3, 4, 5, 6, 9], Severity.OK),
        ([3] * 8, [3] * 8, None),  # a full batch, always the same
        (range(8), range(8, 16), Severity.OK),
    ],
)
def test_judgement_of_batches(first: Any, second: Any, severity: Severity | None) -> None:
    found = judge_batches([seen(VALUES, batches=batches(*first)), seen(VALUES, batches=batches(*second))])
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])


def strategy_with(**attributes: Any) -> Any:
    strategy = DDPStrategy()
    for name, value in attributes.items():
        setattr(strategy, name, value)
    return strategy


class PostLocalSGDState:
    pass


@pytest.mark.parametrize(
    ("world", "strategy", "words"),
    [
        (1, SingleDeviceStrategy(), "one process"),
        (2, SingleDeviceStrategy(), "nothing is known of how SingleDeviceStrategy"),
        (2, FSDPStrategy(), "shards the parameters"),
        (2, strategy_with(_ddp_comm_state=PostLocalSGDState()), "lets replicas part"),
        (2, strategy_with(_model_averaging_period=4), "lets replicas part"),
        (2, DDPStrategy(), None),
    ],
)
def test_where_it_does_not_apply(world: int, strategy: Any, words: str | None) -> None:
    view = View(SimpleNamespace(world_size=world, strategy=strategy), torch.nn.Linear(1, 1))
    if words is None:
        ReplicaDrift().start(view)
        return
    with pytest.raises(NotApplicable, match=words):
        ReplicaDrift().start(view)

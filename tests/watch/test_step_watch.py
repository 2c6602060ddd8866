"""activation-health: what is seen of a step, and that the step is as it would be without."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_rules.compiled_code import calls_compiled_functions, has_compiled_parts, outside_compiled
from lightning_rules.watch.step_watch import Place, StepSeen, StepWatch, WatchedStep
from lightning_rules.watch.value_samples import VALUES, by_unit, counted, thinned


class Net(nn.Module):
    """Has a ``training_step`` that runs a function on it."""

    def __init__(self, step: Any, **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step = step
        for name, part in parts.items():
            self.add_module(name, part)

    def training_step(self, batch: Tensor, batch_idx: int = 0) -> Any:
        return self.step(self, batch)


def see(net: Net, batch: Tensor, functions: bool = True, keep: bool = False) -> StepSeen:
    watch = StepWatch(list(outside_compiled(net)), functions, 0, keep)
    WatchedStep(net, watch)
    loss = net.training_step(batch, 0)
    if isinstance(loss, Tensor):
        loss.backward()
    assert watch.failure is None
    assert "training_step" not in vars(net)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert not torch.overrides._get_current_function_mode_stack()
    return watch.seen


def test_modules_and_functions_are_seen_alike() -> None:
    first, second = nn.Linear(8, 16), nn.Linear(16, 4)
    batch = torch.randn(32, 8)

    def by_function(net: Any, x: Tensor) -> Tensor:
        return net.b(net.a(x).relu_()).tanh().sum()

    def by_module(net: Any, x: Tensor) -> Tensor:
        return net.tanh(net.b(net.relu(net.a(x)))).sum()

    functions = see(Net(by_function, a=first, b=second), batch)
    modules = see(Net(by_module, a=first, b=second, relu=nn.ReLU(inplace=True), tanh=nn.Tanh()), batch)
    without_mode = see(
        Net(by_module, a=first, b=second, relu=nn.ReLU(inplace=True), tanh=nn.Tanh()), batch, functions=False
    )
    assert list(functions.units) == [Place("", "ReLU", 0), Place("", "tanh", 0)]
    assert list(modules.units) == list(without_mode.units) == [Place("relu", "ReLU", 0), Place("tanh", "tanh", 0)]
    for seen in (functions, modules, without_mode):
        (relu, before_relu), (tanh, before_tanh) = [(numbers, before) for _, numbers, before in seen.units.values()]
        assert torch.equal(relu, first(batch).amax(0)), "its input, before it was written over"
        assert torch.equal(tanh, (second(first(batch).relu()).abs() > 2.298).float().mean(0))
        assert (before_relu, before_tanh) == (1, 2)
        assert list(seen.layers) == ["a", "b"]
    assert functions.sizes[1] == pytest.approx(float(second(first(batch).relu()).detach().square().mean().sqrt()))


def test_units_of_maps_and_of_tokens() -> None:
    maps = Net(lambda net, x: F.gelu(net.conv(x)).sum(), conv=nn.Conv2d(3, 8, 3))
    tokens = Net(lambda net, x: F.silu(net.fc(x)).sum(), fc=nn.Linear(5, 24))
    gates = Net(lambda net, x: net.conv(x).mean((2, 3), keepdim=True).sigmoid().sum(), conv=nn.Conv2d(3, 8, 3))
    assert [numbers.numel() for _, numbers, _ in see(maps, torch.randn(4, 3, 9, 9)).units.values()] == [8]
    assert [numbers.numel() for _, numbers, _ in see(tokens, torch.randn(4, 7, 5)).units.values()] == [24]
    assert see(gates, torch.randn(4, 3, 9, 9)).units == {}, "a gate of whole maps may well be open for all"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_precision(dtype: torch.dtype) -> None:
    net = Net(lambda net, x: F.relu(net.a(x)).sigmoid().sum(), a=nn.Linear(8, 8).to(dtype))
    seen = see(net, torch.randn(4, 8, dtype=dtype))
    assert {numbers.dtype for _, numbers, _ in seen.units.values()} == {torch.float32}
    assert [size.dtype for size in seen.sizes] == [torch.float32]


def test_calls_of_one_activation_are_told_apart_up_to_a_bound() -> None:
    def step(net: Any, x: Tensor) -> Tensor:
        for _ in range(20):
            x = net.act(net.a(x))
        return x.sum()

    seen = see(Net(step, a=nn.Linear(8, 8), act=nn.ReLU()), torch.randn(4, 8))
    assert list(seen.units) == [Place("act", "ReLU", call) for call in range(8)]
    assert list(seen.layers) == ["a"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_runs_again_in_backward_counts_once(reentrant: bool) -> None:
    def step(net: Any, x: Tensor) -> Tensor:
        y = checkpoint(lambda x: F.relu(net.a(x)), x, use_reentrant=reentrant)
        loss = y.sum()
        loss.backward()  # by hand, while it is watched
        return None

    seen = see(Net(step, a=nn.Linear(8, 8)), torch.randn(4, 8, requires_grad=True))
    assert list(seen.units) == [Place("", "ReLU", 0)]


def test_losses() -> None:
    labels = torch.tensor([0, 1, 1, 0])

    def step(net: Any, x: Tensor) -> Tensor:
        logits = net.a(x)
        F.mse_loss(input=logits.detach(), target=x[:, :2])  # a metric
        return F.cross_entropy(logits, labels) + F.mse_loss(logits, target=x[:, :2])

    net, batch = Net(step, a=nn.Linear(3, 2)), torch.randn(4, 3)
    seen = see(net, batch)
    assert list(seen.outputs) == ["cross_entropy", "mse_loss"]
    values, outputs, targets = seen.outputs["mse_loss"]
    given = net.a(batch)
    assert values
    assert float(outputs) == pytest.approx(float((given.amax(0) - given.amin(0)).amax()))
    assert float(targets) == pytest.approx(float((batch.amax(0) - batch.amin(0))[:2].amax()))
    assert float(seen.outputs["cross_entropy"][2]) == 1
    assert float(seen.loss or 0) == pytest.approx(float(net.training_step(batch)))


def test_copies_made_within_the_step_have_no_working_hooks() -> None:
    copies: list[Any] = []

    def step(net: Any, x: Tensor) -> Tensor:
        copies.extend([copy.deepcopy(net.a), pickle.loads(pickle.dumps(net.a))])
        return F.relu(net.a(x)).sum()

    batch = torch.randn(4, 8)
    net = Net(step, a=nn.Linear(8, 8))
    seen = see(net, batch)
    assert all(torch.equal(made(batch), net.a(batch)) for made in copies)
    assert list(seen.layers) == ["a"]


def test_a_failing_step_leaves_nothing_behind() -> None:
    def step(net: Any, x: Tensor) -> Tensor:
        raise KeyError("theirs")

    net = Net(step, a=nn.Linear(8, 8))
    with pytest.raises(KeyError, match="theirs"):
        see(net, torch.randn(4, 8))
    assert "training_step" not in vars(net)
    assert not net.a._forward_hooks
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_measurement_that_fails_does_not_reach_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(StepWatch, "_activation", broken)
    net = Net(lambda net, x: F.relu(net.a(x)).sum(), a=nn.Linear(8, 8))
    watch = StepWatch(list(outside_compiled(net)), True, 0, False)
    WatchedStep(net, watch)
    assert net.training_step(torch.randn(4, 8)).isfinite()
    assert str(watch.failure) == "ours"


def test_under_vmap_nothing_is_kept() -> None:
    def step(net: Any, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: F.relu(net.a(row)))(x[:, None]).sum()

    assert see(Net(step, a=nn.Linear(8, 8)), torch.randn(4, 8)).units == {}


def test_samples() -> None:
    big = torch.randn(8, 64, 56, 56)
    sample = by_unit(big, 1, 5)
    assert sample.shape[0] == 64
    assert VALUES / 4 <= sample.numel() <= VALUES
    assert set(sample[3].tolist()) <= set(big[:, 3].flatten().tolist())
    assert not torch.equal(sample, by_unit(big, 1, 6)), "other places at the next step"
    assert thinned(torch.randn(50_000, 4), 1000, 3).numel() <= 1100
    assert thinned(torch.randn(4, 4), 1000, 3).shape == (4, 4)
    counts, low, high = counted(torch.tensor([0.0, 1.0, 1.0, 64.0]))
    assert (counts[0], counts[1], counts[63], counts.sum()) == (1, 2, 1, 4)
    assert (low, high) == (0, 64)
    assert counted(torch.tensor([1.0, float("nan")]))[0].sum() == 2


def test_compiled_parts_are_left_alone() -> None:
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    net = Net(lambda net, x: net.b(net.a(x)), a=torch.compile(inner), b=nn.Linear(8, 2))
    assert [name for name, _ in outside_compiled(net)] == ["b"]
    assert has_compiled_parts(net)
    in_place = nn.Sequential(nn.Linear(8, 8))
    in_place.compile()
    assert [name for name, _ in outside_compiled(Net(None, a=in_place, b=nn.ReLU()))] == ["b"]
    assert not calls_compiled_functions(net)
    assert not has_compiled_parts(Net(None, a=inner))
    assert calls_compiled_functions(Net(torch.compile(lambda net, x: net.a(x)), a=inner))
    assert not calls_compiled_functions(Net(torch.compiler.disable(lambda net, x: net.a(x)), a=inner))

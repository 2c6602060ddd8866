"""Everything a probe could touch is as it was, however the probe ends."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassAccuracy

from lightning_rules.untouched import GENERATORS, reachable, untouched


class Busy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
        self.metric = MulticlassAccuracy(4)
        self.hidden = [MulticlassAccuracy(4)]
        self.by_name = {"a": nn.BatchNorm1d(4)}
        self.count, self.outputs, self.last = 0, [1], deque([2], maxlen=3)
        self.seen, self.table, self.running = {3}, {"k": 4}, torch.zeros(2)

    def disturb(self) -> None:
        self.train()
        for _ in range(3):
            out = self.net(torch.randn(8, 4))
        self.by_name["a"](out)
        self.metric(out, torch.randint(4, (8,)))
        self.hidden[0].update(out, torch.randint(4, (8,)))
        out.sum().backward()
        self.net[0].weight.data.add_(1.0)
        self.net[0].bias.requires_grad_(False)
        self.count += 1
        self.outputs.append(5)
        self.last.append(6)
        self.seen.add(7)
        self.table["new"] = 8
        self.running += 1
        self.invented = "later"
        self.eval()


def picture(module: Busy) -> Any:
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, list, set, dict, deque)) and k[0] != "_"}
    plain.pop("hidden"), plain.pop("by_name")
    return (
        {k: v.clone() for k, v in module.state_dict().items()},
        {k: v.clone() for k, v in module.by_name["a"].state_dict().items()},
        [metric.tp.clone() for metric in (module.metric, module.hidden[0])],
        [(p.grad, p.requires_grad) for p in module.parameters()],
        [part.training for part in module.modules()],
        repr(plain),
        module.running.clone(),
        hasattr(module, "invented"),
    )


@pytest.mark.parametrize("raises", [False, True])
def test_module_is_as_it_was(raises: bool) -> None:
    module = Busy()
    module.net[1].eval()
    lists, weights = module.outputs, [p.data_ptr() for p in module.parameters()]
    before = picture(module)
    try:
        with untouched(module):
            module.disturb()
            if raises:
                raise KeyError
    except KeyError:
        pass
    for now, then in zip(picture(module), before, strict=True):
        assert (
            now == then
            if isinstance(then, (str, bool))
            else torch.testing.assert_close(now, then, rtol=0, atol=0) is None
        )
    assert module.outputs is lists, "lists keep their identity"
    assert [p.data_ptr() for p in module.parameters()] == weights, "so do parameters"


def test_gradients_are_put_back() -> None:
    module = Busy()
    module.net(torch.randn(8, 4)).sum().backward()
    gradients = [p.grad for p in module.parameters()]
    values = [g.clone() for g in gradients]
    with untouched(module):
        assert all(p.grad is None for p in module.parameters())
        module.disturb()
    assert all(p.grad is g for p, g in zip(module.parameters(), gradients, strict=True))
    assert all(torch.equal(g, v) for g, v in zip(gradients, values, strict=True))


class Owner:
    def __init__(self) -> None:
        self.mine = np.random.default_rng(0)
        self.transforms = [{"rng": random.Random(0)}, (np.random.RandomState(0), torch.Generator())]
        self.itself = self


@pytest.mark.parametrize("raises", [False, True])
def test_random_numbers_are_put_back(raises: bool) -> None:
    owner = Owner()

    def draw() -> list[float]:
        legacy, generator = owner.transforms[1]
        own = [owner.mine.random(), owner.transforms[0]["rng"].random(), legacy.rand()]
        return [
            *own,
            torch.rand((), generator=generator).item(),
            random.random(),
            np.random.rand(),
            torch.rand(()).item(),
        ]

    assert sum(isinstance(value, GENERATORS) for value in reachable(owner)) == 4
    with untouched(None, owner):
        expected = draw()
    try:
        with untouched(None, owner):
            draw()
            if raises:
                raise KeyError
    except KeyError:
        pass
    assert draw() == expected


def test_lazy_modules_are_left_alone() -> None:
    lazy = nn.LazyLinear(3)
    with untouched(lazy):
        pass
    assert lazy(torch.randn(2, 5)).shape == (2, 3)


def test_a_file_opened_at_the_first_read_is_not_left_open() -> None:
    class Lazy(Dataset):
        def __init__(self) -> None:
            self.file, self.reads = None, 0

        def __getitem__(self, index: int) -> int:
            self.file = self.file or object()
            self.reads += 1
            return index

    dataset = Lazy()
    with untouched(None, DataLoader(Subset(dataset, [0, 1]))):
        dataset[0]
        dataset.invented = True
    assert vars(dataset) == {"file": None, "reads": 0}


def test_what_an_evaluation_has_made_is_put_back() -> None:
    """Metrics updated in inference mode hold tensors that cannot be changed outside of it."""
    metric = MulticlassAccuracy(4)
    with torch.inference_mode():
        metric.update(torch.randn(8, 4), torch.randint(4, (8,)))
    before = metric.tp.clone()
    assert metric.tp.is_inference()
    with untouched(metric):
        metric.update(torch.randn(8, 4), torch.randint(4, (8,)))
    assert torch.equal(metric.tp, before)

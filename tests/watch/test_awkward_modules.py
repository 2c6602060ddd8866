"""All monitors of ``recommended()`` on modules that hooks and copies stumble over: nothing fails, nothing changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Severity, recommended
from lightning_rules.monitor import Monitor


class Checkpointed(nn.Module):
    """Runs its first part anew in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1)), nn.Linear(32, 10)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_(self.reentrant and torch.is_grad_enabled())
        return self.last(checkpoint(self.first, x, use_reentrant=self.reentrant))


class Shared(nn.Module):
    """Calls one layer three times a step, and holds it under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.again = self.middle
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        for layer in (self.middle, self.again, self.middle):
            x = x + self.act(layer(x))
        return self.last(x)


class Routed(nn.Module):
    """Sends a batch through one of the paths of a ModuleDict in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleDict({"up": nn.Linear(64, 32), "down": nn.Linear(64, 32)})
        self.last = nn.Linear(32, 10)
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.turn += self.training
        return self.last(F.relu(self.paths["up" if self.turn % 2 else "down"](x)))


class Replicas(nn.Module):
    """Splits a batch over shallow copies of a network that share its weights and hooks, as DataParallel does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([replica(self.net)(half) for half in x.chunk(2)])


def replica(module: nn.Module) -> nn.Module:
    copied = module._replicate_for_data_parallel()
    for name, part in module.named_children():
        setattr(copied, name, replica(part))
    for name, parameter in module._parameters.items():
        setattr(copied, name, parameter)
        copied._parameters[name] = parameter
    return copied


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def lazy() -> nn.Module:
    """Layers that learn their sizes from the first batch they see."""
    net = nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(10))
    net(torch.zeros(2, 64))
    return net


def compiled() -> nn.Module:
    net = mlp()
    net.compile(backend="eager")
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "checkpointed": lambda: Checkpointed(reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(reentrant=True),
    "shared layers": Shared,
    "module dict": Routed,
    "replicas": Replicas,
    "lazy": lazy,
    "compiled": compiled,
}


class Model(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Copies(L.Callback):
    """Copies and pickles the module and the rules between two batches of a watched run."""

    def __init__(self, rules: list[Any]) -> None:
        self.rules = rules
        self.copied = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in (5, 18):
            twin = copy.deepcopy(pl_module.net)
            assert len(pickle.dumps(twin.state_dict())) > 1000
            copy.deepcopy(self.rules)
            self.copied += 1


def digits() -> tuple[DataLoader, DataLoader]:
    bunch = load_digits()
    x, y = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    return DataLoader(TensorDataset(x[:640], y[:640]), 32), DataLoader(TensorDataset(x[640:800], y[640:800]), 32)


def fit(make: Callable[[], nn.Module], rules: list[Any]) -> tuple[nn.Module, Copies]:
    torch.manual_seed(0)
    model, copies = Model(make()), Copies(rules)
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[*rules, copies],
    )
    torch.manual_seed(1)
    trainer.fit(model, *digits())
    return model.net, copies


@pytest.mark.parametrize("name", NETS)
def test_all_monitors_watch_it_and_leave_no_trace(name: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    bare, _ = fit(NETS[name], [])
    graphs = counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    counters.clear()
    rules = [rule for rule in recommended() if isinstance(rule, Monitor)]
    watched, copies = fit(NETS[name], rules)
    assert copies.copied == 2
    for key, value in bare.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key
    assert counters["stats"]["unique_graphs"] == graphs, "nothing is compiled anew"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in watched.modules())
    found = [finding for rule in rules for finding in rule.findings]
    assert [one for one in found if one.severity >= Severity.WARNING] == []
    assert not any("the measurement failed" in one.message for one in found), [one.message for one in found]
    held = {one.rule for one in found if one.severity is Severity.OK}
    assert {"loss-decreases", "non-finite-gradients"} <= held, "it was watched"

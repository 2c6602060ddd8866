"""What the optional enforcers promise under DDP, as small runs; started by test_options_ddp.py, once a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_recipe.runs.bootstrap import use_bootstrap
from lightning_rules import ActivationScaleInit, FreezeBySize, MaxNorm, RecurrentInit, Rule, WeightDecayGroups


class Model(L.LightningModule):
    """Keeps its weights as they are when training starts."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer
        self.at_start: list[Any] = []

    def on_train_start(self) -> None:  # comes after the callbacks
        self.at_start = plain(self.net)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out = self.net(batch[0])
        return F.cross_entropy(out[0][:, -1] if isinstance(out, tuple) else out.flatten(1), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.net.parameters())


def plain(net: nn.Module) -> list[Any]:
    return [value.double().flatten().tolist() for value in net.state_dict().values()]


def data(count: int = 128) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    return TensorDataset(torch.randn(count, 5, 8, generator=generator) + labels[:, None, None], labels)


def fit(rule: Rule, make: Callable[[], nn.Module], optimizer: Any = None, **options: Any) -> dict[str, Any]:
    torch.manual_seed(RANK)  # ranks begin with different weights, until DDP hands out those of rank 0
    model = Model(make(), optimizer or (lambda parameters: torch.optim.SGD(parameters, 0.1)))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rule],
        **{"max_epochs": 2, **options},
    )
    dataset = data()
    # Lightning's own sampler would shuffle under DDP alone.
    sampler: Any = DistributedSampler(dataset, WORLD, RANK, shuffle=False)
    trainer.fit(model, DataLoader(dataset, 32 // WORLD, sampler=sampler))
    said = [[finding.message, dict(finding.evidence)] for finding in rule.findings]
    return {"said": said, "start": model.at_start, "end": plain(model.net), "steps": trainer.global_step}


def recurrent_init() -> Any:
    return fit(RecurrentInit(), lambda: nn.LSTM(8, 16, batch_first=True))


def recurrent_init_sparse() -> Any:
    return fit(RecurrentInit(method="sparse"), lambda: nn.GRU(8, 16, batch_first=True))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 4))


def max_norm() -> Any:
    return fit(MaxNorm(max_norm=0.5), mlp)


def weight_decay_groups() -> Any:
    return fit(WeightDecayGroups(), mlp, lambda parameters: torch.optim.SGD(parameters, 0.1, weight_decay=0.5))


def activation_scale_init() -> Any:
    return fit(ActivationScaleInit(), mlp)


def freeze_by_size() -> Any:
    def pretrained() -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(40, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 4))
        nn.init.normal_(net[2].weight)  # type: ignore[arg-type]
        return net

    return fit(FreezeBySize(small=100, large=200), pretrained)


class Numbered(L.LightningDataModule):
    """128 examples, numbered by their first input; Lightning makes the loader again for several ranks."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(128.0)[:, None]), batch_size=16 // WORLD, shuffle=True)


class Reader(L.LightningModule):
    """Keeps the numbers of the examples it is given, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), [[], []]  # type: ignore[var-annotated]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen[self.current_epoch] += batch[0][:, 0].long().tolist()
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


def bootstrap() -> Any:
    reader, numbered = Reader(), Numbered()
    use_bootstrap(5, numbered, reader)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    strategy = "ddp" if WORLD > 1 else "auto"
    trainer = L.Trainer(accelerator="cpu", devices=WORLD, strategy=strategy, max_epochs=2, **quiet)
    trainer.fit(reader, datamodule=numbered)
    shares: list[Any] = [reader.seen] * WORLD
    if WORLD > 1:
        torch.distributed.all_gather_object(shares, reader.seen)
    return [sorted(number for share in shares for number in share[epoch]) for epoch in range(2)]


SCENARIOS: list[Callable[[], Any]] = [
    recurrent_init,
    recurrent_init_sparse,
    max_norm,
    weight_decay_groups,
    activation_scale_init,
    freeze_by_size,
    bootstrap,
]

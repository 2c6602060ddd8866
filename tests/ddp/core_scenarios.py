"""What the core promises under DDP, as small runs; started by test_core_ddp.py, once a rank, or in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler, get_worker_info

from lightning_rules import Finding, LastLayerBiasInit, Rule, Severity, recommended


def data(count: int = 300) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(count) % 10).clamp(max=3)  # 10%, 10%, 10% and 70%
    return TensorDataset(torch.randn(count, 8, generator=generator) + labels[:, None], labels)


class Model(L.LightningModule):
    def __init__(self, fails_on_rank: int | None = None, norm: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.Linear(16, 4))
        self.fails_on_rank, self.broken = fails_on_rank, True

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.broken and self.fails_on_rank == self.global_rank:
            raise KeyError("only here")
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, sync_dist=True, on_epoch=True)
        return loss

    def on_train_epoch_start(self) -> None:
        self.broken = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


class Shard(IterableDataset):
    """Each rank streams its own part."""

    def __iter__(self) -> Any:
        assert get_worker_info() is None
        return (data()[index] for index in range(RANK, 300, WORLD))


class NoColumn(Dataset):
    """Labels can be had only with the inputs."""

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> Any:
        return data()[index]


class AlwaysWrong(Rule):
    """Every run is wrong on one rank."""

    name, source, kind = "always-wrong", "a test (2026)", "check"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.observe(
            trainer,
            lambda: trainer.global_rank,
            lambda ranks: [Finding(self.name, Severity.ERROR, f"Rank {max(ranks)} is wrong.")],
        )


def fit(callbacks: list[Any], dataset: Any = None, model: Any = None, sampler: Any = None, **options: Any) -> Any:
    L.seed_everything(3, verbose=False)
    model = model or Model()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    dataset = dataset or data()
    shuffle = sampler is None and not isinstance(dataset, IterableDataset)
    loader = DataLoader(dataset, 32 // WORLD, shuffle=shuffle, sampler=sampler)
    trainer.fit(model, loader)
    return trainer


def said(trainer: Any) -> list[list[Any]]:
    rules = [callback for callback in trainer.callbacks if isinstance(callback, Rule)]
    return [[str(f.severity), f.rule, f.message, dict(f.evidence)] for rule in rules for f in rule.findings]


def weights(trainer: Any) -> list[Any]:
    return [value.flatten().tolist() for value in trainer.lightning_module.state_dict().values()]


def map_style() -> Any:
    return {"said": said(fit([*recommended()]))}


def bias(dataset: Any = None, sampler: Any = None) -> Any:
    seen: list[Any] = []

    class Look(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(pl_module.net[2].bias.tolist())

    trainer = fit([LastLayerBiasInit(), Look()], dataset, sampler=sampler)
    return {"said": said(trainer), "bias": seen[0]}


def bias_from_column() -> Any:
    return bias()


def bias_from_shards() -> Any:
    return bias(Shard())


def bias_without_column() -> Any:
    return bias(NoColumn())


def bias_with_weighted_sampler() -> Any:
    labels = data().tensors[1]
    per_example = (1.0 / torch.bincount(labels))[labels]
    return bias(sampler=WeightedRandomSampler(per_example, 300))


def trace() -> Any:
    others = [rule for rule in recommended() if not isinstance(rule, LastLayerBiasInit)]
    return {"with": weights(fit([*others])), "without": weights(fit([]))}


def probe_fails_on_rank_1() -> Any:
    trainer = fit([*recommended()], model=Model(fails_on_rank=1))
    return {"said": said(trainer), "steps": trainer.global_step}


def error_raises_everywhere() -> Any:
    try:
        fit([AlwaysWrong(on_error="raise")])
    except RuntimeError as error:
        return {"raised": str(error)}
    return {"raised": None}


SCENARIOS: list[Callable[[], Any]] = [
    map_style, bias_from_column, bias_from_shards, bias_without_column, bias_with_weighted_sampler, trace,
    probe_fails_on_rank_1, error_raises_everywhere,
]  # fmt: skip

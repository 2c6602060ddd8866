"""What lr-finder promises under DDP, as small runs; started by test_lr_ddp.py, once a rank, or alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_rules import LRFinder


class Network(L.LightningModule):
    """A layer that one rank does not use in every step, and rates in two groups."""

    def __init__(self, strict: bool = False, sometimes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 4))
        self.extra = nn.Linear(10, 4)
        self.strict, self.sometimes, self.calls = strict, sometimes, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        logits = self.network(batch[0])
        if not self.sometimes or (RANK == 0 and batch_idx % 2):
            logits = logits + self.extra(batch[0])
        if self.strict and RANK == WORLD - 1 and logits.abs().max() > 30:
            raise ValueError("The last rank alone does not like this.")
        return F.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.network.parameters()}, {"params": self.extra.parameters(), "lr": 1e-5}]
        return torch.optim.Adam(groups, lr=1e-4)


def loader(skewed: bool = False, shuffled: bool = False) -> DataLoader[Any]:
    """The same global batches whatever the number of processes, unless shuffled; skewed: each rank has its own task."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 10, generator=generator)
    labels = inputs[:, :4].argmax(1)
    if skewed:
        labels[::2] = 3 - labels[::2]
    dataset = TensorDataset(inputs, labels)
    if shuffled or WORLD == 1:
        return DataLoader(dataset, 32 // WORLD, shuffle=shuffled)
    # Lightning's own sampler would shuffle, though the loader does not.
    return DataLoader(dataset, 32 // WORLD, sampler=DistributedSampler(dataset, WORLD, RANK, shuffle=False))


def fit(
    finder: LRFinder | None, skewed: bool = False, shuffled: bool = False, epochs: int = 2, **model: Any
) -> tuple[Any, Any]:
    network = Network(**model)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp_find_unused_parameters_true" if WORLD > 1 else "auto",
        max_epochs=epochs,
        callbacks=[] if finder is None else [finder],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    torch.manual_seed(5)
    trainer.fit(network, loader(skewed, shuffled))
    return network, trainer


def scenario(budget: int = 420, **options: Any) -> dict[str, Any]:
    """The finder's suggestion, what it said, and what training with it came to."""
    finder = LRFinder(budget)
    network, trainer = fit(finder, **options)
    return {
        "rate": finder.suggestion,
        "rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "said": [finding.message for finding in finder.findings],
        "weights": [parameter.sum().item() for parameter in network.parameters()],
    }


def no_trace() -> dict[str, Any]:
    """Whether a search that is not applied changes anything."""
    (ours, ours_trainer), (plain, plain_trainer) = fit(LRFinder(420, apply=False)), fit(None)
    pairs = zip(ours.state_dict().values(), plain.state_dict().values(), strict=True)
    return {
        "same_weights": all(torch.equal(mine, theirs) for mine, theirs in pairs),
        "same_state": str(ours_trainer.optimizers[0].state_dict()) == str(plain_trainer.optimizers[0].state_dict()),
    }


SCENARIOS = {
    "plain": scenario,
    "ranks_differ": partial(scenario, budget=800, skewed=True),
    "shuffled": partial(scenario, budget=800, shuffled=True),
    "raises_on_one_rank": partial(scenario, strict=True),
    "unused_on_one_rank": partial(scenario, sometimes=True),
    "no_trace": no_trace,
}

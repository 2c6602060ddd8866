"""What largest-batch-size promises under DDP, as small runs; started by test_batch_ddp.py, once a rank, or alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import LargestBatchSize


class Network(L.LightningModule):
    """The last rank has room for fewer examples than the others; ``where``: in which part of a step it runs out."""

    def __init__(self, room: int = 10**6, where: str = "forward") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(10, 8), nn.LayerNorm(8), nn.Linear(8, 4))
        self.room, self.where = room, where
        self.sizes: list[int] = []

    def give_up(self, where: str, size: int) -> None:
        if where == self.where and size > self.room and RANK == WORLD - 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.sizes.append(len(batch[0]))
        self.give_up("forward", len(batch[0]))
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.give_up("optimiser", self.sizes[-1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def scenario(count: int = 512, global_batch_size: int | None = None, **options: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 10, generator=generator)
    rule, model = LargestBatchSize(global_batch_size=global_batch_size), Network(**options)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=1,
        callbacks=[rule],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(model, DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), 8, shuffle=True))
    (finding,) = rule.findings
    return {
        "size": rule.batch_size,
        "said": finding.message,
        "sizes": model.sizes,
        "steps": trainer.global_step,
        "rate": trainer.optimizers[0].param_groups[0]["lr"],
        "weights": [parameter.sum().item() for parameter in model.parameters()],
    }


SCENARIOS = {
    "plain": scenario,
    "tight_on_one_rank": partial(scenario, room=40),
    "tight_in_the_optimiser": partial(scenario, room=100, where="optimiser"),
    "uneven": partial(scenario, count=301),
    "accumulated": partial(scenario, room=40, global_batch_size=128),
}

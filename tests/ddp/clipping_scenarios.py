"""What gradient-clipping promises under DDP, as small runs; started by test_clipping_ddp.py, once a rank, or alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import ModelParallelStrategy
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import GradientClipping
from lightning_rules.gradient_norms import gradients_of, norms_of, total_norm


class Recurrent(L.LightningModule):
    """A GRU; the last rank's loss is NaN in some batches."""

    def __init__(self, bad: tuple[int, ...] = (), fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)
        self.bad, self.fused, self.calls = bad, fused, 0
        self.norms: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = 3 * F.cross_entropy(self.head(self.rnn(batch[0])[0][:, -1]), batch[1])
        self.calls += 1
        return loss * (torch.nan if self.calls - 1 in self.bad and RANK == WORLD - 1 else 1)

    def on_before_optimizer_step(self, optimizer: Any) -> None:  # comes after the callbacks
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        full = [gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient for gradient in gradients]
        self.norms.append(float(torch.stack([gradient.norm() for gradient in full]).norm()) if full else -1.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2, fused=self.fused)


class Local(Recurrent):
    """Steps by hand on gradients that DDP did not average."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        with optimizer.toggle_model(sync_grad=False):
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


class Sharded(Recurrent):
    """Its parameters are cut over the ranks (FSDP's second version)."""

    def configure_model(self) -> None:
        if WORLD > 1 and not hasattr(self.head.weight, "device_mesh"):
            for part in (self.rnn, self.head):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])


def fit(model: Any, rule: Any, strategy: Any = "ddp", **options: Any) -> Any:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=strategy if WORLD > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=4,
        use_distributed_sampler=False,
        callbacks=[rule],
        **options,
    )
    inputs, targets = torch.randn(64, 8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
    data = TensorDataset(inputs[RANK::WORLD], targets[RANK::WORLD])
    raised = ""
    try:
        trainer.fit(model, DataLoader(data, 8 // WORLD))  # the same global batches, whatever the number of ranks
    except RuntimeError as error:
        raised = str(error)
    return {
        "said": [[str(found.severity), found.message] for found in rule.findings],
        "evidence": dict(rule.findings[-1].evidence),
        "norms": model.norms,
        "steps": trainer.global_step,
        "raised": raised,
        "finite": all(bool(parameter.isfinite().all()) for parameter in model.parameters()),
        "weights": [_whole(parameter).flatten().tolist() for parameter in model.parameters()],
    }


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def max_norm() -> Any:
    return fit(Recurrent(), GradientClipping(max_norm=0.5))


def percentile() -> Any:
    return fit(Recurrent(), GradientClipping("percentile", percentile=30))


def agc() -> Any:
    return fit(Recurrent(), GradientClipping("agc", agc_factor=0.05))


def sharded() -> Any:
    strategy = ModelParallelStrategy(data_parallel_size=WORLD, tensor_parallel_size=1) if WORLD > 1 else None
    return fit(Sharded(bad=(5,)), GradientClipping(max_norm=0.5), strategy)


def flat_shards() -> Any:
    """FSDP's first version, which Lightning starts on accelerators only: torch's wrapper by itself."""
    layer: Any = Recurrent().head
    if WORLD > 1:
        layer = FullyShardedDataParallel(layer, device_id=torch.device("cpu"), use_orig_params=True)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    layer(inputs[RANK::WORLD]).square().mean().backward()
    parameters = list(layer.parameters())
    norms = norms_of(gradients_of(parameters), torch.device("cpu"))
    clip = layer.clip_grad_norm_ if WORLD > 1 else lambda most: nn.utils.clip_grad_norm_(parameters, most)
    return {"ours": float(total_norm(parameters, norms, flat_shards=WORLD > 1)), "theirs": float(clip(1e9))}


def one_bad_batch() -> Any:
    return fit(Recurrent(bad=(5,)), GradientClipping(max_norm=0.5))


def one_bad_batch_fused() -> Any:
    return fit(Recurrent(bad=(5,), fused=True), GradientClipping(max_norm=0.5))


def one_bad_batch_accumulated() -> Any:
    return fit(Recurrent(bad=(4,)), GradientClipping(max_norm=0.5), accumulate_grad_batches=4)


def one_bad_batch_without_synchronisation() -> Any:
    return fit(Local(bad=(5,)), GradientClipping(max_norm=0.5))


def budget_stops() -> Any:
    return fit(Recurrent(bad=tuple(range(3, 40))), GradientClipping(max_skipped=3))


def budget_stops_without_synchronisation() -> Any:
    return fit(Local(bad=tuple(range(3, 40)), fused=True), GradientClipping(max_skipped=3))


def budget_raises() -> Any:
    return fit(Recurrent(bad=tuple(range(3, 40))), GradientClipping(max_skipped=3, on_error="raise"))


SCENARIOS: list[Callable[[], Any]] = [
    max_norm, percentile, agc, one_bad_batch, one_bad_batch_fused, one_bad_batch_accumulated,
    one_bad_batch_without_synchronisation, budget_stops, budget_stops_without_synchronisation, budget_raises, sharded,
    flat_shards,
]  # fmt: skip

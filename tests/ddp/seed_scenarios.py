"""What seed-everything promises under DDP, as small runs; started by test_seed_ddp.py, once a rank."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from lightning_rules import SeedEverything


def augmented(index: int) -> dict[str, Any]:
    return {"index": index, "noise": torch.tensor([float(torch.rand(())), np.random.rand(), random.random()])}


class Augmented(Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return augmented(index)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return map(augmented, range(RANK, 32, WORLD))


class Shuffled(Sampler):
    """Draws its order from Python's generator."""

    def __len__(self) -> int:
        return 32

    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(32), 32))


class Model(L.LightningModule):
    def __init__(self, late: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.late = late
        self.noise: list[Any] = []
        self.order: list[int] = []

    def configure_model(self) -> None:
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1))

    def on_fit_start(self) -> None:
        nn.init.orthogonal_(self.net[0].weight)

    def on_train_start(self) -> None:
        nn.init.normal_(self.net[2].weight)
        if self.late:
            self.late()
            nn.init.normal_(self.net[2].weight)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.noise += batch["noise"].flatten().tolist()
        self.order += batch["index"].tolist()
        return self.net(batch["noise"]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


def own(worker: int) -> None:
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)


def fit(rule: Any, data: Any = None, seed: int | None = None, model: Any = None, **options: Any) -> dict[str, Any]:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
    if seed is not None:
        L.seed_everything(seed, workers=False, verbose=False)
    else:  # each rank comes from somewhere else
        torch.seed(), random.seed(), np.random.seed()
    model = model or Model()
    ckpt_path = options.pop("ckpt_path", None)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        callbacks=[*([rule] if rule else []), *options.pop("callbacks", [])],
        **{**quiet, "max_epochs": 2, **options},
    )
    data = DataLoader(Augmented(), 4, shuffle=True) if data is None else data
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return {
        "noise": model.noise,
        "order": model.order,
        "weights": torch.cat([p.flatten() for p in model.parameters()]).tolist(),
        "said": [[str(f.severity), f.message] for f in rule.findings] if rule else [],
        "seed": rule.findings[0].evidence["seed"] if rule else None,
    }


def loader(workers: int, **options: Any) -> Any:
    sampler = options.get("sampler")
    return DataLoader(Augmented(), 4, shuffle=sampler is None, num_workers=workers, **options)


def plain_main_process() -> Any:
    return fit(None, loader(0), seed=7)


def plain_workers() -> Any:
    return fit(None, loader(2), seed=7)


def main_process() -> Any:
    return fit(SeedEverything(7), loader(0))


def main_process_again() -> Any:
    return fit(SeedEverything(7), loader(0))


def workers() -> Any:
    return fit(SeedEverything(7), loader(2))


def workers_again() -> Any:
    return fit(SeedEverything(7), loader(2))


def persistent_workers() -> Any:
    return fit(SeedEverything(7), loader(2, persistent_workers=True))


def own_worker_init_fn() -> Any:
    return fit(SeedEverything(7), loader(2, worker_init_fn=own))


def own_generator_and_worker_init_fn() -> Any:
    return fit(SeedEverything(7), loader(2, worker_init_fn=own, generator=torch.Generator().manual_seed(1)))


def own_sampler() -> Any:
    return fit(SeedEverything(7), loader(0, sampler=Shuffled()))


def own_sampler_with_workers() -> Any:
    return fit(SeedEverything(7), loader(2, sampler=Shuffled()))


def stream() -> Any:
    return fit(SeedEverything(7), DataLoader(Stream(), 4))


def fresh() -> Any:
    seen = fit(SeedEverything(mode="fresh"))
    Path(f"{RANK}.json").write_text(json.dumps(seen["seed"]))
    return seen


def fresh_repeated() -> Any:
    return fit(SeedEverything(json.loads(Path(f"../fresh/{RANK}.json").read_text())))


def resumed_within_an_epoch() -> Any:
    save = ModelCheckpoint(".", "a", every_n_train_steps=6)  # four steps an epoch
    options = {"enable_checkpointing": True, "max_epochs": -1}
    before = fit(SeedEverything(7), loader(0), callbacks=[save], max_steps=6, **options)
    after = fit(SeedEverything(7), loader(0), max_steps=10, ckpt_path="a.ckpt", **options)
    return {**after, "before": before["noise"]}


def weights_that_differ() -> Any:
    return fit(SeedEverything(7), model=Model(late=torch.seed))


def default_with_workers() -> Any:
    return fit(SeedEverything(), loader(2), seed=7)


def default_in_the_main_process() -> Any:
    return fit(SeedEverything(), loader(0), seed=7)


WORLDS = (2,)
SCENARIOS: list[Callable[[], Any]] = [
    plain_main_process, plain_workers, main_process, main_process_again, workers, workers_again, persistent_workers,
    own_worker_init_fn, own_generator_and_worker_init_fn, own_sampler, own_sampler_with_workers, stream, fresh,
    fresh_repeated, resumed_within_an_epoch, weights_that_differ, default_with_workers, default_in_the_main_process,
]  # fmt: skip

"""What distillation and cascades promise under DDP; run by combine_scenarios.py, whose start they share."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from scenarios import RANK, WORLD
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_rules import Cascade, Distillation


class Net(L.LightningModule):
    """Classes of four features."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return 3 * self.net(inputs)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Reader(Net):
    """Reads the class off the first feature, with some noise."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, inputs: Tensor) -> Tensor:
        value = inputs[:, :1] + self.noise * torch.sin(1e3 * inputs[:, 1:2])
        return -3 * (value - torch.tensor([-0.8, 0.35, 1.4])).square()


def trainer(*callbacks: Any, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def data(count: int) -> TensorDataset:
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
    return TensorDataset(features, (features[:, 0] > 0).long() + (features[:, 0] > 0.7).long())


def teacher(name: str = "teacher.ckpt") -> str:
    """The same file in the folder of each scenario."""
    module = Net(32, seed=1)
    hyper_parameters = {**module.hparams, "_class_path": f"{__name__}.Net"}
    if RANK == 0:
        torch.save({"state_dict": module.state_dict(), "hyper_parameters": hyper_parameters}, f"{name}.{RANK}")
        Path(f"{name}.{RANK}").replace(name)
    while not Path(name).is_file():
        time.sleep(0.01)
    return name


def distil() -> Any:
    rule, student = Distillation(teacher(), temperature=2.0, mixing=0.8), Net()
    order = DistributedSampler(data(64), WORLD, RANK, shuffle=False)  # Lightning would shuffle on two ranks alone
    run = trainer(rule, max_epochs=2, logger=False, use_distributed_sampler=False)
    run.fit(student, DataLoader(data(64), 8 // WORLD, sampler=order))
    (values,) = Path("teacher.ckpt.soft-targets").rglob("targets.bin")
    return {
        "weights": [parameter.flatten().tolist() for parameter in student.parameters()],
        "cache": hashlib.sha256(values.read_bytes()).hexdigest(),
        "done": list(values.with_suffix(".done").read_bytes()),
        "said": [finding.message for finding in rule.findings],
    }


def refused() -> Any:
    """One rank's file is damaged: all ranks refuse, and none waits for ever."""
    path = teacher()
    if RANK == WORLD - 1:
        Path("broken.ckpt").write_bytes(Path(path).read_bytes()[:100])
        path = "broken.ckpt"
    try:
        trainer(Distillation(path), max_epochs=1, logger=False).fit(Net(), DataLoader(data(64), 8))
    except ValueError as error:
        return str(error)
    return "trained"


def cascade() -> Any:
    """65 examples on two ranks: Lightning's sampler repeats one of them."""
    model = Cascade([Reader(1.0), Reader(0.5), Reader(0.0)], accuracy=0.85, risk=0.5, costs=[1.0, 3.0, 9.0])
    run = trainer(default_root_dir=".", logger=False)
    (checked,) = run.validate(model, DataLoader(data(65), 8 // WORLD), verbose=False)
    (tested,) = run.test(model, DataLoader(data(65), 8 // WORLD), verbose=False)
    written = sorted(path.name for path in Path("cascade").iterdir())
    return {
        "thresholds": model.thresholds,
        "refuse_under": model.refuse_under,
        "checked": checked,
        "tested": tested,
        "written": written,
    }


SCENARIOS = (distil, refused, cascade)

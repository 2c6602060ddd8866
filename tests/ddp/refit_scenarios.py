"""What a refit promises under DDP, as small runs; started by test_refit_ddp.py, once a rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fits_scenarios import Foreign, Reader, shared, trainer_with
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_recipe.runs.all_data import use_all_data
from lightning_recipe.runs.refit_callbacks import StartFrom, StopAtStep


def refitted() -> Any:
    reader, data = Reader(), Foreign()
    use_all_data("anew", data, reader)
    keeper = ModelCheckpoint(str(Path.cwd() / "restarted"), save_on_train_epoch_end=True)
    trainer = trainer_with(StopAtStep(11), keeper, epochs=4)
    trainer.fit(reader, datamodule=data)
    path = trainer.strategy.broadcast(keeper.best_model_path)
    told = {"restarted": trainer.global_step, "train": shared(reader)["train"]}
    torch.manual_seed(torch.initial_seed() + trainer.global_rank)  # weights that no rank shares with another
    further = Reader()
    trainer = trainer_with(StartFrom(path), ModelCheckpoint(str(Path.cwd() / "continued")), epochs=1)
    trainer.fit(further, datamodule=data)
    weights = [further.layer.weight.flatten().tolist()]
    first = torch.load(path, weights_only=True)["state_dict"]["layer.weight"].flatten().tolist()
    return {**told, "continued": trainer.global_step, "weights": weights, "from": first}


SCENARIOS: list[Callable[[], Any]] = [refitted]

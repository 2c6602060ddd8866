"""Lightning's delayed EMA validates, saves and ends with the initial weights; ours does not."""

from __future__ import annotations

import shutil
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from lightning_rules import MovingAverage


class Seen(L.Callback):
    """The first weight at each validation."""

    def __init__(self) -> None:
        self.weights: list[Any] = []

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if not trainer.sanity_checking and rest[1] == 0:
            self.weights.append(pl_module.net[0].weight.detach().clone())


def run(average: Any, classifier: Any, data: Any, trainer: Any, **options: Any) -> tuple[Any, Any, Any]:
    shutil.rmtree("kept", ignore_errors=True)
    torch.manual_seed(0)
    module, seen = classifier(), Seen()
    initial = module.net[0].weight.detach().clone()
    keep = ModelCheckpoint("kept", save_top_k=-1, filename="{epoch}")
    L.seed_everything(0, verbose=False)
    fitted = trainer(callbacks=[average, seen, keep], enable_checkpointing=True, **options)
    fitted.fit(module, datamodule=data)
    return module, seen.weights, initial


def saved(epoch: int) -> Any:
    return torch.load(f"kept/epoch={epoch}.ckpt", weights_only=True)["state_dict"]["net.0.weight"]


def test_lightning_validates_initial_weights_and_we_do_not(classifier: Any, data: Any, trainer: Any) -> None:
    options = {"update_starting_at_epoch": 1, "update_every_n_steps": 0, "decay": 0.9}
    _, theirs, initial = run(EMAWeightAveraging(**options), classifier, data, trainer)
    assert torch.equal(theirs[0], initial)  # the fault; if this goes red, Lightning has mended it
    assert torch.equal(saved(0), initial)
    _, ours, initial = run(MovingAverage(**options), classifier, data, trainer)
    assert not torch.equal(ours[0], initial)
    assert torch.equal(saved(0), ours[0])


def test_a_run_that_ends_before_the_average_begins_ends_with_what_it_trained(
    classifier: Any, data: Any, trainer: Any
) -> None:
    module, seen, initial = run(EMAWeightAveraging(update_starting_at_step=999), classifier, data, trainer)
    assert torch.equal(module.net[0].weight, initial)
    module, seen, _ = run(MovingAverage(update_starting_at_step=999), classifier, data, trainer)
    assert torch.equal(module.net[0].weight, seen[-1])


def test_once_begun_all_is_lightnings(classifier: Any, data: Any, trainer: Any) -> None:
    theirs, seen_theirs, _ = run(EMAWeightAveraging(decay=0.9), classifier, data, trainer)
    ours, seen_ours, _ = run(MovingAverage(decay=0.9), classifier, data, trainer)
    assert torch.equal(theirs.net[0].weight, ours.net[0].weight)
    assert all(map(torch.equal, seen_theirs, seen_ours))


@pytest.mark.parametrize("resumed_from", [0, 1])
def test_a_resumed_run_goes_on_as_it_was(classifier: Any, data: Any, trainer: Any, resumed_from: int) -> None:
    options = {"update_starting_at_epoch": 1, "update_every_n_steps": 0, "decay": 0.5}
    whole, _, _ = run(MovingAverage(**options), classifier, data, trainer, max_epochs=4)
    L.seed_everything(0, verbose=False)
    average, module = MovingAverage(**options), classifier()
    fitted = trainer(callbacks=[average], max_epochs=resumed_from + 1)
    fitted.fit(module, datamodule=data, ckpt_path=f"kept/epoch={resumed_from}.ckpt", weights_only=True)
    assert average.has_begun == (resumed_from == 1)
    assert torch.equal(module.net[0].weight, saved(resumed_from))
    assert whole is not module

"""The callbacks of `refit` in real fits: steps as asked for, rates as they were, weights and optimisers from a file."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.runs.refit_callbacks import StartFrom, StopAtStep

QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


class Line(L.LightningModule):
    """A line through 40 points; keeps the rate of each step."""

    def __init__(self, schedule: str | None = "cosine", width: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(1, width)
        self.schedule = schedule
        self.rates: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return (self.layer(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", (self.layer(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if self.schedule is None:
            return optimizer
        if self.schedule == "plateau":
            waiting = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": waiting, "monitor": "val/loss"}}
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class ByHand(Line):
    """Steps for itself."""

    automatic_optimization = False


def loader(count: int = 40, shuffle: bool = True) -> DataLoader[Any]:
    x = torch.linspace(-1, 1, count)[:, None]
    return DataLoader(TensorDataset(x, 3 * x + 1), batch_size=8, shuffle=shuffle)


def trained(callbacks: list[L.Callback], model: Line | None = None, count: int = 40, **options: Any) -> L.Trainer:
    keeper = L.pytorch.callbacks.ModelCheckpoint(dirpath=str(Path.cwd()), save_on_train_epoch_end=True)
    chosen = {"max_epochs": 4, "accelerator": "cpu", "callbacks": [*callbacks, keeper], **QUIET, **options}
    trainer = L.Trainer(**chosen)
    trainer.fit(model or Line(), loader(count), loader())
    return trainer


def saved(trainer: L.Trainer) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)  # type: ignore[union-attr]
    return checkpoint


@pytest.mark.parametrize("step", [1, 5, 13, 20])
def test_a_fit_ends_at_the_step_with_the_rates_of_the_longer_one(step: int) -> None:
    whole, part = Line(), Line()
    trained([], whole)
    trainer = trained([StopAtStep(step)], part, 80, limit_train_batches=5, limit_val_batches=0)
    assert trainer.global_step == step
    assert part.rates == whole.rates[:step]
    assert len(whole.rates) == 20
    assert saved(trainer)["global_step"] == step, "the last weights are kept, in mid-epoch too"


def test_steps_are_those_of_optimisers_where_gradients_are_gathered() -> None:
    assert trained([StopAtStep(3)], accumulate_grad_batches=2, limit_val_batches=0).global_step == 3


def test_what_cannot_end_so_is_refused() -> None:
    with pytest.raises(ValueError, match="waits for a validation metric cannot be followed without one"):
        trained([StopAtStep(3)], Line("plateau"))
    with pytest.raises(ValueError, match="does not shuffle, so that epochs as long as before would never come to"):
        L.Trainer(max_epochs=1, limit_train_batches=2, callbacks=[StopAtStep(3)], **QUIET).fit(
            Line(), loader(shuffle=False)
        )
    with pytest.raises(ValueError, match="Expected a fit to end after 1 step or more, but got 0"):
        StopAtStep(0)


class Seen(L.Callback):
    """What the first step finds."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
            (state,) = list(trainer.optimizers[0].state_dict()["state"].values())[:1]
            self.momentum = state["momentum_buffer"].clone()


@pytest.fixture
def checkpoint() -> str:
    trainer = trained([StopAtStep(7)])
    path = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    return str(path.rename("stopped.ckpt"))


def test_a_fit_begins_where_another_stood_and_holds_its_rate(checkpoint: str) -> None:
    then = torch.load(checkpoint, weights_only=True)
    (group,) = then["optimizer_states"][0]["param_groups"]
    seen, model = Seen(), Line()
    trainer = trained([StartFrom(checkpoint), seen], model, max_epochs=2)
    assert trainer.global_step == 10
    assert all(torch.equal(seen.weights[name], value) for name, value in then["state_dict"].items())
    assert torch.equal(seen.momentum, then["optimizer_states"][0]["state"][0]["momentum_buffer"])
    assert 0 < group["lr"] < 0.1
    assert model.rates == [group["lr"]] * 10
    assert not torch.equal(model.layer.weight, then["state_dict"]["layer.weight"])


def test_weights_are_there_for_validation_alone(checkpoint: str) -> None:
    model = Line()
    L.Trainer(callbacks=[StartFrom(checkpoint)], **QUIET).validate(model, loader(), verbose=False)
    assert torch.equal(model.layer.weight, torch.load(checkpoint, weights_only=True)["state_dict"]["layer.weight"])


def test_what_cannot_begin_so_is_refused(checkpoint: str) -> None:
    with pytest.raises(ValueError, match=r"weights in stopped\.ckpt are not those of Line \(size mismatch for layer"):
        trained([StartFrom(checkpoint)], Line(width=2))
    with pytest.raises(ValueError, match="ByHand steps its schedule by itself, so that the rate cannot be held"):
        trained([StartFrom(checkpoint)], ByHand())
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint gone\.ckpt"):
        trained([StartFrom("gone.ckpt")])
    held = torch.load(checkpoint, weights_only=True)
    torch.save({**held, "optimizer_states": []}, checkpoint)
    with pytest.raises(ValueError, match="holds the states of 0 optimisers, and the model has 1"):
        trained([StartFrom(checkpoint)])


def test_a_fit_that_goes_on_ends_below_its_threshold_or_at_its_cap(checkpoint: str) -> None:
    def ended(threshold: float) -> int:
        below = L.pytorch.callbacks.EarlyStopping("val/loss", stopping_threshold=threshold, patience=10**9)
        return trained([StartFrom(checkpoint), below], max_epochs=3).current_epoch

    assert ended(1e9) == 1
    assert ended(0.0) == 3

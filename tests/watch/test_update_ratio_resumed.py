"""update-ratio in a run that is resumed: what was seen between steps before the break counts after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import UpdateRatio
from lightning_rules.finding import Severity


class Model(L.LightningModule):
    """Its weights are drawn anew in two epochs: one before the break, one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_epoch_start(self) -> None:
        if self.current_epoch in (1, 3):
            torch.manual_seed(self.current_epoch)
            self.net.apply(lambda layer: layer.reset_parameters() if isinstance(layer, nn.Linear) else None)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


def fit(epochs: int, resume: Path | None = None, save: Path | None = None) -> UpdateRatio:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(640, 8), torch.arange(640) % 3)
    rule = UpdateRatio()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[rule], **quiet)
    trainer.fit(Model(), DataLoader(data, 32, shuffle=True), ckpt_path=resume)
    if save is not None:
        trainer.save_checkpoint(save)
    return rule


def alarms(rule: UpdateRatio) -> list[str]:
    return [one.rule for one in rule.findings if one.severity >= Severity.WARNING]


@pytest.mark.filterwarnings("ignore")
def test_what_was_seen_before_the_break_counts(tmp_path: Path) -> None:
    before = fit(2, save=tmp_path / "half.ckpt")
    assert alarms(before) == [], "once is no alarm"
    after = fit(5, resume=tmp_path / "half.ckpt")
    assert alarms(after) == ["weights-overwritten"]
    (message,) = [one.message for one in after.findings if one.rule == "weights-overwritten"]
    assert "2 of the last 3 epochs" in message
    (held,) = after._held.values()
    (was,) = before._held.values()
    assert held.samples > was.samples
    assert held.replaced == 0, "the optimiser of the resumed run is another object, and no replacement"

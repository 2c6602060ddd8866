"""Several models asked about the same examples, in one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn

from lightning_rules.combine.collector import Collector
from lightning_rules.combine.reading import Reading, call, read, reading_of, targets_of
from lightning_rules.combine.scores import comparable_targets, known


class Jury(L.LightningModule):
    """Asks modules about each example of ``trainer.test(jury, ...)``; exact under DDP, the same on every rank.

    Attributes:
        values: What each module said of each example [M, N, ...], in the order of the data set, once it is tested.
        targets: Their targets.
        reading: Of the first module; the task is that of all.

    Args:
        modules: Modules that answer the same question.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.modules_asked = nn.ModuleList(modules)
        self.readings: list[Reading] = []
        self.values = self.targets = torch.empty(0)
        self._collector = Collector()

    @property
    def reading(self) -> Reading:
        """How the answers are read."""
        return self.readings[0]

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Ask all modules.

        Raises:
            ValueError: They differ in their task or in the number of their outputs.
        """
        if not self.readings:
            self.readings = [reading_of(module, batch) for module in self.modules_asked]
        both = zip(self.modules_asked, self.readings, strict=True)
        values = [read(call(module, batch), reading).values for module, reading in both]
        asked = {(reading.task, value.shape) for reading, value in zip(self.readings, values, strict=True)}
        if len(asked) > 1:
            shown = ", ".join(f"{task} {list(shape[1:])}" for task, shape in sorted(asked))
            raise ValueError(f"The models to be compared answer different questions ({shown}): name others.")
        targets = comparable_targets(targets_of(self.modules_asked[0], batch), values[0], self.reading.task)
        self._collector.add(self.trainer.test_dataloaders, dataloader_idx, torch.stack(values, dim=1), targets)

    def on_test_epoch_end(self) -> None:
        """Gather."""
        values, targets = self._collector.gathered(self.trainer)
        with_target = known(targets, values[:, 0], self.reading.task)
        self.values, self.targets = values[with_target].movedim(1, 0), targets[with_target]

"""The callback that keeps what a model says of the examples that it was held out from, one table for each fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Subset

from lightning_recipe.predictions import write_table
from lightning_recipe.runs.fit_record import reason_of
from lightning_rules.combine.collector import Collector
from lightning_rules.combine.reading import Reading, Task, call, probabilities, read, reading_of, targets_of
from lightning_rules.combine.scores import comparable_targets


class HeldOutPredictions(Callback):
    """Writes what the model answers to each test example, with what is right, whatever LightningModule it is.

    A table `PATH.csv` for answers that are a few numbers an example: `file` or `index` (of the example in the data),
    then for classes `true`, `predicted` and one `p(CLASS)` for each class; for yes and no `true(NAME)`, `p(NAME)`; for
    values `true(k)`, `predicted(k)`. Other answers, as for segmentation, go to `PATH.npz` as arrays `values`, `targets`
    and `index`. A model that cannot be read loses its predictions and nothing else; a warning says why.

    The model is asked once more about each batch of the test, which costs a forward pass. Under DDP the answers of all
    ranks are gathered, each example once, and rank 0 writes.

    Args:
        path: Where to write, without an ending.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._collector = Collector()
        self._reading: Reading | None = None
        self._complaint = ""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._collector, self._reading, self._complaint = Collector(), None, ""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the model about the batch."""
        if self._complaint:
            return
        try:
            if self._reading is None:
                self._reading = reading_of(pl_module, batch)
            values = read(call(pl_module, batch), self._reading).values
            targets = comparable_targets(targets_of(pl_module, batch), values, self._reading.task)
            answers = probabilities(values, self._reading.task)
            self._collector.add(trainer.test_dataloaders, dataloader_idx, answers, targets)
        except Exception as error:  # anybody's model, and no reason to lose the test
            self._complaint = reason_of(error)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and write."""
        gathered = self._collector.gathered(trainer)
        if self._complaint or not gathered or self._reading is None:
            reason = self._complaint or "the test gave no batch"
            rank_zero_warn(f"The predictions of {self.path.name} are not kept: {reason}.")
            return
        if not trainer.is_global_zero:
            return
        answers, targets = gathered
        names = list(getattr(getattr(trainer, "datamodule", None), "class_names", None) or ())
        key, keys = examples_of(trainer, len(answers))
        if answers.dim() == 2:
            lines = table(answers, targets, self._reading.task, names, key, keys)
            write_table(self.path.with_suffix(".csv"), lines)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            self.path.with_suffix(".npz"), values=answers.numpy(), targets=targets.numpy(), index=np.asarray(keys)
        )


def examples_of(trainer: Any, count: int) -> tuple[str, Sequence[Any]]:
    """What the test examples are called: their files, their numbers in the data, or their places in the test data."""
    loader = trainer.test_dataloaders
    loader = loader[0] if isinstance(loader, (list, tuple)) and loader else loader
    dataset = getattr(loader, "dataset", None)
    files = getattr(dataset, "paths", None)
    if files is not None and len(files) == count:
        return "file", [str(one) for one in files]
    for known in (getattr(getattr(trainer, "datamodule", None), "held_out", None), _indices(dataset)):
        if known is not None and len(known) == count:
            return "index", [int(one) for one in known]
    return "index", range(count)


def _indices(dataset: Any) -> Sequence[int] | None:
    return dataset.indices if isinstance(dataset, Subset) else None


def table(
    answers: Tensor, targets: Tensor, task: Task, names: Sequence[str], key: str, keys: Sequence[Any]
) -> list[list[Any]]:
    """A header and a line for each example.

    Args:
        answers: Probabilities or values [N, C].
        targets: Classes [N], or labels or values [N, C].
        task: What they mean.
        names: Of the classes; numbers where they do not fit.
        key: What the examples are called by: "file" or "index".
        keys: Of the examples.
    """
    columns = list(names) if len(names) == answers.shape[1] else [str(number) for number in range(answers.shape[1])]
    shown = [[f"{value:.6g}" for value in row] for row in answers.tolist()]
    if task == "multiclass":
        header = [key, "true", "predicted", *(f"p({name})" for name in columns)]
        classes = zip(targets.tolist(), answers.argmax(1).tolist(), strict=True)
        told = [[columns[true] if true >= 0 else "", columns[best]] for true, best in classes]
        return [header, *([one, *both, *row] for one, both, row in zip(keys, told, shown, strict=True))]
    word = "p" if task == "multilabel" else "predicted"
    header = [key, *(f"true({name})" for name in columns), *(f"{word}({name})" for name in columns)]
    right = [[f"{value:.6g}" for value in row] for row in torch.as_tensor(targets).reshape(len(answers), -1).tolist()]
    return [header, *([one, *true, *row] for one, true, row in zip(keys, right, shown, strict=True))]

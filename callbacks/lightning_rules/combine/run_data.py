"""The loaders of a run that models are compared on, and training batches beside them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_rules.combine.evaluation import Evaluation
from lightning_rules.loaders import copy_of, first_of
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched
from lightning_rules.view import View

STATISTICS_BATCHES = 100  # of training data, for batch norm


def evaluations(trainer: Any, owner: Any, test: bool) -> dict[str, Evaluation]:
    """The validation loader of a run, and the test loader where there is one; of several, the first.

    Raises:
        NotApplicable: There is no validation loader.
    """
    loader = first_of(trainer.val_dataloaders)
    if loader is None:
        raise NotApplicable("the run has no validation data, on which members could be compared.")
    batches = trainer.num_val_batches or [None]
    limit = batches[0] if isinstance(batches, list) else batches
    found = {"val": Evaluation(trainer, owner, loader, limit if isinstance(limit, int) else None)}
    tested = first_of(_made(trainer, owner, "test_dataloader", "test")) if test else None
    if tested is not None:
        limit = trainer.limit_test_batches
        found["test"] = Evaluation(trainer, owner, tested, limit if isinstance(limit, int) else None)
    return found


def training_batches(trainer: Any, owner: Any) -> Iterator[Any]:
    """Some training batches on the run's device, the same on every rank, and in one process at the same global batch.

    Raises:
        NotApplicable: There is no training loader, or it can be read only once.
    """
    loader = first_of(trainer.train_dataloader) or first_of(_made(trainer, owner, "train_dataloader", "fit"))
    if loader is None:
        raise NotApplicable("the run has no training loader.")
    view = View(trainer, owner)
    with untouched(None, loader):
        again = copy_of(loader, workers=True)
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset) and loader.batch_size:
            order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(0)).tolist()  # type: ignore[arg-type]
            size = min(len(order), loader.batch_size * trainer.world_size)
            again.__dict__["batch_sampler"] = BatchSampler(order, size, drop_last=True)
        for batch in islice(again, STATISTICS_BATCHES):
            yield view.to_device(batch)


def _made(trainer: Any, owner: Any, hook: str, stage: str) -> Any:
    """What a data module or a module gives for another stage than the one that runs; None where neither has it."""
    datamodule = getattr(trainer, "datamodule", None)
    for source in (datamodule, owner):
        if source is not None and _defines(source, hook):
            if source is datamodule:
                datamodule.setup(stage)
            return getattr(source, hook)()
    return None


def _defines(source: Any, hook: str) -> bool:
    """Whether the user wrote the hook, in either namespace."""
    if hook in vars(source):  # `LightningDataModule.from_datasets` sets them on the instance
        return True
    owner = next((base for base in type(source).__mro__ if hook in vars(base)), None)
    return owner is not None and owner.__module__.partition(".")[0] not in ("lightning", "pytorch_lightning")

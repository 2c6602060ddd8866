"""What a model says about every example of a loader, each once, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_rules.combine.averaging import mean_loss
from lightning_rules.combine.positions import is_divided, positions
from lightning_rules.combine.reading import Answer, Reading, call, read, reading_of, targets_of
from lightning_rules.combine.scores import Scores, comparable_targets, known, scores
from lightning_rules.loaders import copy_of
from lightning_rules.ranks import gather, raise_together
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched
from lightning_rules.view import View


@dataclass(frozen=True)
class Collected:
    """A model's answers to the examples that have a target, in the order of the data, on the host.

    Attributes:
        answer: Its answers.
        targets: Their targets, as :func:`scores.comparable_targets` has them.
    """

    answer: Answer
    targets: Tensor

    def scores(self, reading: Reading) -> Scores:
        """How good they are."""
        return scores(self.answer, self.targets, reading.task)

    def loss(self, reading: Reading) -> float:
        """Cross-entropy, binary cross-entropy, or mean squared error."""
        return float(mean_loss(self.answer, self.targets, reading.task))


@dataclass(frozen=True)
class Rows:
    """What one rank has to say about one batch."""

    places: Tensor | None
    answer: Answer
    targets: Tensor


class Evaluation:
    """A loader to be read once for each model.

    Args:
        trainer: The Trainer, in a run.
        owner: The module it runs, whose hooks move batches to its device.
        loader: A DataLoader, or another iterable that can be read again; on this rank.
        limit: How many batches to read at most on each rank; None reads all.
    """

    def __init__(self, trainer: Any, owner: Any, loader: Any, limit: int | None = None) -> None:
        self.trainer = trainer
        self.view = View(trainer, owner)
        self.loader = loader
        self.limit = limit

    def reading(self, module: nn.Module) -> Reading:
        """How to read the module's outputs, told from the first batch; the same on every rank. A collective.

        Raises:
            NotApplicable: They cannot be read; the reason is given.
        """
        found, failure = None, None
        try:
            with untouched(None, self.loader):
                batch = next(iter(copy_of(self.loader)), None)
                if batch is None:
                    raise NotApplicable("the loader gave no batch.")
                found = reading_of(module, self.view.to_device(batch))
        except Exception as error:
            failure = error
        _not_applicable(self.trainer, failure)
        return gather(self.trainer, found)[0]  # type: ignore[return-value]

    def collect(self, module: nn.Module, reading: Reading) -> Collected:
        """What the module says about each example. A collective.

        Args:
            module: On the run's device; put into evaluation mode.
            reading: How to read its outputs.

        Raises:
            NotApplicable: A rank failed, or no example has a target.
        """
        rows, failure = [], None
        try:
            with untouched(None, self.loader):
                rows = list(self._rows(module.eval(), reading))
        except Exception as error:
            failure = error
        _not_applicable(self.trainer, failure)
        return _joined([row for of_rank in gather(self.trainer, rows) for row in of_rank], reading)

    def _rows(self, module: nn.Module, reading: Reading) -> Iterator[Rows]:
        stride = self.trainer.world_size if _same_on_all_ranks(self.loader) else 1
        first = self.trainer.global_rank if stride > 1 else 0
        seen = 0
        for number, batch in enumerate(islice(_strided(self.loader, first, stride), self.limit)):
            batch = self.view.to_device(batch)
            targets = targets_of(module, batch)
            if not isinstance(targets, Tensor):
                raise NotApplicable(f"the targets of a batch are {type(targets).__name__}, and no tensor.")
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                answer = read(call(module, batch), reading)
            variances = None if answer.variances is None else answer.variances.cpu()
            rows = torch.arange(len(answer.values))
            if stride > 1:  # this rank has each so-manieth batch, all of one size but the very last
                rows += (first + number * stride) * int(self.loader.batch_size or 1)
            else:
                rows += seen
            seen += len(rows)
            known_order = stride > 1 or self.trainer.world_size == 1 or is_divided(self.loader)
            places = positions(self.loader, rows) if known_order else None
            yield Rows(places, Answer(answer.values.cpu(), variances), targets.detach().cpu())


def _same_on_all_ranks(loader: Any) -> bool:
    """Whether each rank would read all examples: a plain loader that nobody has divided."""
    numbered = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return numbered and loader.batch_size is not None and not is_divided(loader)


def _strided(loader: Any, first: int, stride: int) -> Iterator[Any]:
    """Each so-manieth batch of a loader, the others not even read."""
    again = copy_of(loader, workers=True)
    if stride > 1 and again.batch_sampler is not None:
        again.__dict__["batch_sampler"] = _Strided(again.batch_sampler, first, stride)
        yield from again
    else:
        yield from islice(again, first, None, stride)


class _Strided:
    """Each so-manieth batch of a batch sampler."""

    def __init__(self, batches: Any, first: int, stride: int) -> None:
        self.batches, self.first, self.stride = batches, first, stride

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.first, None, self.stride)

    def __len__(self) -> int:
        return len(range(self.first, len(self.batches), self.stride))


def _joined(rows: list[Rows], reading: Reading) -> Collected:
    """One table in the order of the data, each example once, those without a target left out."""
    if not rows:
        raise NotApplicable("the loader gave no batch.")
    values = torch.cat([row.answer.values for row in rows])
    targets = comparable_targets(torch.cat([row.targets for row in rows]), values, reading.task)
    order = torch.arange(len(values))
    placed = [row.places for row in rows if row.places is not None]
    if len(placed) == len(rows):
        places = torch.cat(placed)
        order = places.argsort(stable=True)
        order = order[places[order] >= 0]
    order = order[known(targets, values, reading.task)[order]]
    if not len(order):
        raise NotApplicable("no example has a target.")
    spread = [row.answer.variances for row in rows if row.answer.variances is not None]
    variances = torch.cat(spread)[order] if spread else None
    return Collected(Answer(values[order], variances), targets[order])


def _not_applicable(trainer: Any, failure: Exception | None) -> None:
    """Stop on all ranks if one of them failed, with its reason. A collective."""
    try:
        raise_together(trainer, failure)
    except (OSError, RuntimeError) as told:
        raise NotApplicable(str(told)) from failure

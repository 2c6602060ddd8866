"""What the parts of a data audit look at: a bounded sample of each split, read once and without a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_rules.data import network_seen
from lightning_rules.data.items import (
    EXAMPLES,
    FIRST,
    collated,
    column,
    drawn_by,
    has_items,
    places,
    read_items,
    row_count,
    same,
    spread,
    stir,
)
from lightning_rules.data.network_seen import Entered, LossFacts
from lightning_rules.data.stored_inputs import Stored, rows, stored_inputs
from lightning_rules.labels import agree_with_items, labels_of
from lightning_rules.loaders import are_several, first_of
from lightning_rules.rule import NotApplicable
from lightning_rules.untouched import untouched
from lightning_rules.view import View

SECONDS = 2.0  # for reading each split, about
ENTERING = 512  # examples of each split that are sent to the first layer, at most
ENTERING_BYTES = 64 * 2**20
STEPPED = 32  # examples whose loss is computed

T = TypeVar("T")


@dataclass(eq=False)
class SplitSample:
    """A bounded sample of one split, evenly spread over it.

    Attributes:
        name: ``"training"`` or ``"validation"``.
        loader: The split's loader; the first one where there are several.
        dataset: Its data set; None for a loader that has none.
        size: Examples of the set that the loader can draw; None for a stream.
        indices: Where in the set the examples of the sample stand, ``[n]``; empty for a stream.
        examples: What the set's ``__getitem__`` gave for them; for a stream, its batches taken apart, ``(input,
            target)``.
        inputs: The main input of each example, ``[n, ...]``, float32, after collation; None where shapes differ, or
            where it is no tensor.
        targets: The target of each example, ``[n, ...]``, as collated; None where there is none.
        discrete: Whether the main input holds whole numbers by type (token ids, bytes).
        input_path: Where in a batch the main input stands.
        target_path: Where in a batch the target stands; None where there is none.
        drawn: Which of the set's examples the loader's sampler can draw, indices; None for all of them.
    """

    name: str
    loader: Any
    dataset: Any
    size: int | None
    indices: list[int]
    examples: list[Any]
    inputs: Tensor | None
    targets: Tensor | None
    discrete: bool
    input_path: tuple[Any, ...] | None
    target_path: tuple[Any, ...] | None
    drawn: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether the sample is all of the split."""
        return self.size is not None and len(self.examples) >= self.size

    @property
    def says(self) -> str:
        """How much was looked at: ``"1,437 of 1,437 examples"``."""
        of = "a stream's first" if self.size is None else f"{len(self.examples):,} of"
        return f"{of} {len(self.examples) if self.size is None else self.size:,} examples"

    @cached_property
    def labels(self) -> Tensor | None:
        """The targets of the whole split where they can be read without the inputs, else those of the sample."""
        if self.size is None or self.target_path is None or self.dataset is None:
            return self.targets
        labels = labels_of(self.dataset, self.target_path)
        if labels is None or not agree_with_items(labels, self.dataset, self.target_path):
            return self.targets
        labels = labels.detach().cpu()
        return labels if self.drawn is None else labels[self.drawn]

    @cached_property
    def stored(self) -> Stored | None:
        """What lies underneath each example of the whole split, before any transform; see :func:`stored_inputs`."""
        found = None if self.size is None else stored_inputs(self.dataset)
        return found if found is None or self.drawn is None else rows(found, self.drawn)

    @cached_property
    def plain(self) -> Tensor | None:
        """What is stored, where the set hands it out as it is: the inputs of the whole split."""
        if not isinstance(self.stored, (Tensor, np.ndarray)) or self.inputs is None:
            return None
        stored = torch.as_tensor(self.stored)
        among = self.indices if self.drawn is None else torch.searchsorted(self.drawn, torch.tensor(self.indices))
        few = spread(len(self.indices), FIRST)
        alike = stored.shape[1:] == self.inputs.shape[1:] and all(
            torch.equal(stored[among[place]].float().nan_to_num(), self.inputs[place].nan_to_num()) for place in few
        )
        return stored if alike else None

    @cached_property
    def repeats(self) -> bool:
        """Whether reading an example again gives the same: no random augmentation in the set."""
        if self.size is None:
            return False
        with untouched(None, self.dataset):
            stir()
            again = [self.dataset[index] for index in self.indices[:FIRST]]
        return all(same(one, other) for one, other in zip(self.examples, again, strict=False))


class DataSeen:
    """Both splits of a run, each read when it is first asked for.

    Memory: at most 128 MiB a split, and as much again while its examples are collated.

    Args:
        view: The run.
        seconds: How long the reading of each split may take, about.
    """

    def __init__(self, view: View, seconds: float = SECONDS) -> None:
        self.view = view
        self.seconds = seconds
        self._refusals: dict[str, NotApplicable] = {}

    @cached_property
    def train(self) -> SplitSample:
        """The training split.

        Raises:
            NotApplicable: There is no training loader, or its data can be read only once.
        """
        loader = first_of(self.view.trainer.train_dataloader)
        return self._once("reading the training set", lambda: self._read("training", loader))

    @cached_property
    def validation(self) -> SplitSample | None:
        """The (first) validation split, or None where the run has none, or it cannot be read beside the run."""
        loaders = self.view.validation_loaders
        if not loaders:
            return None
        try:
            return self._once("reading the validation set", lambda: self._read("validation", loaders[0]))
        except NotApplicable:
            return None

    @cached_property
    def losses(self) -> tuple[tuple[LossFacts, ...], str]:
        """What the losses of one training step are called with, and why it failed, if it did."""
        if are_several(self.view.trainer.train_dataloader):
            first: list[Any] = self.view.batches(1)
            return network_seen.losses(self.view, first[0], None)
        batches = self.some(self.train, STEPPED)
        return network_seen.losses(self.view, batches[0][1], self.train.target_path)

    @property
    def labels_used(self) -> bool:
        """Whether a loss is given the batch's own targets; True where no loss was seen."""
        calls, _ = self.losses
        return not calls or any(call.own for call in calls)

    @cached_property
    def entered(self) -> Entered:
        """What enters the first weighted layer in training."""
        return self._once("the training step as far as its first layer", lambda: self._entered(self.train))

    @cached_property
    def entered_in_validation(self) -> Entered:
        """What enters the first weighted layer in validation."""
        sample = self.validation
        if sample is None:
            raise NotApplicable("the run has no validation loader.")
        return self._once("the validation step as far as its first layer", lambda: self._entered(sample))

    def _entered(self, sample: SplitSample) -> Entered:
        if sample is self.train and are_several(self.view.trainer.train_dataloader):
            raise NotApplicable("training_step takes its batches from several loaders at once.")
        if sample.input_path is None or sample.inputs is None:
            raise NotApplicable(f"the main input of the {sample.name} examples is no tensor of one shape.")
        fits = ENTERING_BYTES // max(1, sample.inputs[0].numel() * 4)
        batches = self.some(sample, max(FIRST, min(ENTERING, fits)))
        return network_seen.entered(self.view, batches, sample.input_path, sample.name == "validation")

    def some(self, sample: SplitSample, count: int) -> list[tuple[int, Any]]:
        """Batches of examples evenly spread over a sample (a stream's first), each with its number of examples."""
        if sample.size is None:
            read = self.view.batches if sample.name == "training" else self.view.validation_batches
            several: list[Any] = read(max(1, count // max(1, row_count(read(1)[0], self.view) or 1)))
            return [(row_count(batch, self.view) or 0, batch) for batch in several]
        with untouched(None, sample.loader):
            return collated(sample.loader, [sample.examples[place] for place in spread(len(sample.examples), count)])

    def _once(self, name: str, read: Callable[[], T]) -> T:
        """Refuse for the same reason when asked again, without trying again."""
        if name in self._refusals:
            raise self._refusals[name]
        try:
            return read()
        except Exception as error:
            said = f"{name} failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            self._refusals[name] = error if isinstance(error, NotApplicable) else NotApplicable(said)
            raise self._refusals[name] from error

    def _read(self, name: str, loader: Any) -> SplitSample:
        if loader is None:
            raise NotApplicable(f"the run has no {name} loader.")
        return self._items(name, loader) if has_items(loader) else self._stream(name, loader)

    def _items(self, name: str, loader: Any) -> SplitSample:
        """Examples of a set that can be indexed, and what the loader's collation makes of them."""
        dataset, size = loader.dataset, len(loader.dataset)
        drawn = drawn_by(loader)
        with untouched(None, loader):
            indices, examples = read_items(dataset, torch.arange(size) if drawn is None else drawn, self.seconds)
            batches = collated(loader, examples)
        size = size if drawn is None else len(drawn)
        return SplitSample(name, loader, dataset, size, indices, examples, *self._columns(batches), drawn)

    def _stream(self, name: str, loader: Any) -> SplitSample:
        """The first examples of what can only be read in order, taken out of its batches."""
        read = self.view.batches if name == "training" else self.view.validation_batches
        first: list[Any] = read(1)
        rows = max(1, row_count(first[0], self.view) or 1)
        several: list[Any] = read(max(1, EXAMPLES // (4 * rows)))
        batches = [(row_count(batch, self.view) or 0, batch) for batch in several]
        columns = self._columns(batches)
        known = [part for part in columns[:2] if part is not None]
        examples = list(zip(*known, strict=True))
        return SplitSample(name, loader, getattr(loader, "dataset", None), None, [], examples, *columns)

    def _columns(self, batches: list[tuple[int, Any]]) -> tuple[Tensor | None, Tensor | None, bool, Any, Any]:
        """Main input and target of all examples, whether the input is discrete, and where both stand."""
        main, target = places(batches[0][1], self.view)
        inputs, targets = column(batches, main), column(batches, target)
        discrete = inputs is not None and not inputs.is_floating_point()
        return None if inputs is None else inputs.float(), targets, discrete, main, target


__all__ = ["DataSeen", "SplitSample"]

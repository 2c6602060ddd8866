"""Asks members, soups and averaged weights about validation and test examples, and compares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_rules.combine.averaging import Average, Weighting
from lightning_rules.combine.comparison import (
    ENSEMBLE,
    Comparison,
    Criterion,
    Splits,
    compare,
    ensemble_of,
    weights_for,
)
from lightning_rules.combine.evaluation import Evaluation
from lightning_rules.combine.member_files import MemberFiles, weights_of
from lightning_rules.combine.reading import Reading
from lightning_rules.combine.run_data import evaluations, training_batches
from lightning_rules.combine.soup import estimate_batch_statistics, greedy_soup, has_batch_statistics, soup_of

AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")


def compare_all(
    trainer: Any,
    owner: Any,
    files: MemberFiles,
    test: bool,
    average: Average,
    weighting: Weighting,
    criterion: Criterion,
) -> tuple[Comparison, dict[str, dict[str, Tensor]]]:
    """Compare members, ensemble, soups and averaged weights. A collective.

    Returns:
        The comparison, the same on every rank, and the weights of the soups by name.

    Raises:
        NotApplicable: There is nothing to compare on, or a member cannot be asked.
    """
    evaluated = evaluations(trainer, owner, test)
    reading, members = None, []
    for place in range(len(files.paths)):
        with files.loaded(place) as module:
            reading = reading or evaluated["val"].reading(module)
            members.append(_ask(module, evaluated, reading))
    assert reading is not None
    weights = weights_for(weighting, [each["val"] for each in members], reading, average)
    others: dict[str, tuple[Splits, int]] = {
        ENSEMBLE: (ensemble_of(members, weights, reading, average), int((weights > 0).sum()))
    }
    soups: dict[str, dict[str, Tensor]] = {}
    if files.alike:
        kitchen = _Kitchen(trainer, owner, files, evaluated, reading)
        soups = kitchen.soups([each["val"].loss(reading) for each in members])
        others |= {name: (kitchen.said[name], 1) for name in soups}
    if files.own and _averages(trainer):
        others["averaged weights"] = (_ask_as_it_is(owner, evaluated, reading), 1)
    return compare(files.names, members, others, weights, reading, criterion), soups


def _ask(module: Any, evaluated: Mapping[str, Evaluation], reading: Reading) -> Splits:
    return {split: evaluation.collect(module, reading) for split, evaluation in evaluated.items()}


def _ask_as_it_is(owner: Any, evaluated: Mapping[str, Evaluation], reading: Reading) -> Splits:
    modes = {part: part.training for part in owner.modules()}
    try:
        return _ask(owner, evaluated, reading)
    finally:
        for part, mode in modes.items():
            part.training = mode


def _averages(trainer: Any) -> bool:
    """Whether the run ends with averaged weights."""
    return any(base.__name__ in AVERAGING for one in trainer.callbacks for base in type(one).__mro__)


class _Kitchen:
    """Makes soups, with statistics of batch norm of their own, and asks them."""

    def __init__(
        self, trainer: Any, owner: Any, files: MemberFiles, evaluated: Mapping[str, Evaluation], reading: Reading
    ) -> None:
        self.trainer, self.owner, self.files = trainer, owner, files
        self.evaluated, self.reading = evaluated, reading
        self.said: dict[str, Splits] = {}

    def soups(self, losses: list[float]) -> dict[str, dict[str, Tensor]]:
        """The uniform and the greedy soup by name, given the members' losses."""
        states = self.files.states()
        uniform = self._finished("uniform soup", soup_of(states))
        chosen, _ = greedy_soup(states, losses, self._loss)
        if len(chosen) == 1:
            return {"uniform soup": uniform}  # the greedy one is the single best
        if len(chosen) == len(states):
            return {"uniform soup": uniform}  # both are the same
        return {
            "uniform soup": uniform,
            "greedy soup": self._finished("greedy soup", soup_of([states[place] for place in chosen])),
        }

    def _loss(self, soup: Mapping[str, Tensor]) -> float:
        with self._served(soup) as module:
            return self.evaluated["val"].collect(module, self.reading).loss(self.reading)

    def _finished(self, name: str, soup: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._served(soup) as module:
            self.said[name] = _ask(module, self.evaluated, self.reading)
            return weights_of(module)

    @contextmanager
    def _served(self, soup: Mapping[str, Tensor]) -> Iterator[Any]:
        """A network with these weights, whose batch norm, if it has any, knows what its own layers give it."""
        with self.files.with_weights(soup) as module:
            if has_batch_statistics(module):
                estimate_batch_statistics(module, training_batches(self.trainer, self.owner))
            yield module

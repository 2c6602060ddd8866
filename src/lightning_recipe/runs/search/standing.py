"""How a study stands: which of its trials count, which place of the search each has, and over which ranges it goes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan

# Attributes of a trial. VOID: why it does not count, so that its place is free again.
PLACE, VOID = "place", "does not count"


class Standing:
    """The trials of a study, as they are in its storage now.

    Args:
        storage: Where the study is kept.
        name: Of the study, which need not be there yet.
        plan: What is searched.
    """

    def __init__(self, storage: BaseStorage, name: str, plan: Plan) -> None:
        self.storage, self.name, self.plan = storage, name, plan

    def all(self) -> list[FrozenTrial]:
        """All trials, in their order."""
        study = self.storage.get_study_id_from_name(self.name)
        return sorted(self.storage.get_all_trials(study, deepcopy=False), key=lambda one: one.number)

    def trials(self) -> list[FrozenTrial]:
        """The trials that count, in their order."""
        return counted(self.all())

    def trial(self, number: int) -> FrozenTrial:
        """The trial of a number."""
        return next(one for one in self.all() if one.number == number)

    def note(self, number: int, name: str, value: Any) -> None:
        """Write an attribute of a trial that has not ended."""
        study = self.storage.get_study_id_from_name(self.name)
        self.storage.set_trial_user_attr(
            self.storage.get_trial_id_from_study_id_trial_number(study, number), name, value
        )

    def take_place(self, number: int) -> int:
        """Give a trial the first free place of the search; return it."""
        place = places(self.trials())[number]
        self.note(number, PLACE, place)
        return place

    def space_at(self, place: int) -> list[Dimension]:
        """The ranges from which the trial at a place is drawn."""
        return space_of_round(self.plan, self.trials(), self.plan.round_of(place))


def counted(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count."""
    return [one for one in trials if VOID not in one.user_attrs]


def places(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The places of trials in the search, from 0, by their numbers; who has none yet gets the first that is free.

    Args:
        trials: Those that count, in their order.
    """
    found = {one.number: one.user_attrs[PLACE] for one in trials if PLACE in one.user_attrs}
    free = (place for place in range(2 * len(trials) + 1) if place not in set(found.values()))
    return {one.number: found[one.number] if one.number in found else next(free) for one in trials}


def next_place(trials: Sequence[FrozenTrial]) -> int:
    """The first place that no trial has."""
    taken = set(places(trials).values())
    return next(place for place in range(len(taken) + 1) if place not in taken)


def has_value(trial: FrozenTrial) -> bool:
    """Whether a trial came to its end with a value."""
    return trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)


def best_of(plan: Plan, trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The best of the trials that came to their end, the first of several; None where there is none."""
    best: FrozenTrial | None = None
    for one in trials:
        if has_value(one) and plan.objective.is_better(one.value or 0.0, best.value if best is not None else None):
            best = one
    return best


def space_of_round(plan: Plan, trials: Sequence[FrozenTrial], number: int) -> list[Dimension]:
    """The ranges of a round: those given, halved around the best of all rounds before, once for each of them.

    Args:
        plan: The search.
        trials: Those that count.
        number: The round, from 0.
    """
    space, at = list(plan.space), places(trials)
    for earlier in range(number):
        best = best_of(plan, (one for one in trials if plan.round_of(at[one.number]) <= earlier))
        if best is not None:
            drawn = best.params
            space = [
                now.narrowed(drawn[now.key], given) if now.key in drawn else now
                for now, given in zip(space, plan.space, strict=True)
            ]
    return space


def values_of(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    """What a trial gives to `fit`, by the names of the options."""
    return {one.name: one.value(trial.params[one.key]) for one in plan.space if one.key in trial.params}

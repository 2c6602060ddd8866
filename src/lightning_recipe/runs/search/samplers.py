"""How the points of a search are chosen: samplers and pruners by name, all of it fixed by one seed."""

import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch.quasirandom import SobolEngine

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan, grid_shape
from lightning_recipe.runs.search.standing import Standing

AT_RANDOM = 10  # trials before a sampler begins to learn from them


class SeededSampler(BaseSampler):
    """Draws as another sampler does, made anew for each trial with a seed that follows from the trial's place.

    So a search that was killed and goes on draws what it would have drawn, and machines that share a study draw
    different points.

    Args:
        make: Makes the sampler of a seed.
        seed: That of the search.
        standing: Knows all trials of the study; a sampler is shown those of a hyperband's bracket.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, standing: Standing) -> None:
        self._make, self._seed, self._standing = make, seed, standing
        self._inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        own = np.random.SeedSequence([self._seed, self._standing.take_place(trial.number)])
        self._inner = self._make(int(own.generate_state(1)[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler of this trial does."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler of this trial does."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler of this trial does."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As the sampler of this trial does."""
        self._inner.after_trial(study, trial, state, values)


class ListedSampler(BaseSampler):
    """Takes the points of a list: of a grid, or of a sequence that fills the space evenly.

    Args:
        standing: Knows the places of trials.
        point: The point of a space at a place of the search, by the names in the study.
    """

    def __init__(self, standing: Standing, point: Callable[[Sequence[Dimension], int], Mapping[str, Any]]) -> None:
        self._standing, self._point = standing, point
        self._space: Sequence[Dimension] = ()
        self._place = 0

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Find the place and the ranges of this trial."""
        self._place = self._standing.take_place(trial.number)
        self._space = self._standing.space_at(self._place)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions."""
        return {one.key: one.distribution() for one in self._space}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point at the trial's place."""
        return dict(self._point(self._space, self._place))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The same, of one dimension."""
        return self._point(self._space, self._place)[param_name]


def make_sampler(plan: Plan, standing: Standing) -> BaseSampler:
    """The sampler that a plan names.

    Args:
        plan: The search.
        standing: Knows the places of trials.

    Raises:
        ImportError: If it needs a package that is not installed.
    """
    if plan.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise ImportError("--sampler cmaes needs the package cmaes, which is not installed: `pip install cmaes`.")
    if plan.sampler == "grid":
        return ListedSampler(standing, lambda space, place: grid_point(space, plan.round_size, place))
    if plan.sampler == "qmc":
        return ListedSampler(standing, lambda space, place: sobol_point(space, plan.seed, place))
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "random": lambda seed: RandomSampler(seed=seed),
        "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=AT_RANDOM, constant_liar=True),
        "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=AT_RANDOM),
        "cmaes": lambda seed: CmaEsSampler(seed=seed, n_startup_trials=AT_RANDOM, warn_independent_sampling=False),
    }
    return SeededSampler(makers[plan.sampler], plan.seed, standing)


def grid_point(space: Sequence[Dimension], trials: int, place: int) -> dict[str, Any]:
    """The point of a grid of at most so many points; beyond its end it begins anew.

    Args:
        space: The dimensions, fewer than four.
        trials: The most points that the grid may have.
        place: From 0.
    """
    shape = grid_shape(space, trials)
    grid = list(itertools.product(*(one.points(count) for one, count in zip(space, shape, strict=True))))
    return dict(zip((one.key for one in space), grid[place % len(grid)], strict=True))


def sobol_point(space: Sequence[Dimension], seed: int, place: int) -> dict[str, Any]:
    """The point of a scrambled Sobol sequence (Owen, 1998), which leaves smaller gaps than chance does.

    Args:
        space: The dimensions.
        seed: Of the scrambling.
        place: From 0.
    """
    shares = SobolEngine(len(space), scramble=True, seed=seed).fast_forward(place).draw(1)[0].tolist()  # type: ignore[no-untyped-call]
    return {one.key: one.at(share) for one, share in zip(space, shares, strict=True)}


def make_pruner(name: str, validations: int | None) -> BasePruner:
    """The pruner of a name; it counts validations, which are the same for all sizes of batches.

    Args:
        name: "none", "median" or "hyperband".
        validations: How many a whole fit has, if that is known.
    """
    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=validations or "auto")
    return NopPruner()

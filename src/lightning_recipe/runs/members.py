"""The fits of an ensemble: the same settings, each with its own seed, data and folder."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning_recipe.runs.fit import Fit, Settings, base_seed, make_fit

How = Literal["seeds", "folds", "snapshots", "bagging"]

ENSEMBLE = "lightning_rules.Ensemble"
# The comparison of finished members trains nothing, and keeps no checkpoints of its own.
NOTHING_TRAINED: Settings = {"enable_checkpointing": False, "max_time": None}


def make_members(settings: Settings, how: How, number: int, folder: Path, ensemble: Settings) -> list[Fit]:
    """The fits that an ensemble needs.

    Args:
        settings: All settings of `fit` as the user gave them.
        how: What the members differ in. "seeds": the seed; "bagging": that, and a bootstrap sample each; "folds": that,
            and the fold each leaves out of its training data; "snapshots": nothing, for they are taken in one fit.
        number: How many members.
        folder: The folder of the ensemble.
        ensemble: Options of the callback `Ensemble`, for snapshots.
    """
    seed = base_seed(settings)
    if how == "snapshots":
        callback = {"class_path": ENSEMBLE, "init_args": {"members": "snapshots", "cycles": number, **ensemble}}
        return [make_fit(settings, folder, "snapshots", {"seed_everything": seed}, [callback])]
    own: list[Settings] = [{"seed_everything": seed + k} for k in range(number)]
    if how == "bagging":
        own = [{**one, "bootstrap": seed + k} for k, one in enumerate(own)]
    if how == "folds":
        own = [{**one, "fold": f"{k + 1}/{number}@{seed}"} for k, one in enumerate(own)]
    return [make_fit(settings, folder, f"member_{k}", one) for k, one in enumerate(own)]


def comparison_settings(settings: Settings, folder: Path, checkpoints: Sequence[Path], ensemble: Settings) -> Settings:
    """The settings of `validate` that build the ensemble of some checkpoints and compare it with them.

    Args:
        settings: All settings of `fit` as the user gave them.
        folder: Where the ensemble is written.
        checkpoints: The members.
        ensemble: Options of the callback `Ensemble`.
    """
    changed = copy.deepcopy(settings)
    members = [str(path) for path in checkpoints]
    callback = {"class_path": ENSEMBLE, "init_args": {"members": members, **ensemble, "on_error": "raise"}}
    place = {"save_dir": str(folder), "name": "comparison"}
    log = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": place}
    trainer = {**changed["trainer"], **NOTHING_TRAINED, "logger": log, "callbacks": [callback]}
    model_and_data: Settings = {name: changed[name] for name in ("seed_everything", "model", "data") if name in changed}
    return {**model_and_data, "trainer": trainer, "rules": "none", "verbose": False}

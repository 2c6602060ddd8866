"""The configurations of an ensemble's members: the same settings of `fit`, each with its own seed, data and folder."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from lightning_recipe.runs.manifest import Entry
from lightning_recipe.whole_file import whole_file

How = Literal["seeds", "folds", "snapshots", "bagging"]
Settings = dict[str, Any]

RECORD = "lightning_recipe.runs.member_record.MemberRecord"
ENSEMBLE = "lightning_rules.Ensemble"
# Loggers whose folder is `save_dir/name/version`.
FOLDER_LOGGERS = ("CSVLogger", "TensorBoardLogger")
# The comparison of finished members trains nothing, and keeps no checkpoints of its own.
NOTHING_TRAINED: Settings = {"enable_checkpointing": False, "max_time": None}


@dataclass(frozen=True)
class Member:
    """One fit of an ensemble.

    Args:
        folder: The folder of the ensemble.
        name: What the fit is called, as in "member_2".
        settings: All settings of `fit`.
    """

    folder: Path
    name: str
    settings: Settings

    @property
    def config(self) -> Path:
        """The file that holds the settings."""
        return self.folder / f"{self.name}.yaml"

    @property
    def entry(self) -> Entry:
        """Where the fit tells how it stands."""
        return Entry(self.folder / f"{self.name}.json")

    @property
    def log(self) -> Path:
        """What the fit prints when it has a process of its own, and why it failed."""
        return self.folder / self.name / "output.log"

    @property
    def arguments(self) -> list[str]:
        """What comes after the name of the script to train this member."""
        return ["fit", "--config", str(self.config)]

    def write_config(self) -> None:
        """Write the settings, unless the member is finished or being trained: then they must be the same.

        Raises:
            ValueError: If they differ; the message names the first setting that does.
        """
        kept = self.entry.read()["status"] == "finished" or self.entry.holder() is not None
        if kept and self.config.is_file():
            then = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            difference = next(differences(then, yaml.safe_load(yaml.safe_dump(self.settings))), None)
            if difference:
                raise ValueError(
                    f"{self.name} in {self.folder} was trained with other settings ({difference}): choose another "
                    "--folder for these, or give those again."
                )
            return
        with whole_file(self.config) as file:
            yaml.safe_dump(self.settings, file, sort_keys=False)


def differences(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two settings differ, as in "trainer.max_epochs was 3 and is 5"."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*then, *now]):
            yield from differences(then.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif then != now:
        yield f"{where} was {_short(then)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def default_folder(settings: Mapping[str, Any], how: How) -> Path:
    """Where an ensemble goes: beside the logs of a single run, as in `logs/digits-seeds`."""
    first = next((one for one in _list(settings["trainer"].get("logger")) if isinstance(one, Mapping)), {})
    options = first.get("init_args") or {}
    name = options.get("name") if isinstance(options.get("name"), str) else None
    return Path(options.get("save_dir") or "logs") / f"{name or 'ensemble'}-{how}"


def make_members(settings: Settings, how: How, number: int, folder: Path, ensemble: Settings) -> list[Member]:
    """The fits that an ensemble needs.

    Args:
        settings: All settings of `fit` as the user gave them.
        how: What the members differ in. "seeds": the seed; "bagging": that, and a bootstrap sample each; "folds": that,
            and the fold each leaves out of its training data; "snapshots": nothing, for they are taken in one fit.
        number: How many members.
        folder: The folder of the ensemble.
        ensemble: Options of the callback `Ensemble`, for snapshots.
    """
    given = settings.get("seed_everything")
    seed = given if isinstance(given, int) and not isinstance(given, bool) else 0
    if how == "snapshots":
        callback = {"class_path": ENSEMBLE, "init_args": {"members": "snapshots", "cycles": number, **ensemble}}
        return [_member(settings, folder, "snapshots", {"seed_everything": seed}, [callback])]
    own: list[Settings] = [{"seed_everything": seed + k} for k in range(number)]
    if how == "bagging":
        own = [{**one, "bootstrap": seed + k} for k, one in enumerate(own)]
    if how == "folds":
        own = [{**one, "fold": f"{k + 1}/{number}@{seed}"} for k, one in enumerate(own)]
    return [_member(settings, folder, f"member_{k}", one) for k, one in enumerate(own)]


def _member(settings: Settings, folder: Path, name: str, own: Settings, callbacks: Sequence[Settings] = ()) -> Member:
    changed = {**copy.deepcopy(settings), **own, "test_after_fit": False}
    trainer = changed["trainer"]
    trainer["default_root_dir"] = str(folder / name)
    given = trainer.get("logger")
    loggers = [_own_logger(one, folder, name) for one in _list(given)]
    trainer["logger"] = loggers if isinstance(given, list) else (loggers or [given])[0]
    kept = [_own_dirpath(one, folder / name) for one in _list(trainer.get("callbacks"))]
    record = {"class_path": RECORD, "init_args": {"path": str(folder / f"{name}.json")}}
    trainer["callbacks"] = [*kept, *callbacks, record]
    return Member(folder, name, changed)


def _own_logger(logger: Any, folder: Path, name: str) -> Any:
    """A logger that writes below the ensemble's folder, into a new version for each attempt."""
    if not isinstance(logger, Mapping):
        return logger
    kind, options = logger["class_path"].rpartition(".")[2], dict(logger.get("init_args") or {})
    if kind in FOLDER_LOGGERS:
        options |= {"save_dir": str(folder.parent), "name": f"{folder.name}/{name}", "version": None}
    elif "save_dir" in options:
        options["save_dir"] = str(folder / name)
    if kind == "WandbLogger":
        options |= {"name": f"{folder.name}/{name}", "id": None, "version": None}
    return {**logger, "init_args": options}


def _own_dirpath(callback: Any, folder: Path) -> Any:
    """A callback that does not write into one folder with those of the other members."""
    options = (callback.get("init_args") or {}) if isinstance(callback, Mapping) else {}
    if not options.get("dirpath"):
        return callback
    return {**callback, "init_args": {**options, "dirpath": str(folder / Path(options["dirpath"]).name)}}


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


def _list(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]

"""One fit of a procedure: the settings of `fit` with a folder of its own, and where it tells how it stands."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_recipe.runs.manifest import Entry
from lightning_recipe.whole_file import whole_file

Settings = dict[str, Any]

RECORD = "lightning_recipe.runs.fit_record.FitRecord"
# Options of `fit` that say what share of the data it gets.
SHARES = ("fold", "held_out", "subset", "all_data", "bootstrap")
# Loggers whose folder is `save_dir/name/version`.
FOLDER_LOGGERS = ("CSVLogger", "TensorBoardLogger")


@dataclass(frozen=True)
class Fit:
    """One fit of a procedure.

    Args:
        folder: The folder of the procedure.
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
    def stop_file(self) -> Path:
        """A file that asks the fit to end early, where it looks for that."""
        return self.folder / f"{self.name}.stop"

    @property
    def arguments(self) -> list[str]:
        """What comes after the name of the script to train."""
        return ["fit", "--config", str(self.config)]

    def write_config(self) -> None:
        """Write the settings, unless the fit is finished or under way: then they must be the same.

        Raises:
            ValueError: If they differ; the message names the first setting that does.
        """
        kept = self.entry.read()["status"] in ("finished", "stopped") or self.entry.holder() is not None
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


def default_folder(settings: Mapping[str, Any], what: str, unnamed: str) -> Path:
    """Where a procedure goes: beside the logs of a single run, as in `logs/digits-seeds`.

    Args:
        settings: All settings of `fit` as the user gave them.
        what: What is done: the last part of the name.
        unnamed: The first part where no logger has a name.
    """
    first = next((one for one in as_list(settings["trainer"].get("logger")) if isinstance(one, Mapping)), {})
    options = first.get("init_args") or {}
    name = options.get("name") if isinstance(options.get("name"), str) else None
    return Path(options.get("save_dir") or "logs") / f"{name or unnamed}-{what}"


def base_seed(settings: Mapping[str, Any]) -> int:
    """The seed that fixes a procedure: the one that was given, 0 where none was or where it is to be drawn."""
    given = settings.get("seed_everything")
    return given if isinstance(given, int) and not isinstance(given, bool) else 0


def make_fit(
    settings: Settings,
    folder: Path,
    name: str,
    own: Settings,
    callbacks: Sequence[Settings] = (),
    awaits: Sequence[str] = (),
    stoppable: bool = False,
) -> Fit:
    """A fit that writes into a folder of its own and tells how it stands.

    Args:
        settings: All settings of `fit` as the user gave them.
        folder: The folder of the procedure.
        name: What the fit is called.
        own: Settings that are this fit's own.
        callbacks: Added to those of the settings.
        awaits: What the fit measures after training before it counts as finished: "test", "training"; see
            :class:`~lightning_recipe.runs.fit_record.FitRecord`.
        stoppable: Whether its `stop_file` ends it.
    """
    tested = {"test_after_fit": "test" in awaits, "measure_training": "training" in awaits}
    changed = {**copy.deepcopy(settings), **tested, **own}
    trainer = changed["trainer"]
    trainer["default_root_dir"] = str(folder / name)
    given = trainer.get("logger")
    loggers = [_own_logger(one, folder, name) for one in as_list(given)]
    trainer["logger"] = loggers if isinstance(given, list) else (loggers or [given])[0]
    kept = [_own_dirpath(one, folder / name) for one in as_list(trainer.get("callbacks"))]
    options: Settings = {"path": str(folder / f"{name}.json")}
    options |= {"awaits": list(awaits)} if awaits else {}
    options |= {"stoppable": True} if stoppable else {}
    trainer["callbacks"] = [*kept, *callbacks, {"class_path": RECORD, "init_args": options}]
    return Fit(folder, name, changed)


def _own_logger(logger: Any, folder: Path, name: str) -> Any:
    """A logger that writes below the procedure's folder, into a new version for each attempt."""
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
    """A callback that does not write into one folder with those of the other fits."""
    options = (callback.get("init_args") or {}) if isinstance(callback, Mapping) else {}
    if not options.get("dirpath"):
        return callback
    return {**callback, "init_args": {**options, "dirpath": str(folder / Path(options["dirpath"]).name)}}


def as_list(value: Any) -> list[Any]:
    """What YAML may give as one thing, a list of them, or nothing."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]

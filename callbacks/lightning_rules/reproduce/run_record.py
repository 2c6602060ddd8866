"""What brings a run back: its code, configuration, seed, versions and data, as plain values."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_rules.repository.git import GitError, NoRepository
from lightning_rules.repository.repository import Repository
from lightning_rules.reproduce.data_fingerprint import describe_data
from lightning_rules.reproduce.environment import versions
from lightning_rules.reproduce.plain_values import plain, without_secrets
from lightning_rules.reproduce.resolved_config import resolved_config

FORMAT = 1


def describe_run(trainer: Any, pl_module: Any, snapshot: bool = True) -> dict[str, Any]:
    """The record of a run: JSON-able, and loadable by ``torch.load(weights_only=True)``.

    For rank 0 alone: no collective is called. Takes a snapshot of the code, see :meth:`Repository.snapshot`. It never
    raises because of git: ``record["code"]["why_not"]`` says what is missing and why. Environment variables are not
    stored; values of options whose names could mean a secret are ``***``. What data the run has is known from
    ``on_train_start`` on.

    Args:
        trainer: The run's Trainer, of either namespace.
        pl_module: Its module.
        snapshot: Whether to store what is not committed; else the repository is only read.

    Returns:
        ``format``, ``id`` (32 hexadecimal digits), ``run`` ("digits/version_3"), ``started`` (ISO 8601, UTC),
        ``command`` (words), ``folder`` (the working folder, relative to the repository's root), ``code`` (``commit``,
        ``branch``, ``dirty``, ``snapshot``, ``left_out``, ``submodules``, ``root``, ``import_paths``, ``why_not``),
        ``config`` (YAML or None), ``config_source`` ("cli", "hparams" or None), ``masked`` (places in the
        configuration that held a secret), ``seed``, ``versions`` and ``data``.
    """
    started = datetime.now(UTC)
    record_id, run = uuid.uuid4().hex, run_name(trainer, started)
    message = f"Code of the run {run}\n\nRecord {record_id}\n" if snapshot else None
    code = describe_code(message, own_folders(trainer))
    config = resolved_config(trainer, pl_module)
    record: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "id": record_id,
            "run": run,
            "started": started.isoformat(timespec="seconds"),
            "command": _command(code["root"]),
            "folder": _below(Path.cwd(), code["root"]) or ".",
            "code": code,
            "config": config.text,
            "config_source": config.source,
            "masked": config.masked,
            "seed": _seed(),
            "versions": versions(),
            "data": describe_data(trainer),
        }
    )
    return record


def run_name(trainer: Any, started: datetime) -> str:
    """Name and version of the first logger, as in "digits/version_3"; without one, folder and time of the start."""
    logger = next(iter(trainer.loggers), None)
    with contextlib.suppress(Exception):  # a logger that needs its server
        name, version = logger.name, logger.version  # type: ignore[union-attr]
        version = f"version_{version}" if isinstance(version, int) else version
        if version or name:
            save_dir = getattr(logger, "save_dir", None)
            folder = name or (Path(save_dir).resolve().name if save_dir else "")
            return "/".join(str(part) for part in (folder, version) if part)
    return f"{Path(trainer.default_root_dir).resolve().name}/{started:%Y%m%d-%H%M%S}"


def own_folders(trainer: Any) -> list[Path]:
    """Folders that runs write to: loggers' and checkpoints', never one that the program is in."""
    folders = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    if not trainer.loggers:
        folders.append(Path(trainer.default_root_dir) / "rules")  # the findings
    for logger in trainer.loggers:
        with contextlib.suppress(Exception):
            save_dir = Path(logger.save_dir or ".")
            below = (logger.name, "wandb" if type(logger).__name__ == "WandbLogger" else None)
            folders += [save_dir, *(save_dir / name for name in below if name), getattr(logger, "log_dir", None)]
    here = Path.cwd().resolve()
    local = [Path(folder).resolve() for folder in folders if folder and "://" not in str(folder)]
    return [folder for folder in dict.fromkeys(local) if not here.is_relative_to(folder)]


def describe_code(message: str | None, exclude: list[Path]) -> dict[str, Any]:
    """The code of this program, with a snapshot of what is not committed; the sentence ``why_not`` where one fails.

    Args:
        message: Of the snapshot's commit; None for no snapshot.
        exclude: Folders that are left out.
    """
    code: dict[str, Any] = dict.fromkeys(("commit", "branch", "dirty", "snapshot", "root", "why_not"))
    code |= {"left_out": [], "submodules": {}, "import_paths": []}
    try:
        repository = Repository.find(Path.cwd())
        code |= {"root": str(repository.root), "import_paths": _import_paths(repository.root)}
        code |= {"commit": repository.commit, "branch": repository.branch}
        code["dirty"] = True  # a snapshot that is refused has something to hold
        if message is None:
            return {**code, "dirty": repository.dirty}
        snapshot = repository.snapshot(message, exclude)
    except (NoRepository, GitError) as error:
        return {**code, "why_not": str(error)}
    except OSError as error:  # the working folder is gone
        return {**code, "why_not": f"The working folder cannot be read: {error}."}
    told = {"left_out": snapshot.left_out, "submodules": snapshot.submodules}
    return {**code, **told, "dirty": snapshot.dirty, "snapshot": snapshot.commit}


def _import_paths(root: Path) -> list[str]:
    """Folders of the repository that modules were imported from, relative to its root: ``PYTHONPATH`` of a restore."""
    files = [
        Path(file).parents[hasattr(module, "__path__")]
        for name, module in list(sys.modules.items())
        if "." not in name and isinstance(file := getattr(module, "__file__", None), str)
    ]
    found = [_below(folder, root) for folder in (*map(Path, sys.path), *files) if folder.is_dir()]
    installed = {part for part in (_below(Path(sys.prefix), root), _below(Path(sys.base_prefix), root)) if part}
    return [
        path
        for path in dict.fromkeys(path for path in found if path)
        if not {"site-packages", "dist-packages"} & set(Path(path).parts)
        and not any(Path(path).is_relative_to(prefix) for prefix in installed - {"."})
    ]


def _below(path: Path, root: str | Path | None) -> str | None:
    """The path relative to a folder; None where it is not in it."""
    with contextlib.suppress(OSError, ValueError):
        return path.resolve().relative_to(Path(root).resolve()).as_posix() if root else None
    return None


def _command(root: str | None) -> list[str]:
    """The command line as it was given, the interpreter's path apart; a script of the repository is relative."""
    words = ["python", *sys.orig_argv[1:]]
    script = sys.argv[0] if sys.argv else ""
    if script in words and os.path.isabs(script) and _below(Path(script), root):
        words[words.index(script)] = os.path.relpath(script)
    return without_secrets(words)


def _seed() -> int | None:
    """The seed that Lightning's ``seed_everything``, or the rule, has set for all processes."""
    given = os.environ.get("PL_GLOBAL_SEED", "")
    return int(given) if given.isdigit() else None

"""Bring back a kept checkpoint with the code and the configuration that made it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_rules.repository.kept_runs import Kept, find_kept, intact_checkpoint
from lightning_rules.repository.repository import Repository
from lightning_rules.repository.tags import legal_part
from lightning_rules.reproduce.environment import changed, versions

WRITTEN = ("save_dir", "dirpath", "default_root_dir", "ckpt_path")
SUBCOMMANDS = ("fit", "validate", "test", "predict", "lr-find")


@dataclass(frozen=True)
class Restored:
    """What was brought back.

    Args:
        folder: The new working tree.
        checkpoint: The checkpoint, where it was found; its hash is the recorded one.
        config: The configuration; None where the record holds none.
        command: A line for the shell that evaluates the checkpoint; where the run was not started by a
            LightningCLI, the line that started it.
        resume: A line for the shell that goes on with the training; None where there is no LightningCLI.
        tag: The tag on the code; None without one.
        commit: The commit that was checked out.
        notes: What differs from then, one sentence each.
    """

    folder: Path
    checkpoint: Path
    config: Path | None
    command: str
    resume: str | None
    tag: str | None
    commit: str
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A few lines for a person."""
        lines = [f"code        {self.folder} ({self.tag or self.commit[:10]})", f"checkpoint  {self.checkpoint}"]
        lines += [f"config      {self.config}"] if self.config else []
        lines += [f"note        {note}" for note in self.notes]
        lines += ["", "evaluate:" if self.resume else "the run was started by:", f"  {self.command}"]
        lines += ["resume:", f"  {self.resume}"] if self.resume else []
        return "\n".join(lines)


def restore(what: str | Path, folder: str | Path | None = None, repository: str | Path = ".") -> Restored:
    """Check the code of a kept checkpoint out into a new working tree, beside the project, with its configuration.

    The project itself stays as it is. Everything is checked before anything is written.

    Args:
        what: A tag (``runs/digits/version_3/408-val-accuracy=0.9833``); the path of a checkpoint or of the JSON
            beside it; or the name of a run (``digits/version_3``), which means its best or newest checkpoint.
        folder: Where the code goes; by default ``<project>-<run>-<step>`` beside the project.
        repository: A folder in the repository that the code comes from.

    Returns:
        Where everything is, and how to evaluate the checkpoint or go on with the training.

    Raises:
        FileNotFoundError: There is no such tag, run or checkpoint, or the checkpoint is gone.
        ValueError: The checkpoint is not the one that was saved, it has no record, or its code is not there any more.
        GitError: git failed, the folder exists, or there is no repository.

    Example:
        >>> restored = restore("digits/version_3")  # doctest: +SKIP
        >>> print(restored.command)  # doctest: +SKIP
    """
    project = Repository.find(repository)
    kept = find_kept(what, project)
    commit = _commit(kept, project)
    checkpoint = intact_checkpoint(kept, project.root)
    default = f"{project.root.name}-{legal_part(kept.record['run'])}-{kept.record.get('step')}"
    target = (Path(folder) if folder else project.root.parent / default).absolute()
    project.add_worktree(target, commit)
    try:
        config = _write_config(kept.record, target)
    except BaseException:
        project.remove_worktree(target)
        raise
    command, resume = _commands(kept.record, target, config, checkpoint)
    notes = list(_notes(kept, project.root, target))
    return Restored(target, checkpoint, config, command, resume, kept.tag, commit, notes)


def _commit(kept: Kept, project: Repository) -> str:
    """The commit to check out, if it is there."""
    if kept.commit and project.has(kept.commit):
        return kept.commit
    left = [what for what in ("config", "versions", "data") if kept.record.get(what)]
    rest = f"its record still holds {', '.join(left) or 'nothing else'}"
    code = kept.record.get("code") or {}
    if not kept.commit:
        reason = str(code.get("why_not") or "there was no repository").rstrip(".")
        raise ValueError(f"The code of {kept.name} was not recorded ({reason}); {rest}.")
    base = code.get("commit")
    if base and base != kept.commit and project.has(base):
        rest += f", and the commit that it was based on, {base[:10]}, is there"
    raise ValueError(
        f"The code of {kept.name}, commit {kept.commit[:10]}, is not in {project.root}: it is in another clone, or "
        f"git has pruned it, for no tag held it; {rest}."
    )


def _working_folder(record: dict[str, Any], target: Path) -> Path:
    """Where in the new tree the run was started; a foreign record cannot lead out of it."""
    folder = target / str(record.get("folder") or ".")
    return folder if folder.resolve().is_relative_to(target.resolve()) else target


def _write_config(record: dict[str, Any], target: Path) -> Path | None:
    """Write the configuration where the run was started, beside a file of that name that belongs to the code."""
    if not record.get("config"):
        return None
    folder = _working_folder(record, target)
    places_ = (folder / "config.yaml", folder / "restored" / "config.yaml")
    path = next((place for place in places_ if not os.path.lexists(place)), folder / "restored" / "config-of-run.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record["config"], encoding="utf-8", newline="")
    return path


def _commands(record: dict[str, Any], target: Path, config: Path | None, checkpoint: Path) -> tuple[str, str | None]:
    """The lines that evaluate and resume; or the line that started the run, and None."""
    folder = _working_folder(record, target)
    words = [str(word) for word in record.get("command") or ["python"]]
    subcommand = next((place for place, word in enumerate(words) if word in SUBCOMMANDS), None)
    paths = [str(target / path) for path in (record.get("code") or {}).get("import_paths", [])]
    # Installed as editable, the project would else be imported from where it is installed, and not from the new tree.
    first = shlex.quote(os.pathsep.join(paths))
    modules = f'PYTHONPATH={first}"${{PYTHONPATH:+{os.pathsep}$PYTHONPATH}}" ' if paths else ""

    def line(rest: list[str]) -> str:
        return f"cd {shlex.quote(str(folder))} && {modules}{shlex.join([sys.executable, *rest])}"

    if config is None or record.get("config_source") != "cli" or subcommand is None:
        return line(words[1:]), None
    script = words[1:subcommand]
    options = ["--config", os.path.relpath(config, folder), "--ckpt_path", str(checkpoint)]
    return line([*script, "test", *options]), line([*script, "fit", *options])


def _notes(kept: Kept, root: Path, target: Path) -> Iterator[str]:
    """What is not as it was."""
    record, code = kept.record, kept.record.get("code") or {}
    if not (record.get("checkpoint") or {}).get("sha256"):
        yield "The checkpoint was not compared: no hash of it is recorded."
    different = changed(record.get("versions") or {}, versions())
    if different:
        yield f"Versions differ from then: {different}."
    if code.get("dirty") and not code.get("snapshot"):
        yield f"The working tree differed from this commit, and no snapshot was made: {code.get('why_not')}"
    if code.get("left_out"):
        yield f"Not in the snapshot: {', '.join(code['left_out'][:5])}{', ...' if len(code['left_out']) > 5 else ''}."
    if code.get("submodules"):
        yield f"The code has submodules: run `git submodule update --init` in {target}."
    if record.get("earlier"):
        yield "The run was resumed with changed code; this is the code of its last session."
    if record.get("masked"):
        yield f"The configuration holds *** for secrets: {', '.join(record['masked'])}."
    absent = sorted(_absent(record, root, target))
    if absent:
        yield f"The configuration names what git does not hold: link or copy {', '.join(absent[:5])} from {root}."


def _absent(record: dict[str, Any], root: Path, target: Path) -> set[str]:
    """Relative paths in the configuration that exist in the project, but not in the new working tree."""
    folder = record.get("folder") or "."
    if record.get("config_source") != "cli":
        return set()
    try:
        config = yaml.safe_load(record["config"])
    except yaml.YAMLError:  # tags of the user's own
        return set()
    return {
        text
        for text in _texts(config)
        if 0 < len(text) < 200 and "\n" not in text and not os.path.isabs(text)
        if os.path.exists(root / folder / text) and not os.path.exists(target / folder / text)
    }


def _texts(config: Any) -> Iterator[str]:
    """The texts in nested dicts and lists, less those that name where a run writes."""
    named = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for name, value in named:
        if isinstance(value, str) and name not in WRITTEN:
            yield value
        else:
            yield from _texts(value)

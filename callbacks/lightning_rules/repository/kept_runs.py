"""Which checkpoints of which runs are kept, as tags, files beside checkpoints and checkpoints tell it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_rules.repository.git import GitError, NoRepository
from lightning_rules.repository.repository import Repository, Tag
from lightning_rules.repository.tags import parse_tag_message, tag_folder


@dataclass(frozen=True)
class Kept:
    """A checkpoint that was kept.

    Args:
        record: Its run's record, with ``step``, ``metrics`` and ``checkpoint`` where they are known.
        tag: The tag on its code; None without one.
        commit: The commit that holds its code; None where the record names none.
        given: The checkpoint's path, where it was found by that.
    """

    record: dict[str, Any]
    tag: str | None
    commit: str | None
    given: Path | None = None

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.tag or str(self.given or self.record["run"])


@dataclass(frozen=True)
class RunRow:
    """One kept checkpoint in the list of runs.

    Args:
        run: The run's name.
        step: Optimiser steps taken; None where unknown.
        metrics: Their values, by name.
        tag: The tag on its code.
        started: When the run began, ISO 8601, UTC.
        checkpoint: Its path as recorded.
        state: Whether the file is there and has the recorded size: "there", "altered" or "missing".
    """

    run: str
    step: int | None
    metrics: dict[str, float]
    tag: str
    started: str
    checkpoint: str
    state: Literal["there", "altered", "missing"]


def list_runs(repository: str | Path = ".") -> list[RunRow]:
    """The tagged checkpoints of a repository, in the order of their runs' starts and steps.

    Raises:
        NoRepository: The folder is in no repository.
    """
    found = Repository.find(repository)
    rows = [_row(kept, found.root) for kept in _tagged(found.tags("runs"))]
    return sorted(rows, key=lambda row: (row.started, row.run, row.step or 0, row.tag))


def _row(kept: Kept, root: Path) -> RunRow:
    record = kept.record
    described = record.get("checkpoint") or {}
    sizes = [_size(place) for place in places(kept, root) if place.exists()]
    state: Literal["there", "altered", "missing"] = "altered" if sizes else "missing"
    if described.get("bytes") in sizes:
        state = "there"
    numbers = {name: value for name, value in (record.get("metrics") or {}).items() if isinstance(value, (int, float))}
    started = str(record.get("started", ""))
    return RunRow(record["run"], record.get("step"), numbers, str(kept.tag), started, recorded_path(record), state)


def _tagged(tags: Iterable[Tag]) -> list[Kept]:
    """The tags that hold a record; others may have tags below ``runs/`` too."""
    kept = []
    for tag in tags:
        try:
            kept.append(Kept(parse_tag_message(tag.message), tag.name, tag.commit))
        except ValueError:
            continue
    return kept


def find_kept(what: str | Path, repository: Repository) -> Kept:
    """The checkpoint that a tag, a path or a run's name means.

    Args:
        what: A tag; the path of a checkpoint or of the JSON beside it; or the name of a run, which means its best
            checkpoint where the record says by which metric, else the newest.
        repository: Where tags are looked for.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: The name is that of several runs, or the checkpoint holds no record or does not load safely.
    """
    path, name = Path(what), str(what).removeprefix("refs/tags/")
    if path.is_file() or Path(f"{path}.json").is_file():
        return _at_path(path, repository)
    folder = name if name.startswith("runs/") else tag_folder(name)
    found = _tagged(repository.tags(folder))
    exact = [kept for kept in found if kept.tag == name]
    if exact:
        return exact[0]
    runs = sorted({str(kept.record["run"]) for kept in found})
    if len(runs) > 1:
        raise ValueError(f"{what} is the name of {len(runs)} runs ({', '.join(runs[:5])}): name one of them.")
    if not runs:
        raise FileNotFoundError(
            f"{what} is no tag, run or checkpoint that {repository.root} knows: `restore --list` shows those there are."
        )
    return best(found)


def best(found: list[Kept]) -> Kept:
    """The best checkpoint of a run by the metric that it was kept for, if the records tell it; else the newest."""
    first = found[0].record
    monitor, mode = first.get("monitor"), first.get("mode")
    metrics = [(kept.record.get("metrics") or {}).get(monitor) for kept in found]
    scores = [float(score) for score in metrics if isinstance(score, int | float) and math.isfinite(score)]
    if mode in ("min", "max") and len(scores) == len(found):
        sign = 1 if mode == "max" else -1
        return max(zip(scores, found, strict=True), key=lambda pair: sign * pair[0])[1]
    return max(found, key=lambda kept: (str(kept.record.get("started")), kept.record.get("step") or 0))


def _at_path(path: Path, repository: Repository) -> Kept:
    checkpoint = path.with_suffix("") if path.suffix == ".json" else path
    beside = Path(f"{checkpoint.resolve()}.json")  # of the file that a link leads to
    record = _read_json(beside) if beside.is_file() else _read_inside(checkpoint)
    code = record.get("code") or {}
    commit = code.get("snapshot") or code.get("commit")
    same = [kept for kept in _tagged(_tags_of(record, repository)) if _is_of(kept, record)]
    if not same:
        return Kept(record, None, commit, checkpoint)
    # Another file of the same step has a hash of its own.
    namesakes = [kept for kept in same if Path(recorded_path(kept.record)).name == checkpoint.name]
    told = namesakes[0].record if namesakes else {}
    return Kept({**told, **record}, same[0].tag, same[0].commit, checkpoint)


def _tags_of(record: Mapping[str, Any], repository: Repository) -> list[Tag]:
    try:
        return repository.tags(tag_folder(str(record["run"])))
    except GitError:
        return []


def _is_of(kept: Kept, record: Mapping[str, Any]) -> bool:
    return all(kept.record.get(key) == record.get(key) for key in ("id", "step"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the record of a checkpoint ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("run"), str):
        raise ValueError(f"{path} is not the record of a checkpoint: expected what GitTagCheckpoint has written.")
    return record


def _read_inside(checkpoint: Path) -> dict[str, Any]:
    try:
        inside = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{checkpoint} has no record beside it and cannot be loaded safely to look inside ({reason}): "
            "name its tag or run instead."
        ) from error
    record = inside.get("run_record") if isinstance(inside, dict) else None
    if not isinstance(record, dict) or not isinstance(record.get("run"), str):
        raise ValueError(f"{checkpoint} holds no record of its code: it was not saved with GitTagCheckpoint.")
    return {**record, "step": inside.get("global_step")}


def tag_of(checkpoint: Mapping[str, Any], repository: str | Path = ".") -> str | None:
    """The tag on the code of a loaded checkpoint; None where it has none here."""
    record = checkpoint.get("run_record")
    if not isinstance(record, dict) or "run" not in record:
        return None
    try:
        tagged = _tagged(_tags_of(record, Repository.find(repository)))
    except GitError:
        return None
    wanted = {**record, "step": checkpoint.get("global_step")}
    return next((kept.tag for kept in tagged if _is_of(kept, wanted)), None)


def recorded_path(record: Mapping[str, Any]) -> str:
    """A path of this machine or of another, or an address ("s3://..."); empty where none is recorded."""
    return str((record.get("checkpoint") or {}).get("path") or "")


def places(kept: Kept, root: Path) -> list[Path]:
    """Where a checkpoint may be: as given, as recorded, below the repository's present root, beside its record."""
    record = kept.record
    told = recorded_path(record)
    path = Path("" if "://" in told else told)
    code = record.get("code") or {}
    found = [kept.given] if kept.given else []
    if path.is_absolute():
        found.append(path)
        if code.get("root") and path.is_relative_to(code["root"]):
            found.append(root / path.relative_to(code["root"]))
    elif path.name:
        found += [root / path, root / str(record.get("folder") or ".") / path]
    return list(dict.fromkeys(found))


def checkpoint_file(what: str | Path, folder: str | Path = ".") -> Path:
    """The checkpoint that a path, a tag or the name of a run means, as an absolute path.

    Args:
        what: A path, which is taken as it is; or a tag (``runs/digits/version_3/408-val-accuracy=0.9833``) or the name
            of a run (``digits/version_3``, which means its best or newest checkpoint), whose file is found and compared
            with the recorded hash.
        folder: Paths are relative to it, and its repository is where tags are looked for.

    Raises:
        FileNotFoundError: There is nothing of that name, or the checkpoint is gone.
        ValueError: The name is that of several runs, or the checkpoint is not the one that was saved.
        GitError: git failed.
    """
    path = Path(folder, what)
    if path.exists():
        return path.absolute()
    try:
        repository = Repository.find(folder)
    except NoRepository as error:
        raise FileNotFoundError(
            f"There is no checkpoint {what}: it is no file, and no tag or run, for here is no git repository."
        ) from error
    return intact_checkpoint(find_kept(what, repository), repository.root)


def intact_checkpoint(kept: Kept, root: Path) -> Path:
    """The file of a kept checkpoint, wherever it is now, if its hash is the recorded one.

    Raises:
        FileNotFoundError: It is gone, or at an address.
        ValueError: Its hash is another one.
    """
    tried = places(kept, root)
    present = [place for place in tried if place.exists()]
    sha256 = (kept.record.get("checkpoint") or {}).get("sha256")
    for place in present:
        if not sha256 or is_intact(place, sha256):
            return place.absolute()
    code = f"`git worktree add FOLDER {kept.tag or kept.commit}` brings back its code alone"
    if present:
        raise ValueError(f"The checkpoint {present[0]} is not the one that was saved: its SHA-256 differs; {code}.")
    told = recorded_path(kept.record)
    if "://" in told:
        raise FileNotFoundError(f"The checkpoint of {kept.name} is at {told}: fetch it, and name the file; {code}.")
    where = f"it is not at {' or '.join(map(str, tried))}" if tried else "the record does not say where it was"
    raise FileNotFoundError(f"The checkpoint of {kept.name} is gone: {where}; {code}.")


def is_intact(place: Path, sha256: str) -> bool:
    """Whether a checkpoint, a file or a folder of files, has the hash that was recorded for it."""
    if place.is_file():
        return _file_hash(place) == sha256
    whole = hashlib.sha256()
    for file in sorted(file for file in place.rglob("*") if file.is_file()):
        whole.update(f"{file.relative_to(place).as_posix()}\0{_file_hash(file)}\n".encode())
    return whole.hexdigest() == sha256


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())

"""Which runs are meant by what is named at a command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from lightning_rules.report.document import JSON, Document

NEAR = 3  # runs that are named in a message
LOOKED = 20_000  # folders, at most, that are looked through


@dataclass(frozen=True)
class Found:
    """A run that has a report.

    Attributes:
        folder: Its log folder, or where its report lies.
        document: What is known of it.
    """

    folder: Path
    document: Document


def find_runs(
    named: Sequence[Path],
    warn: Callable[[str], object],
    watch: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[Found]:
    """The runs that paths stand for, in their order.

    A path is a run's log folder, its folder ``rules``, or its ``report.json``; a folder that holds runs stands for all
    of them. A report that cannot be read is an error where its run was named, and a warning where a folder was.

    Args:
        named: The paths.
        warn: Takes such a warning.
        watch: Shows how far it is; gives back what it was given, one by one.

    Raises:
        FileNotFoundError: There is no run at a path; the message names some that are near.
        ValueError: A run comes twice, or its report cannot be read.
    """
    files: dict[Path, bool] = {}
    for path in named:
        own = report_of(path)
        for file in [own] if own else below(path) or _nothing(path):
            if file.resolve() in {one.resolve() for one in files}:
                raise ValueError(f"The run {file.parent.parent} is named twice: name each run once, or its folder.")
            files[file] = own is not None
    found = []
    for file in watch(list(files)):
        try:
            found.append(Found(_folder_of(file), Document.read(file)))
        except (OSError, ValueError) as error:
            if files[file]:
                raise ValueError(str(error)) from error
            warn(f"{error} It is left out.")
    if not found:
        raise ValueError(f"None of the {len(files)} reports found can be read.")
    return found


def report_of(path: Path) -> Path | None:
    """The file ``report.json`` of a run; None where the path is not that of one.

    Raises:
        ValueError: The path is that of another file.
    """
    if path.is_file():
        beside = path.with_suffix(".json")
        if path.suffix in (".json", ".html") and beside.is_file():
            return beside
        raise ValueError(f"{path} is no report: expected a run's log folder, or its {JSON}.")
    return next((one for one in (path / JSON, path / Path(JSON).name) if one.is_file()), None)


def _folder_of(file: Path) -> Path:
    return file.parent.parent if file.parent.name == Path(JSON).parent.name else file.parent


def below(folder: Path) -> list[Path]:
    """The files ``report.json`` of all runs below a folder, in the order of their names, 2 before 10."""
    found = []
    for place, (where, folders, files) in enumerate(os.walk(folder)):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        if Path(where).name == Path(JSON).parent.name and Path(JSON).name in files:
            found.append(Path(where) / Path(JSON).name)
        if place >= LOOKED:
            break
    return sorted(found, key=_in_order)


def _in_order(path: Path) -> list[tuple[int, int, str]]:
    words = (word for part in path.parts for word in part.replace("-", "_").split("_"))
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]


def _nothing(path: Path) -> Iterator[Path]:
    what = f"There is no report in {path}" if path.exists() else f"There is no folder or file {path}"
    near = nearest(path)
    there = f"there are reports of {', '.join(map(str, near))}" if near else "none is near it"
    raise FileNotFoundError(
        f"{what}: expected a run's log folder with {JSON}, which a fit with the callback ReportCard writes (of "
        f"`recommended()`), or a folder that holds such runs; {there}."
    )


def nearest(path: Path) -> list[Path]:
    """Folders of a few runs beside a path, those with the most alike names first."""
    absolute = path.absolute()
    for parent in list(absolute.parents)[:2]:
        files = below(parent) if parent.is_dir() and parent != Path(parent.anchor) else []
        if files:
            runs = [_folder_of(one) for one in files]
            runs.sort(key=lambda one: -SequenceMatcher(None, str(one), str(absolute)).ratio())
            here = Path.cwd()
            return [one.relative_to(here) if one.is_relative_to(here) else one for one in runs[:NEAR]]
    return []

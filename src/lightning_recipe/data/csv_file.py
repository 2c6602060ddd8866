"""CSV files with a header, read as columns: numbers, texts, points in time."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MISSING = ("", "na", "n/a", "nan", "null")

Columns = dict[str, list[str]]


def read_columns(path: Path, delimiter: str = ",") -> Columns:
    """Read a CSV whose first line names the columns; cells are stripped of spaces around them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table; the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}: give a CSV file whose first line names the columns.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a CSV file in UTF-8 ({error}): save the table as one.") from error
    if len(rows) < 2:
        raise ValueError(f"{path} has no rows below a header: give a CSV file whose first line names the columns.")
    header = rows[0][1]
    repeated = sorted({name for name in header if header.count(name) > 1 or not name})
    if repeated:
        raise ValueError(
            f"{path} has columns of the same name or of none ({', '.join(map(repr, repeated))}): name them."
        )
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"Line {line} of {path} has {len(row)} cells, but the header names {len(header)} columns: correct the "
                f"line, or give the right delimiter (it is {delimiter!r})."
            )
    return {name: [row[place] for _, row in rows[1:]] for place, name in enumerate(header)}


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.lower() in MISSING


def as_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """The numbers in a column, NaN where one is missing; None if a cell is no number, or there is none at all."""
    try:
        numbers = np.array([np.nan if is_missing(cell) else float(cell) for cell in cells])
    except ValueError:
        return None
    return None if np.isnan(numbers).all() else numbers


def as_times(name: str, cells: Sequence[str]) -> NDArray[np.float64]:
    """The points in time in a column: its numbers, or its dates in seconds; without a time zone they are UTC.

    Raises:
        ValueError: If a cell is neither a number nor a date such as 2024-05-31 or 2024-05-31T12:30.
    """
    numbers = as_numbers(cells)
    if numbers is not None and np.isfinite(numbers).all():
        return numbers
    return np.array([_seconds(name, row, cell) for row, cell in enumerate(cells, start=1)])


def _seconds(name: str, row: int, cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError as error:
        raise ValueError(
            f"The column {name!r} has {cell!r} in row {row}, which is no point in time: write all as numbers, or all "
            "as dates such as 2024-05-31 or 2024-05-31T12:30."
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

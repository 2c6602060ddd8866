"""What a network gets of a table: standardised numbers, marks of missing ones, one column for each known text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_recipe.data.csv_file import as_numbers, is_missing
from lightning_recipe.data.normalisation import Normalisation


@dataclass(frozen=True)
class Features:
    """The inputs of a network.

    Args:
        names: What each feature is: "age", "age is missing", "colour = red".
        x: float32 [N, F], one row an example.
        normalisation: Mean and std of the columns of numbers.
    """

    names: list[str]
    x: NDArray[np.float32]
    normalisation: Normalisation


def table_features(columns: Mapping[str, list[str]], fitted_on: NDArray[np.int64]) -> Features:
    """Make features of the cells of a table, and learn all that is to be learnt from some of its rows only.

    Which features there are follows from the whole table, so that a network fits all folds and subsets. Their values
    follow from the rows in `fitted_on`: numbers are standardised with their mean and std, missing ones are filled with
    that mean, and a text that is in none of these rows is answered with zeros alone.

    Args:
        columns: The cells of each column. A column of numbers may lack some; every other column is one of texts, where
            a missing one is a text like any other.
        fitted_on: The rows to learn from.

    Raises:
        ValueError: If there is no column, one has no cell that is filled, or a number is infinite.
    """
    if not columns:
        raise ValueError("The table has no column to learn from: leave fewer out.")
    numbers: dict[str, NDArray[np.float64]] = {}
    texts: dict[str, list[str]] = {}
    for name, cells in columns.items():
        if all(is_missing(cell) for cell in cells):
            raise ValueError(f"The column {name!r} is empty: fill it, or leave it out (leave_out).")
        found = as_numbers(cells)
        if found is not None and np.isinf(found).any():
            raise ValueError(f"The column {name!r} has an infinite number: correct it, or leave the cell empty.")
        if found is None:
            texts[name] = ["" if is_missing(cell) else cell for cell in cells]
        else:
            numbers[name] = found
    parts = [_of_numbers(numbers, fitted_on)] if numbers else []
    parts += [_of_texts(texts, fitted_on)] if texts else []
    return Features(
        [name for part in parts for name in part.names],
        np.concatenate([part.x for part in parts], axis=1),
        parts[0].normalisation,
    )


def _of_numbers(columns: Mapping[str, NDArray[np.float64]], fitted_on: NDArray[np.int64]) -> Features:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers = np.stack(list(columns.values()), axis=1)
    scaler = StandardScaler()
    filled = make_pipeline(SimpleImputer(keep_empty_features=True), scaler).fit(numbers[fitted_on]).transform(numbers)
    missing = np.isnan(numbers)
    marked = [bool(column.any()) for column in missing.T]
    names = [*columns, *(f"{name} is missing" for name, some in zip(columns, marked, strict=True) if some)]
    x = np.concatenate([filled, missing[:, marked]], axis=1).astype(np.float32)
    return Features(names, x, Normalisation(tuple(scaler.mean_.tolist()), tuple(scaler.scale_.tolist())))


def _of_texts(columns: Mapping[str, list[str]], fitted_on: NDArray[np.int64]) -> Features:
    from sklearn.preprocessing import OneHotEncoder

    texts = np.array(list(columns.values()), dtype=object).T
    encoder = OneHotEncoder(sparse_output=False, dtype=np.float32).fit(texts)
    x = encoder.transform(texts)
    x[:, ~x[fitted_on].any(axis=0)] = 0
    pairs = zip(columns, encoder.categories_, strict=True)
    names = [f"{name} = {text or 'nothing'}" for name, found in pairs for text in found]
    return Features(names, x, Normalisation((), ()))

"""A table in a CSV file, one example a row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from lightning_recipe.data.csv_file import Columns, as_numbers, as_times, read_columns
from lightning_recipe.data.examples import Examples
from lightning_recipe.data.labelled import LabelledDataModule
from lightning_recipe.data.splits import split
from lightning_recipe.data.table_features import table_features

Split = Literal["train", "val", "test", "predict"]


class TableDataModule(LabelledDataModule):
    """The rows of a CSV file, split 60/20/20 by class, by group or by time, standardised with training statistics only.

    The first line names the columns. Columns of numbers are standardised; a missing number (an empty cell, NA, NaN or
    null) is filled with the mean and marked in a feature of its own. Every other column has one feature for each text
    in it, 1 where the row has it. Means, standard deviations and the texts that count are those of the rows that are
    trained on. A batch is a tuple of float32 [N, F] and int [N].

    Args:
        path: The file, in UTF-8.
        target: The column of the classes; any texts or numbers.
        group: The column that names whom or what a row comes from, such as the patient: neither the split nor a fold
            has rows of one group on two sides. It is no feature.
        time: The column that says when a row was taken, as numbers or as dates such as 2024-05-31: the split and folds
            train on what came before what they are judged on. It is no feature.
        leave_out: Further columns that are no features, such as a number of the row.
        delimiter: What stands between cells.
        batch_size: Rows a batch and process, at least 1.
        num_workers: Worker processes for loading; 0 is quickest here, the table being in memory.
        val_fraction: Share of the rows held out for validation.
        test_fraction: Share held out for the test.
        split_seed: Seed of that split; a split by time needs none.

    Raises:
        FileNotFoundError: In `setup`, if there is no such file.
        ValueError: If group and time are both given; in `setup`, if the file is no such table, a column is not in it, a
            target, group or time is missing, the target has too many different values to be classes, or there are too
            few rows of a class, groups or times for the split.
    """

    def __init__(
        self,
        path: str,
        target: str,
        group: str | None = None,
        time: str | None = None,
        leave_out: Sequence[str] = (),
        delimiter: str = ",",
        batch_size: int = 32,
        num_workers: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if group is not None and time is not None:
            raise ValueError(
                f"group={group!r} and time={time!r} were given, but a cut in time may go through a group: choose one."
            )
        if len(delimiter) != 1:
            raise ValueError(f"delimiter={delimiter!r} was given, but it must be one character, such as a comma.")
        self.path = Path(path)
        self.target = target
        self.group = group
        self.time = time
        self.leave_out = list(leave_out)
        self.delimiter = delimiter
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed
        self.feature_names: list[str] = []

    @property
    def num_classes(self) -> int:
        """Number of classes, after `setup`."""
        return len(self.class_names)

    @property
    def num_features(self) -> int:
        """Number of features F, after `setup`; the same in all folds and subsets."""
        return len(self.feature_names)

    def setup(self, stage: str) -> None:
        """Read, split and standardise; the same on every rank."""
        if self.datasets:
            return
        columns = self._read()
        examples = self._examples(columns)
        given = self._given(split(examples, self.fractions, self.split_seed), examples)
        none = {self.target, self.group, self.time, *self.leave_out}
        features = table_features(
            {name: column for name, column in columns.items() if name not in none}, given.fitted_on
        )
        self.feature_names, self.normalisation = features.names, features.normalisation
        x, y = torch.from_numpy(features.x), torch.from_numpy(examples.strata())
        self.datasets = {name: TensorDataset(x[part], y[part]) for name, part in given.parts.items()}

    def _read(self) -> Columns:
        columns = read_columns(self.path, self.delimiter)
        named = {"target": self.target, "group": self.group, "time": self.time}
        named |= {f"leave_out[{place}]": name for place, name in enumerate(self.leave_out)}
        for option, name in named.items():
            if name is not None and name not in columns:
                raise ValueError(f"{option}={name!r} is no column of {self.path}: it has {', '.join(columns)}.")
            empty = [] if name is None or name in self.leave_out else [not cell for cell in columns[name]]
            if any(empty):
                raise ValueError(
                    f"The {option} column {name!r} of {self.path} is empty in row {empty.index(True) + 1} below the "
                    "header: fill it, or remove the row."
                )
        return columns

    def _examples(self, columns: Columns) -> Examples:
        cells = columns[self.target]
        names = sorted(set(cells))
        if len(names) < 2 or 2 * len(names) > len(cells):
            raise ValueError(
                f"The target column {self.target!r} of {self.path} has {len(names)} different values in {len(cells)} "
                "rows, but classes are at least 2, and have 2 rows each or more: name the column of the classes."
            )
        numbers = as_numbers(names)
        if numbers is not None:  # 2 comes before 10
            names = [names[place] for place in np.argsort(numbers, kind="stable")]
        self.class_names = names
        label = {name: number for number, name in enumerate(names)}
        return Examples(
            len(cells),
            np.array([label[cell] for cell in cells], dtype=np.int64),
            None if self.group is None else np.array(columns[self.group], dtype=np.str_),
            None if self.time is None else as_times(self.time, columns[self.time]),
            names,
        )

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the labels [N] of a split, after `setup`."""
        return np.asarray(self.datasets[split].tensors[1], dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return what a model of this data expects and answers, in plain values."""
        described = super().state_dict()
        return {**described, "features": list(self.feature_names)} if described else described

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare what a checkpoint's model expects and answers with the table at hand.

        Raises:
            ValueError: If features, classes, statistics or, when training goes on, the share differ.
        """
        then, now = state_dict.get("features"), self.feature_names
        if now and then is not None and list(then) != now:
            differ = sorted({*then} ^ {*now})[:5]
            raise ValueError(
                f"The checkpoint's model was trained on {len(then)} features, and the table gives {len(now)} "
                f"({', '.join(differ) or 'in another order'}): give it the table that it was trained on, or train anew."
            )
        super().load_state_dict(state_dict)

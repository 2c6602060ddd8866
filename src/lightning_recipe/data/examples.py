"""What is known of each example of a data set when it is cut into parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """The examples of a data set in the order in which they are read, without their inputs.

    Args:
        count: How many there are.
        labels: The class of each, from 0; None where targets are no classes.
        groups: Whom or what each comes from, such as the patient: a group is never cut in two.
        times: When each was taken: nothing is trained on what came after what it is judged on.
        class_names: Names of the classes, for messages.

    Raises:
        ValueError: If groups and times are both given.
    """

    count: int
    labels: NDArray[np.int64] | None = None
    groups: NDArray[np.str_] | None = None
    times: NDArray[np.float64] | None = None
    class_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.groups is not None and self.times is not None:
            raise ValueError(
                "Examples with groups and with times were given, but a cut in time may go through a group: choose one."
            )

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """The examples with these indices, in that order."""
        return Examples(
            len(indices),
            None if self.labels is None else self.labels[indices],
            None if self.groups is None else self.groups[indices],
            None if self.times is None else self.times[indices],
            self.class_names,
        )

    def strata(self) -> NDArray[np.int64]:
        """The classes; all the same where there are none."""
        return np.zeros(self.count, dtype=np.int64) if self.labels is None else self.labels

    def class_name(self, label: int) -> str:
        """What a class is called, as a message shows it."""
        return repr(self.class_names[label] if self.class_names else label)

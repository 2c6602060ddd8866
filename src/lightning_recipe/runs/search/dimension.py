"""One option of a search: between which bounds it is drawn, on which scale, and what `fit` gets of it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["log10", "one_minus_log10", "int", "uniform", "choice"]

# Of a range, from its end: what lies closer to it may well lie beyond it.
EDGE = 0.05


@dataclass(frozen=True)
class Dimension:
    """An option of `fit` and the values that it may have.

    Scales are those of Ng (deeplearning.ai, 2017, "Using an appropriate scale to pick hyperparameters") and
    Goodfellow et al. (2016, 11.4.4): a rate is 10^U(low, high), a momentum 1 - 10^U(low, high), a count uniform.

    Args:
        name: The option with all dots, "model.init_args.lr".
        kind: "log10": 10^U(low, high); "one_minus_log10": 1 - 10^U(low, high); "int": whole numbers, both ends
            included; "uniform": U(low, high); "choice": one of `choices`.
        low: The lower end on the scale of the kind (an exponent of the first two).
        high: The upper end, above it.
        choices: At least one, as YAML has them.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """What it is called in the study: the option, or what of it is drawn on a logarithmic scale."""
        return f"1 - {self.name}" if self.kind == "one_minus_log10" else self.name

    @property
    def is_numeric(self) -> bool:
        """Whether its values have an order and a distance."""
        return self.kind != "choice"

    @property
    def is_logarithmic(self) -> bool:
        """Whether what is drawn lies on a logarithmic scale."""
        return self.kind in ("log10", "one_minus_log10")

    @property
    def labels(self) -> list[Any]:
        """The choices as a study keeps them: plain values as they are, lists and mappings as text."""
        plain = (str, int, float, bool, type(None))
        return [choice if isinstance(choice, plain) else json.dumps(choice) for choice in self.choices]

    def distribution(self) -> Any:
        """The distribution of Optuna from which the study draws."""
        from optuna import distributions

        if self.kind == "choice":
            return distributions.CategoricalDistribution(self.labels)
        if self.kind == "int":
            return distributions.IntDistribution(int(self.low), int(self.high))
        if self.is_logarithmic:
            return distributions.FloatDistribution(10.0**self.low, 10.0**self.high, log=True)
        return distributions.FloatDistribution(self.low, self.high)

    def suggest(self, trial: Any) -> Any:
        """Let a trial of Optuna draw; return what was drawn."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.key, self.labels)
        if self.kind == "int":
            return trial.suggest_int(self.key, int(self.low), int(self.high))
        if self.is_logarithmic:
            return trial.suggest_float(self.key, 10.0**self.low, 10.0**self.high, log=True)
        return trial.suggest_float(self.key, self.low, self.high)

    def value(self, drawn: Any) -> Any:
        """What `fit` gets, for what was drawn."""
        if self.kind == "choice":
            return self.choices[self.labels.index(drawn)]
        if self.kind == "int":
            return int(drawn)
        return 1.0 - drawn if self.kind == "one_minus_log10" else float(drawn)

    def on_scale(self, drawn: float) -> float:
        """Where on the scale, from `low` to `high`, something drawn lies."""
        return math.log10(drawn) if self.is_logarithmic else float(drawn)

    def at(self, share: float) -> Any:
        """What is drawn so far from the lower end.

        Args:
            share: From 0 to 1; of choices and whole numbers each has the same part of it.
        """
        if self.kind == "choice":
            return self.labels[min(int(share * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "int":
            return min(int(self.low) + int(share * (self.high - self.low + 1)), int(self.high))
        place = self.low + share * (self.high - self.low)
        inside = min(max(place, self.low), self.high)
        return 10.0**inside if self.is_logarithmic else inside

    def points(self, number: int) -> list[Any]:
        """The middles of so many equal parts of the scale; choices are all.

        The ends of a range are where the best is not expected to be: a coarse grid that begins and ends there wastes
        most of its points.

        Args:
            number: At least 1; of whole numbers there may be fewer.
        """
        if self.kind == "choice":
            return list(self.labels)
        shares = [(place + 0.5) / number for place in range(number)]
        if self.kind == "int":
            return sorted({round(self.low - 0.5 + share * (self.high - self.low + 1)) for share in shares})
        return [self.at(share) for share in shares]

    def narrowed(self, best: Any, given: "Dimension") -> "Dimension":
        """The range of half the width around the best, within the given one; choices stay.

        Args:
            best: What was drawn where the result was best.
            given: The dimension as the space has it.
        """
        if not self.is_numeric:
            return self
        middle, quarter = self.on_scale(best), (self.high - self.low) / 4
        low, high = max(given.low, middle - quarter), min(given.high, middle + quarter)
        if self.kind == "int":
            low, high = max(given.low, math.ceil(low - 0.5)), min(given.high, math.floor(high + 0.5))
        return replace(self, low=low, high=high)

    def edge(self, best: Any) -> Literal["low", "high"] | None:
        """The end of the range that the best lies at, so that better ones may lie beyond it (Goodfellow, 11.4.3).

        Args:
            best: What was drawn where the result was best.
        """
        if not self.is_numeric or self.high <= self.low:
            return None
        share = (self.on_scale(best) - self.low) / (self.high - self.low)
        if share < EDGE and not self._ends_there():
            return "low"
        return "high" if share > 1 - EDGE else None

    def _ends_there(self) -> bool:
        """Whether nothing lies below: no share under 0, no layer less than one."""
        return (self.kind == "uniform" and self.low == 0) or (self.kind == "int" and self.low <= 1)

    def spelled(self) -> dict[str, Any]:
        """What stands behind the option in a space of YAML."""
        if self.kind == "choice":
            return {"choice": list(self.choices)}
        ends: Sequence[float] = (self.low, self.high)
        return {self.kind: [int(end) if float(end).is_integer() else end for end in ends]}

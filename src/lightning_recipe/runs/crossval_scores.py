"""What the folds of a cross-validation scored: together, and against another configuration on the same folds."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.resampling import Resampled, paired, resampled
from lightning_recipe.whole_file import whole_file
from lightning_rules.report.score import Mode, is_share, mode_of

SUMMARY = "crossval.json"
PREDICTIONS = "out_of_fold.csv"
MOST_CLASSES = 30  # in a confusion matrix


@dataclass(frozen=True)
class Split:
    """One fold.

    Attributes:
        name: Of the fit.
        held_out: What was held out, as in "2/5@42".
        scores: The metrics of the test on it.
        examples: A hash of the held-out examples and their labels; empty where they are not known.
    """

    name: str
    held_out: str
    scores: dict[str, float]
    examples: str


@dataclass(frozen=True)
class CrossValidation:
    """The scores of all folds.

    Attributes:
        metric: By which configurations are compared: "test/accuracy".
        mode: Whether the highest or the lowest value is the best.
        folds: How many parts the examples are cut into.
        splits: The folds that have scores, of all repeats.
    """

    metric: str
    mode: Mode
    folds: int
    splits: tuple[Split, ...]

    @property
    def ratio(self) -> float:
        """Held-out examples for each of the others."""
        return 1 / (self.folds - 1)

    @property
    def metrics(self) -> list[str]:
        """The metrics that all folds have, that by which configurations are compared first."""
        shared = [name for name in self.splits[0].scores if all(name in one.scores for one in self.splits)]
        return sorted(shared, key=lambda name: name != self.metric)

    def of(self, metric: str) -> Resampled:
        """Mean, spread and interval of a metric; that of a share is no further than from 0 to 1."""
        values = [one.scores[metric] for one in self.splits]
        bounds = (0.0, 1.0) if is_share(metric) and all(0 <= one <= 1 for one in values) else None
        return resampled(values, self.ratio, bounds)

    def write(self, folder: Path) -> None:
        """Write all this as JSON into the folder."""
        told = {"metric": self.metric, "mode": self.mode, "folds": self.folds, "summary": {}}
        for metric in self.metrics:
            found = self.of(metric)
            low, high = found.interval
            told["summary"][metric] = {  # type: ignore[index]
                "mean": found.mean, "deviation": found.deviation, "low": low, "high": high
            }  # fmt: skip
        with whole_file(folder / SUMMARY) as file:
            json.dump({**told, "splits": [asdict(one) for one in self.splits]}, file, indent=1)


def read(folder: Path) -> CrossValidation:
    """The scores that a cross-validation has written into its folder.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they cannot be read.
    """
    path = folder / SUMMARY
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        splits = tuple(Split(**one) for one in told["splits"])
        return CrossValidation(told["metric"], told["mode"], told["folds"], splits)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"There is no finished cross-validation in {folder}, for it has no {SUMMARY}: name the folder of one."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as the scores of a cross-validation ({error}): make it anew."
        ) from error


def scored(fits: Sequence[Fit], folds: int, metric: str | None) -> CrossValidation:
    """The scores of finished folds.

    Args:
        fits: They.
        folds: How many parts the examples are cut into.
        metric: By which configurations are compared; by default the test's counterpart of what the checkpoints go by.

    Raises:
        ValueError: If the tests have not logged it, or it cannot be told whether it is to be high or low.
    """
    records = [fit.entry.read() for fit in fits]
    splits = tuple(
        Split(fit.name, str(fit.settings["held_out"]), record["test"], examples_hash(fit))
        for fit, record in zip(fits, records, strict=True)
    )
    best = records[0].get("best") or {}
    shared = set.intersection(*(set(one.scores) for one in splits))
    meant = counterpart(best.get("name") or "")
    chosen = metric or meant or (next(iter(shared)) if len(shared) == 1 else None)
    if chosen not in shared:
        logged = ", ".join(sorted(shared)) or "nothing that all of them have"
        given = f"--metric {metric} was given" if metric else "No metric was named by --metric"
        raise ValueError(f"{given}, and the tests of the folds have logged {logged}: name one of these by --metric.")
    is_monitored = meant == chosen or (meant is None and metric is None)
    mode = best.get("mode") if is_monitored else mode_of(chosen)
    if mode is None:
        raise ValueError(
            f"Whether a high or a low {chosen} is good cannot be told from its name: let the ModelCheckpoint monitor "
            f"its counterpart of the validation, with its mode, or name another --metric."
        )
    return CrossValidation(chosen, mode, folds, splits)


def counterpart(monitor: str) -> str | None:
    """The metric of the test that means what one of the validation means: "test/accuracy" for "val/accuracy".

    Args:
        monitor: The name of the validation's metric.

    Returns:
        The name; None where the validation's does not begin with "val", "valid" or "validation".
    """
    for prefix in ("validation", "valid", "val"):
        if monitor.startswith(prefix):
            return f"test{monitor.removeprefix(prefix)}"
    return None


def predictions_of(fit: Fit) -> Path:
    """Where a fold keeps its predictions, without the ending."""
    return fit.folder / fit.name / "held_out"


def examples_hash(fit: Fit) -> str:
    """A hash of the held-out examples and their labels; empty where they are not known."""
    path = predictions_of(fit).with_suffix(".csv")
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    wanted = [place for place, name in enumerate(rows[0]) if place == 0 or name.startswith("true")]
    told = "\n".join("\t".join(row[place] for place in wanted) for row in rows)
    return hashlib.sha256(told.encode()).hexdigest()


def compared(one: CrossValidation, other: CrossValidation, folder: Path) -> Resampled:
    """The differences of two configurations on the same folds; above 0 means that the first has more.

    Args:
        one: The scores of one configuration.
        other: Those of the other.
        folder: Where these are, for messages.

    Raises:
        ValueError: If the folds are not the same examples, or the metric is not there.
    """
    here = {split.held_out: split for split in one.splits}
    there = {split.held_out: split for split in other.splits}
    shared = [name for name in here if name in there]
    if len(shared) < 2 or one.folds != other.folds:
        cuts = [", ".join(list(each)[:3]) for each in (there, here)]
        raise ValueError(
            f"{folder} was cut into other folds ({cuts[0]}, ...) than these ({cuts[1]}, ...): give both the same "
            "--folds and --seed_everything."
        )
    differing = [name for name in shared if here[name].examples and here[name].examples != there[name].examples]
    if differing:
        raise ValueError(
            f"The folds of {folder} hold other examples than these (fold {differing[0]} is the first that differs): "
            "compare configurations on the same data."
        )
    if any(one.metric not in there[name].scores for name in shared):
        raise ValueError(f"{folder} has no {one.metric} for all folds: name another --metric.")
    scores = [[split[name].scores[one.metric] for name in shared] for split in (here, there)]
    return paired(scores[0], scores[1], one.ratio)


def gather_predictions(fits: Sequence[Fit], output: Path) -> int:
    """Put the predictions of all folds into one table, with the columns `repeat` and `fold` before theirs.

    Args:
        fits: The folds.
        output: The table.

    Returns:
        How many lines it has; 0 where no fold has predictions in a table, and nothing is written.
    """
    count, header = 0, None
    tables = [(fit, predictions_of(fit).with_suffix(".csv")) for fit in fits]
    present = [(fit, path) for fit, path in tables if path.is_file()]
    if not present:
        return 0
    with whole_file(output) as file:
        writer = csv.writer(file)
        for fit, path in present:
            _, repeat, _, fold = fit.name.split("_")
            with path.open(encoding="utf-8", newline="") as part:
                rows = csv.reader(part)
                first = next(rows)
                if header is None:
                    header = first
                    writer.writerow(["repeat", "fold", *header])
                for row in rows:
                    writer.writerow([repeat, fold, *row])
                    count += 1
    return count


def confusion(output: Path) -> tuple[list[str], list[list[int]]] | None:
    """How often each class was answered as each class, out of fold; None where the answers are no classes or many."""
    with output.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if "predicted" not in (rows.fieldnames or ()) or "true" not in (rows.fieldnames or ()):
            return None
        names = [name[2:-1] for name in rows.fieldnames or () if name.startswith("p(")]
        counts = Counter((row["true"], row["predicted"]) for row in rows)
    if len(names) > MOST_CLASSES:
        return None
    return names, [[counts[true, predicted] for predicted in names] for true in names]


def told(metric: str, value: float) -> str:
    """A value for a person's eye: shares in percent."""
    return f"{value:.2%}" if is_share(metric) and 0 <= value <= 1 else f"{value:.4g}"


def told_difference(metric: str, value: float) -> str:
    """A difference with its sign: of shares in percentage points."""
    return f"{100 * value:+.2f} points" if is_share(metric) else f"{value:+.4g}"

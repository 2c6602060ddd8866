"""The subcommand `crossval`: one configuration trained and tested on each fold of the data (Stone, 1974)."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_recipe import summary
from lightning_recipe.runs import crossval_report, crossval_scores, procedure
from lightning_recipe.runs.crossval_scores import PREDICTIONS, CrossValidation, told, told_difference
from lightning_recipe.runs.fit import Fit, Settings, base_seed, default_folder, make_fit
from lightning_recipe.runs.pool_facts import training_examples
from lightning_recipe.runs.procedure import CommandLine
from lightning_recipe.runs.resampling import Resampled

NAME = "crossval"
WHAT = "A cross-validation"
KEEP = "lightning_recipe.runs.held_out_predictions.HeldOutPredictions"


def run(arguments: Sequence[str], command_line: CommandLine) -> None:
    """Train and test the folds that are not finished, then judge them together, or print the commands for the fits.

    Args:
        arguments: Those after `crossval`.
        command_line: The command line of the project.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        ValueError: If the data cannot be cut so, settings forbid it, folds were trained with others, or fewer than 2
            have come to their end.
        FileNotFoundError: If there is no cross-validation to compare with.
    """
    options, rest = _parser().parse_known_args(arguments)
    settings = command_line.settings(["fit", *rest])
    _check(settings)
    other = crossval_scores.read(Path(options.against)) if options.against else None
    folder = Path(options.folder) if options.folder else default_folder(settings, NAME, "run")
    fits = make_folds(settings, options.folds, options.repeats, folder)
    _check_cuts(fits, options.folds)
    script = procedure.script_words(NAME)
    waiting = procedure.waiting_fits(fits, sys.stderr if options.emit else sys.stdout)
    if options.emit:
        procedure.print_commands(options.emit, waiting, script, [*script, NAME, *arguments])
        return
    procedure.train_all(waiting, options, script, settings)
    finished = procedure.finished_fits(fits, WHAT, 2)
    scores = crossval_scores.scored(finished, options.folds, options.metric)
    scores.write(folder)
    predicted = crossval_scores.gather_predictions(finished, folder / PREDICTIONS)
    against = None if other is None else crossval_scores.compared(scores, other, Path(options.against))
    shown = None if against is None else (Path(options.against).name, against)
    page = crossval_report.write_report(folder, finished, scores, shown)
    _print_end(folder, fits, scores, predicted, shown, page)
    _print_next(folder, script, [f"--folds={options.folds}", f"--repeats={options.repeats}", *rest])


def _parser() -> argparse.ArgumentParser:
    parser = procedure.parser_of(
        NAME,
        "[--folds K] [--repeats R] [--against FOLDER]",
        "Cut training and validation data into K folds, and train K models by ordinary fits, each tested on the fold "
        "that it has never seen. Early stopping and the choice of the checkpoint go by a part of the other folds; "
        "whatever the data fits to its examples, such as a normalisation, is fitted anew for each. The configured test "
        "split is left out. The same command goes on where it was stopped.",
    )
    parser.add_argument(
        "--folds", type=procedure.at_least(2), default=5, metavar="K", help="how many parts (default: 5)"
    )
    parser.add_argument(
        "--repeats",
        type=procedure.at_least(1),
        default=1,
        metavar="R",
        help="how often, each time cut by another seed (default: 1)",
    )
    parser.add_argument(
        "--metric", help="by which to judge (default: the test's counterpart of what the checkpoints go by)"
    )
    parser.add_argument(
        "--against",
        metavar="FOLDER",
        help="a cross-validation of another configuration on the same folds, to be compared with",
    )
    procedure.add_options(parser)
    return parser


def _check(settings: Mapping[str, Any]) -> None:
    """Refuse settings with which no fold could be judged.

    Raises:
        ValueError: If there are such.
    """
    procedure.refuse_what_fits_cannot_have(settings, WHAT)
    procedure.refuse_shares(settings, WHAT)
    if not settings.get("data"):
        raise ValueError(
            f"{WHAT} needs data that can be cut, and these settings name none: add --data CLASS, a LightningDataModule "
            "with a method `setup_fold(k, n, seed)`."
        )


def _check_cuts(fits: Sequence[Fit], folds: int) -> None:
    """Cut the data as the fits will; what it refuses, it refuses now.

    Raises:
        ValueError: If it cannot be cut so, or repeats would cut it alike.
    """
    first = training_examples(fits[0].settings).held_out
    if len(fits) > folds and first is not None and first == training_examples(fits[folds].settings).held_out:
        raise ValueError(
            f"The data is cut alike whatever the seed, as data in time is, so that --repeats {len(fits) // folds} "
            "would count the same folds again: leave --repeats out."
        )


def make_folds(settings: Settings, folds: int, repeats: int, folder: Path) -> list[Fit]:
    """The fits of a cross-validation, each with the seed of its place, so that configurations can be compared.

    Args:
        settings: All settings of `fit` as the user gave them.
        folds: How many parts the examples are cut into.
        repeats: How often they are cut, each time by another seed.
        folder: The folder of the cross-validation.
    """
    seed = base_seed(settings)
    fits = []
    for repeat in range(repeats):
        for fold in range(folds):
            name = f"repeat_{repeat + 1}_fold_{fold + 1}"
            held_out = f"{fold + 1}/{folds}@{seed + repeat}"
            own = {"seed_everything": seed + repeat * folds + fold, "held_out": held_out}
            keep = {"class_path": KEEP, "init_args": {"path": str(folder / name / "held_out")}}
            fits.append(make_fit(settings, folder, name, own, [keep], awaits=["test"]))
    return fits


def _print_end(
    folder: Path,
    fits: Sequence[Fit],
    scores: CrossValidation,
    predicted: int,
    against: tuple[str, Resampled] | None,
    page: Path | None,
) -> None:
    """What came of it."""
    rows = [(metric, score_line(scores, metric)) for metric in scores.metrics]
    if against is not None:
        rows.append((f"Against {against[0]}", difference_line(scores.metric, *against)))
    rows.append(("Folds", f"{len(scores.splits)} of {len(fits)}"))
    kept = f"{summary.shown_path(folder / PREDICTIONS)}: {summary.count(predicted, 'example')}, each by a model "
    rows += [("Predictions", f"{kept}that has not seen it")] if predicted else []
    rows += [("Report", summary.shown_path(page))] if page is not None else []
    print("\n" + summary.table(rows))


def _print_next(folder: Path, script: Sequence[str], rest: Sequence[str]) -> None:
    words = ["python", *script[1:], NAME, *rest, "--folder", "ANOTHER", "--against", summary.shown_path(folder)]
    print(f"To compare another configuration on the same folds, change it in: {shlex.join(words)}")


def score_line(scores: CrossValidation, metric: str) -> str:
    """A metric over the folds, in words."""
    found = scores.of(metric)
    low, high = found.interval
    mean, deviation = told(metric, found.mean), told_difference(metric, found.deviation).lstrip("+")
    return (
        f"{mean}, 95% interval {told(metric, low)} to {told(metric, high)} (Nadeau and Bengio); "
        f"folds scatter by {deviation}"
    )


def difference_line(metric: str, name: str, found: Resampled) -> str:
    """A paired comparison, in words."""
    low, high = (told_difference(metric, value) for value in found.interval)
    real = "more than chance" if found.p_value < 0.05 else "no more than chance may do"
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
    return f"{told_difference(metric, found.mean)} in {metric}, 95% interval {low} to {high}; {p}: {real}"

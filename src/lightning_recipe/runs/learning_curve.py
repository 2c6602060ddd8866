"""The subcommand `learning-curve`: fits on growing parts of the training data tell what more of it would bring."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_recipe.runs import procedure
from lightning_recipe.runs.fit import Fit, Settings, base_seed, default_folder, make_fit
from lightning_recipe.runs.judged_by import judged_by
from lightning_recipe.runs.learning_curve_report import report
from lightning_recipe.runs.pool_facts import training_examples
from lightning_recipe.runs.procedure import CommandLine

NAME = "learning-curve"
SMALLEST = 32  # the first subset is about this part of the training data
EACH = 2  # examples of each class, at least


def run(arguments: Sequence[str], command_line: CommandLine) -> None:
    """Make the fits that are not finished, then fit a law to their errors, or print the commands that would make them.

    Args:
        arguments: Those after `learning-curve`.
        command_line: The command line of the project.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        ValueError: If settings forbid a learning curve, the data are too few, or no fit came to its end.
    """
    options, rest = _parser().parse_known_args(arguments)
    settings = command_line.settings(["fit", *rest])
    check(settings)
    settings, judge = judged_by(settings, options.metric, options.mode)
    facts = training_examples(settings)
    if not facts.training or not facts.validation:
        raise ValueError("A learning curve needs training and validation data whose examples can be counted.")
    folder = Path(options.folder) if options.folder else default_folder(settings, "curve", "learning")
    sizes = sizes_of(facts.training, options.sizes, smallest(facts.training, facts.training_labels))
    fits = make_fits(settings, folder, sizes, options.repeats, options.match)
    script = procedure.script_words(NAME)
    waiting = procedure.waiting_fits(fits, sys.stderr if options.emit else sys.stdout)
    if options.emit:
        procedure.print_commands(options.emit, waiting, script, [*script, NAME, *arguments])
        return
    procedure.train_all(waiting, options, script, settings)
    finished = procedure.finished_fits(fits, "A learning curve", 2)
    report(folder, finished, judge, facts.validation if judge.is_share else None, base_seed(settings))


def _parser() -> argparse.ArgumentParser:
    parser = procedure.parser_of(
        NAME,
        "[--sizes N] [--repeats N] [--metric NAME]",
        "Train on growing parts of the training data by ordinary fits, each judged on the whole validation split, and "
        "say how much more data would bring how much less error. The same command goes on where it was stopped; fits "
        "that are finished are not made again.",
    )
    number = procedure.at_least
    parser.add_argument(
        "--sizes", type=number(2), default=6, metavar="N", help="how many sizes, up to all of the data (default: 6)"
    )
    parser.add_argument(
        "--repeats", type=number(2), default=3, metavar="N", help="fits of each size, of other examples (default: 3)"
    )
    procedure.add_metric_options(parser)
    parser.add_argument(
        "--match",
        choices=("examples", "passes"),
        default="examples",
        help="what all fits have alike: how many examples they are shown in all, so that small parts are passed over "
        "more often (default), or how often they pass over theirs",
    )
    procedure.add_options(parser)
    return parser


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings with which there is no learning curve.

    Raises:
        ValueError: If there are such.
    """
    procedure.refuse_shares(settings, "A learning curve")
    procedure.refuse_what_fits_cannot_have(settings, "A learning curve")


def smallest(total: int, labels: NDArray[np.int64] | None) -> int:
    """How many examples the smallest part has: one in 32, and two of each class, as far as classes are known.

    Args:
        total: Number of training examples.
        labels: Their classes; None where they have none.
    """
    least = max(2, math.ceil(total / SMALLEST))
    if labels is None or len(labels) == 0:
        return least
    counts = np.unique(labels, return_counts=True)[1]
    return max(least, math.ceil(EACH * total / int(counts.min())))


def sizes_of(total: int, number: int, least: int) -> list[int]:
    """Numbers of examples from the least to all of them, each about as many times the one before.

    Args:
        total: Number of training examples.
        number: How many sizes.
        least: The smallest.

    Raises:
        ValueError: If there are not so many sizes between.
    """
    sizes = sorted({round(float(size)) for size in np.geomspace(least, total, number)}) if least < total else []
    if len(sizes) < number:
        raise ValueError(
            f"--sizes {number} was given, but of {total} training examples the smallest part that has {EACH} of each "
            f"class in proportion is {least}: ask for fewer sizes, or give more data."
        )
    return sizes


def make_fits(settings: Settings, folder: Path, sizes: Sequence[int], repeats: int, match: str) -> list[Fit]:
    """The fits of a learning curve: those of one repeat have the same seed, and parts that hold one another.

    Args:
        settings: All settings of `fit`.
        folder: The folder of the procedure.
        sizes: Numbers of training examples, ascending, the last of which is all.
        repeats: How many fits of each size.
        match: "examples" passes over smaller parts so much more often; "passes" leaves the length as it is.
    """
    seed = base_seed(settings)
    return [
        make_fit(
            longer(settings, max(1, round(sizes[-1] / size)) if match == "examples" else 1),
            folder,
            f"examples_{size}_repeat_{repeat}",
            {"seed_everything": seed + repeat, "subset": f"{size}@{seed + repeat}"},
            awaits=["training"],
        )
        for size in sizes
        for repeat in range(repeats)
    ]


def longer(settings: Settings, times: int) -> Settings:
    """The settings of a fit of so many times the epochs, validated as often as before.

    Where the number of steps ends a fit, or an epoch has a limit, its length is known already and is left alone.
    """
    trainer = dict(settings["trainer"])
    epochs, every = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch")
    if times == 1 or trainer.get("limit_train_batches") not in (None, 1.0):
        return settings
    if every is not None:
        trainer["check_val_every_n_epoch"] = every * times
    if epochs is not None and epochs > 0:
        trainer["max_epochs"] = epochs * times
    least = trainer.get("min_epochs")
    if least:
        trainer["min_epochs"] = least * times
    return {**settings, "trainer": trainer}

"""The subcommand `ensemble`: trains several members by ordinary fits, and makes one checkpoint of them."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml  # type: ignore[import-untyped]

from lightning_recipe import summary
from lightning_recipe.runs import pool, procedure
from lightning_recipe.runs.ensemble_report import write_report
from lightning_recipe.runs.fit import Fit, Settings, default_folder
from lightning_recipe.runs.members import How, comparison_settings, make_members
from lightning_recipe.runs.procedure import CommandLine
from lightning_recipe.whole_file import whole_file

NAME = "ensemble"


def run(arguments: Sequence[str], command_line: CommandLine) -> None:
    """Train the members that are not finished, then build the ensemble, or print the commands that would train them.

    Args:
        arguments: Those after `ensemble`.
        command_line: The command line of the project.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        ValueError: If settings forbid an ensemble, members were trained with others, are damaged, or are fewer than 2.
    """
    options, rest = _parser().parse_known_args(arguments)
    settings = command_line.settings(["fit", *rest])
    _check(settings, options.how)
    folder = Path(options.folder) if options.folder else default_folder(settings, options.how, "ensemble")
    ensemble = {"average": options.average, "weighting": options.weighting, "folder": str(folder)}
    members = make_members(settings, options.how, options.members, folder, ensemble)
    script = procedure.script_words(NAME)
    is_main = int(os.environ.get("LOCAL_RANK", "0")) == 0  # another rank of this very command, for the comparison alone
    if is_main:
        waiting = procedure.waiting_fits(members, sys.stderr if options.emit else sys.stdout)
        if options.emit:
            procedure.print_commands(options.emit, waiting, script, [*script, NAME, *arguments])
            return
        _train(waiting, options, script, command_line, settings)
    finished = procedure.finished_fits(members, "An ensemble", 1 if options.how == "snapshots" else 2)
    compared = None
    if options.how != "snapshots":
        config = folder / "comparison.yaml"
        checkpoints = [member.entry.checkpoint() for member in finished]
        if is_main:
            _write(config, comparison_settings(settings, folder, checkpoints, ensemble))
        with pool.as_command(script, ["validate", "--config", str(config)]):
            compared = command_line.run()
    if is_main:
        page = write_report(folder, finished, compared.trainer if compared is not None else None)
        _print_end(folder, members, finished, [*script[1:]], rest, page)


def _parser() -> argparse.ArgumentParser:
    parser = procedure.parser_of(
        NAME,
        "[--members N] [--how HOW]",
        "Train several models by ordinary fits, each in a folder of its own, and make one checkpoint of "
        "them that test and predict take like any other. The same command goes on where it was stopped; members "
        "that are finished are not trained again.",
    )
    parser.add_argument("--members", type=procedure.at_least(2), default=5, metavar="N", help="how many (default: 5)")
    parser.add_argument(
        "--how",
        choices=get_args(How),
        default="seeds",
        help="what they differ in: the seed alone (default); the fold of the training data that each leaves out; the "
        "bootstrap sample that each is trained on; or snapshots of one fit at the ends of N cycles of its rate",
    )
    procedure.add_options(parser)
    parser.add_argument("--average", choices=("probabilities", "logits"), default="probabilities")
    parser.add_argument("--weighting", choices=("equal", "fitted", "greedy"), default="equal")
    return parser


def _check(settings: Mapping[str, Any], how: How) -> None:
    """Refuse settings with which no member could come out.

    Raises:
        ValueError: If there are such.
    """
    own = {"folds": "fold", "bagging": "bootstrap"}.get(how)
    if own and settings.get(own) is not None:
        raise ValueError(f"--how {how} gives each member a --{own} of its own: leave --{own} {settings[own]} out.")
    procedure.refuse_what_fits_cannot_have(settings, "An ensemble")


def _train(
    waiting: Sequence[Fit],
    options: argparse.Namespace,
    script: Sequence[str],
    command_line: CommandLine,
    settings: Settings,
) -> None:
    if options.jobs == 1 and procedure.uses_one_device(settings["trainer"]):
        pool.train_here(waiting, options.retries, script, command_line.run)
    else:
        procedure.train_all(waiting, options, script, settings)


def _print_end(
    folder: Path,
    members: Sequence[Fit],
    finished: Sequence[Fit],
    script: Sequence[str],
    rest: Sequence[str],
    page: Path | None,
) -> None:
    """Where the ensemble is, and how to use it.

    Raises:
        ValueError: If it was not written.
    """
    path = folder / "ensemble.ckpt"
    if not path.is_file():
        raise ValueError(f"The fits came to an end, but no ensemble was written to {path}: the findings say why.")
    words = ["--ckpt_path", summary.shown_path(path)]
    rows = [("Ensemble", summary.shown_path(path)), ("Fits", f"{len(finished)} of {len(members)}")]
    rows += [("Report", summary.shown_path(page))] if page is not None else []
    rows += [(name.capitalize(), shlex.join(["python", *script, name, *rest, *words])) for name in ("test", "predict")]
    print("\n" + summary.table(rows))


def _write(path: Path, settings: Settings) -> None:
    with whole_file(path) as file:
        yaml.safe_dump(settings, file, sort_keys=False)

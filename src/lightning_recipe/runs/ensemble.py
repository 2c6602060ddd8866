"""The subcommand `ensemble`: trains several members by ordinary fits, and makes one checkpoint of them."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_args

import torch
import yaml  # type: ignore[import-untyped]

from lightning_recipe import summary
from lightning_recipe.runs import emit, pool
from lightning_recipe.runs.ensemble_report import write_report
from lightning_recipe.runs.members import How, Member, Settings, comparison_settings, default_folder, make_members
from lightning_recipe.whole_file import whole_file

NAME = "ensemble"
EPILOG = "Besides: `ensemble --members 5 --how seeds|folds|snapshots|bagging` trains several and makes one of them."


@dataclass(frozen=True)
class CommandLine:
    """What the procedure needs of the command line above it.

    Args:
        settings: Returns all settings of a subcommand as plain values, for the arguments that follow the script;
            nothing is built.
        run: Runs the command line on `sys.argv`.
    """

    settings: Callable[[Sequence[str]], Settings]
    run: Callable[[], Any]


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
    folder = Path(options.folder) if options.folder else default_folder(settings, options.how)
    ensemble = {"average": options.average, "weighting": options.weighting, "folder": str(folder)}
    members = make_members(settings, options.how, options.members, folder, ensemble)
    script = script_words(NAME)
    is_main = int(os.environ.get("LOCAL_RANK", "0")) == 0  # another rank of this very command, for the comparison alone
    if is_main:
        waiting = _waiting(members, sys.stderr if options.emit else sys.stdout)
        if options.emit:
            _print_commands(options.emit, waiting, script, [*script, NAME, *arguments])
            return
        _train(waiting, options, script, command_line, settings)
    finished = _finished(members, options.how)
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
    parser = argparse.ArgumentParser(
        prog=f"{Path(sys.argv[0]).name} {NAME}",
        allow_abbrev=False,
        usage="%(prog)s --config FILE [--members N] [--how HOW] [options below] [any option of fit]",
        description="Train several models by ordinary fits, each in a folder of its own, and make one checkpoint of "
        "them that test and predict take like any other. The same command goes on where it was stopped; members "
        "that are finished are not trained again. All other options are those of fit.",
    )
    parser.add_argument("--members", type=_at_least(2), default=5, metavar="N", help="how many (default: 5)")
    parser.add_argument(
        "--how",
        choices=get_args(How),
        default="seeds",
        help="what they differ in: the seed alone (default); the fold of the training data that each leaves out; the "
        "bootstrap sample that each is trained on; or snapshots of one fit at the ends of N cycles of its rate",
    )
    parser.add_argument("--jobs", type=_at_least(1), default=1, metavar="N", help="how many fits at once (default: 1)")
    parser.add_argument(
        "--retries", type=_at_least(0), default=1, metavar="N", help="new attempts for a member that fails (default: 1)"
    )
    parser.add_argument("--folder", help="where everything goes (default: beside the logs of a single run)")
    parser.add_argument("--average", choices=("probabilities", "logits"), default="probabilities")
    parser.add_argument("--weighting", choices=("equal", "fitted", "greedy"), default="equal")
    parser.add_argument(
        "--emit", choices=("commands", "slurm"), help="print the fits for other machines that share the folder"
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, but got {text!r}")
        return int(text)

    return number


def _check(settings: Mapping[str, Any], how: How) -> None:
    """Refuse settings with which no member could come out.

    Raises:
        ValueError: If there are such.
    """
    trainer = settings["trainer"]
    own = {"folds": "fold", "bagging": "bootstrap"}.get(how)
    if own and settings.get(own) is not None:
        raise ValueError(f"--how {how} gives each member a --{own} of its own: leave --{own} {settings[own]} out.")
    if settings.get("ckpt_path"):
        raise ValueError("Each member of an ensemble is trained from its start: leave --ckpt_path out.")
    if trainer.get("fast_dev_run") or trainer.get("enable_checkpointing") is False:
        raise ValueError(
            "An ensemble is made of checkpoints, and these settings keep none: leave out fast_dev_run and "
            "enable_checkpointing: false."
        )


def _waiting(members: Sequence[Member], out: TextIO) -> list[Member]:
    """The members yet to be trained, with their configurations written; the finished ones are looked at and told."""
    waiting = []
    for member in members:
        member.write_config()
        if member.entry.read()["status"] == "finished":
            print(f"{member.name} is finished: {summary.shown_path(member.entry.checkpoint())}", file=out)
        else:
            waiting.append(member)
    return waiting


def _print_commands(form: str, waiting: Sequence[Member], script: Sequence[str], again: Sequence[str]) -> None:
    words = [word for place, word in enumerate(again) if "--emit" not in (word.partition("=")[0], again[place - 1])]
    if not waiting:
        print(f"# all members are finished: {shlex.join(words)}")
        return
    print((emit.as_slurm if form == "slurm" else emit.as_commands)(waiting, script, words))


def _train(
    waiting: Sequence[Member],
    options: argparse.Namespace,
    script: Sequence[str],
    command_line: CommandLine,
    settings: Settings,
) -> None:
    one = _uses_one_device(settings["trainer"])
    if options.jobs == 1 and one:
        pool.train_here(waiting, options.retries, script, command_line.run)
    else:
        gpus = visible_gpus() if options.jobs > 1 and one is not False and _may_use_gpus(settings["trainer"]) else []
        pool.train_apart(waiting, options.retries, script, options.jobs, gpus)


def _uses_one_device(trainer: Mapping[str, Any]) -> bool | None:
    """Whether a fit runs in one process; None where it would take all GPUs that it sees."""
    devices = str(trainer.get("devices", "auto"))
    if int(trainer.get("num_nodes") or 1) > 1:
        return False
    if devices in ("auto", "-1"):
        return True if not _may_use_gpus(trainer) or torch.cuda.device_count() < 2 else None
    return devices in ("1", "[0]")


def _may_use_gpus(trainer: Mapping[str, Any]) -> bool:
    return trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def _finished(members: Sequence[Member], how: How) -> list[Member]:
    """The members that are finished; the others are told of.

    Raises:
        ValueError: If others are at work on some of them, or too few are left.
    """
    finished = [member for member in members if member.entry.read()["status"] == "finished"]
    rest = [member for member in members if member not in finished]
    held = [f"{member.name} ({holder})" for member in rest if (holder := member.entry.holder())]
    if held:
        raise ValueError(f"{', '.join(held)} is being trained elsewhere: give the same command when that has ended.")
    least = 1 if how == "snapshots" else 2
    reasons = [f"{member.name}: {member.entry.read().get('error', 'not trained')}" for member in rest]
    if len(finished) < least:
        raise ValueError(
            f"An ensemble needs at least 2 members, and {len(finished)} of {len(members)} fits came to an end "
            f"({'; '.join(reasons)}): remove what stopped them, and give the same command again."
        )
    for reason in reasons:
        print(f"warning: left out of the ensemble is {reason}", file=sys.stderr)
    return finished


def _print_end(
    folder: Path,
    members: Sequence[Member],
    finished: Sequence[Member],
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


def script_words(subcommand: str) -> list[str]:
    """The words that start this program, before the subcommand."""
    words = sys.orig_argv
    given = words[1 : words.index(subcommand)] if subcommand in words else [sys.argv[0]]
    return [sys.executable, *given]

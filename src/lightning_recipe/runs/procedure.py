"""What the procedures of several fits have in common: their options, their fits, and how these are made."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from lightning_recipe import summary
from lightning_recipe.runs import emit, pool
from lightning_recipe.runs.fit import SHARES, Fit, Settings


@dataclass(frozen=True)
class CommandLine:
    """What a procedure needs of the command line above it.

    Args:
        settings: Returns all settings of a subcommand as plain values, for the arguments that follow the script;
            nothing is built.
        run: Runs the command line on `sys.argv`.
    """

    settings: Callable[[Sequence[str]], Settings]
    run: Callable[[], Any]


def parser_of(name: str, options: str, description: str) -> argparse.ArgumentParser:
    """A parser for the options of a procedure, which leaves those of fit alone.

    Args:
        name: Of the subcommand.
        options: The most important of its options, as shown in the usage.
        description: What it does.
    """
    return argparse.ArgumentParser(
        prog=f"{Path(sys.argv[0]).name} {name}",
        allow_abbrev=False,
        usage=f"%(prog)s --config FILE {options} [options below] [any option of fit]",
        description=f"{description} All other options are those of fit.",
    )


def add_options(parser: argparse.ArgumentParser, emits: Sequence[str] = ("commands", "slurm")) -> None:
    """Add the options that all procedures of several fits have.

    Args:
        parser: Of the procedure.
        emits: What it can print instead of working.
    """
    parser.add_argument("--jobs", type=at_least(1), default=1, metavar="N", help="how many fits at once (default: 1)")
    parser.add_argument(
        "--retries", type=at_least(0), default=1, metavar="N", help="new attempts for a fit that fails (default: 1)"
    )
    parser.add_argument("--folder", help="where everything goes (default: beside the logs of a single run)")
    parser.add_argument("--emit", choices=emits, help="print the fits for other machines that share the folder")


def add_metric_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the metric by which fits are judged; see `judged_by`."""
    parser.add_argument("--metric", metavar="NAME", help="what fits are judged by (default: that of their checkpoints)")
    parser.add_argument("--mode", choices=("min", "max"), help="whether low or high is good, where that is not known")


def at_least(least: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers from `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, but got {text!r}")
        return int(text)

    return number


def refuse_what_fits_cannot_have(settings: Mapping[str, Any], what: str) -> None:
    """Refuse settings with which no fit of a procedure could come to its end.

    Args:
        settings: All settings of `fit` as the user gave them.
        what: The procedure, at the beginning of a sentence: "An ensemble".

    Raises:
        ValueError: If there are such.
    """
    trainer = settings["trainer"]
    if settings.get("ckpt_path"):
        raise ValueError(f"{what} is made of fits from their start: leave --ckpt_path out.")
    if trainer.get("fast_dev_run") or trainer.get("enable_checkpointing") is False:
        raise ValueError(
            f"{what} is made of checkpoints, and these settings keep none: leave out fast_dev_run and "
            "enable_checkpointing: false."
        )


def refuse_shares(settings: Mapping[str, Any], what: str) -> None:
    """Refuse settings that say what share of the data a fit gets, where the procedure says it.

    Args:
        settings: All settings of `fit` as the user gave them.
        what: The procedure, at the beginning of a sentence: "A cross-validation".

    Raises:
        ValueError: If they do.
    """
    for name in SHARES:
        if settings.get(name) is not None:
            raise ValueError(f"{what} gives each fit its own share of the data: leave --{name} {settings[name]} out.")


def waiting_fits(fits: Sequence[Fit], out: TextIO) -> list[Fit]:
    """The fits yet to be made, with their configurations written; the finished ones are looked at and told."""
    waiting = []
    for fit in fits:
        fit.write_config()
        if fit.entry.read()["status"] == "finished":
            print(f"{fit.name} is finished: {summary.shown_path(fit.entry.checkpoint())}", file=out)
        else:
            waiting.append(fit)
    return waiting


def print_commands(form: str, waiting: Sequence[Fit], script: Sequence[str], again: Sequence[str]) -> None:
    """Print the fits that are to be made, as commands or as a script for SLURM.

    Args:
        form: "commands" or "slurm".
        waiting: The fits.
        script: The words that start the command line.
        again: The words of this command.
    """
    words = [word for place, word in enumerate(again) if "--emit" not in (word.partition("=")[0], again[place - 1])]
    if not waiting:
        print(f"# all fits are finished: {shlex.join(words)}")
        return
    print((emit.as_slurm if form == "slurm" else emit.as_commands)(waiting, script, words))


def train_all(
    fits: Iterable[Fit | None],
    options: argparse.Namespace,
    script: Sequence[str],
    settings: Settings,
    total: int | None = None,
    **heard: Any,
) -> None:
    """Make fits in processes of their own, isolated from one another; see `pool.train_apart`.

    Args:
        fits: Those to make; an iterator may give None for "none for now".
        options: With those of `add_options`.
        script: The words that start the command line.
        settings: Those of the fits.
        total: How many there will be; by default as many as `fits` has.
        heard: `ended` and `look` of `pool.train_apart`.
    """
    total = len(fits) if total is None and isinstance(fits, Sequence) else total
    pool.train_apart(fits, options.retries, places_of(settings, options.jobs, script), total=total, **heard)


def places_of(settings: Settings, jobs: int, script: Sequence[str]) -> pool.Places:
    """Where the fits run: on GPUs of their own where there are several fits at once, else on all that a fit asks for.

    Raises:
        ValueError: If there are fewer GPUs than so many fits at once ask for, or they are named one by one.
    """
    trainer = settings["trainer"]
    one = uses_one_device(trainer)
    gpus = _gpus_for(trainer, jobs) if jobs > 1 and _may_use_gpus(trainer) else []
    return pool.Places(script, jobs, gpus, warm=one is True or (one is None and bool(gpus)))


def _gpus_for(trainer: Mapping[str, Any], jobs: int) -> list[str]:
    """GPUs for each of several fits at once, as CUDA_VISIBLE_DEVICES has them; small fits may share one."""
    devices, present = str(trainer.get("devices", "auto")), visible_gpus()
    if devices in ("auto", "-1", "1", "[0]"):
        return present
    if not devices.isdecimal():
        raise ValueError(
            f"--jobs {jobs} gives each fit GPUs of its own, but --trainer.devices {devices} names them: give their "
            "number, and choose among all with the environment variable CUDA_VISIBLE_DEVICES."
        )
    each, groups = int(devices), len(present) // int(devices)
    if jobs > groups:
        raise ValueError(
            f"--jobs {jobs} with --trainer.devices {each} needs {jobs * each} GPUs, and there are {len(present)}: use "
            f"--jobs {max(1, groups)}."
        )
    return [",".join(present[group * each : (group + 1) * each]) for group in range(groups)]


def uses_one_device(trainer: Mapping[str, Any]) -> bool | None:
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


def finished_fits(fits: Sequence[Fit], what: str, least: int) -> list[Fit]:
    """The fits that are finished; the others are told of.

    Args:
        fits: All of the procedure.
        what: The procedure, at the beginning of a sentence: "An ensemble".
        least: How many it needs.

    Raises:
        ValueError: If others are at work on some of them, or too few are left.
    """
    finished = [fit for fit in fits if fit.entry.read()["status"] == "finished"]
    rest = [fit for fit in fits if fit not in finished]
    held = [f"{fit.name} ({holder})" for fit in rest if (holder := fit.entry.holder())]
    if held:
        raise ValueError(f"{', '.join(held)} is being trained elsewhere: give the same command when that has ended.")
    reasons = [f"{fit.name}: {fit.entry.read().get('error', 'not trained')}" for fit in rest]
    if len(finished) < least:
        raise ValueError(
            f"{what} needs at least {least} fits, and {len(finished)} of {len(fits)} came to an end "
            f"({'; '.join(reasons)}): remove what stopped them, and give the same command again."
        )
    for reason in reasons:
        print(f"warning: left out is {reason}", file=sys.stderr)
    return finished


def script_words(subcommand: str) -> list[str]:
    """The words that start this program, before the subcommand."""
    words = sys.orig_argv
    given = words[1 : words.index(subcommand)] if subcommand in words else [sys.argv[0]]
    return [sys.executable, *given]

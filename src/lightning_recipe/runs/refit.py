"""The subcommand `refit`: after early stopping, training and validation data together make the final model."""

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_recipe import summary
from lightning_recipe.runs import pool, procedure
from lightning_recipe.runs.fit import RECORD, SHARES, Fit, Settings, as_list, base_seed, default_folder, make_fit
from lightning_recipe.runs.judged_by import KEEPER, is_keeper
from lightning_recipe.runs.losses_at_best import LossesAtBest, losses_at_best
from lightning_recipe.runs.pool_facts import PoolFacts, training_examples
from lightning_recipe.runs.procedure import CommandLine
from lightning_recipe.runs.stopping_point import StoppingPoint, config_of, stopping_point

NAME = "refit"
CALLBACKS = "lightning_recipe.runs.refit_callbacks"
EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
# What keeps a checkpoint goes on to keep the last; what makes it wait for a metric is left out.
OF_KEEPERS = ("dirpath", "policy", "require_clean", "margin", "on_error", "save_weights_only", "verbose")
LAST: Settings = {"monitor": None, "save_top_k": 1, "save_on_train_epoch_end": True, "filename": "refitted-{step}"}
LAST |= {"auto_insert_metric_name": False}
ENDLESS = 1_000_000_000
# Rules for which validation examples have to be new, and why they are left out.
OF_NEW_EXAMPLES = ("no-leak", "bias-variance", "prediction-dynamics", "worst-errors", "selective-prediction")
TRAINED_ON = "the validation examples are trained on: their loss is an aim of training and no score"
NO_SCORE = "none: all validation examples were trained on; only a test tells how good it is, once"


def run(arguments: Sequence[str], command_line: CommandLine) -> None:
    """Make the one fit of a refit, if it is not finished, or print its command.

    Args:
        arguments: Those after `refit`.
        command_line: The command line of the project.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        FileNotFoundError: There is no such run, or no checkpoint of it.
        ValueError: If the run cannot be refitted so, or the fit has failed.
    """
    options, rest = _parser().parse_known_args(arguments)
    source = Path(options.run)
    settings = command_line.settings(["fit", "--config", str(config_of(source)), *rest])
    settings["ckpt_path"] = None  # of a run that was resumed
    check(settings)
    stopped = stopping_point(source, options.ckpt_path)
    facts = training_examples(settings)
    check_data(facts)
    folder = Path(options.folder) if options.folder else default_folder(settings, NAME, "run") / source.resolve().name
    script = procedure.script_words(NAME)
    losses = None
    if options.strategy == "restart":
        fit, says = restart(settings, folder, stopped, facts, options.match)
    else:
        losses = losses_at_best(settings, folder, stopped.checkpoint, script, command_line, options.loss)
        fit, says = go_on(settings, folder, stopped, losses, options.cap)
    print(says, file=sys.stderr if options.emit else sys.stdout)
    waiting = procedure.waiting_fits([fit], sys.stderr if options.emit else sys.stdout)
    if options.emit:
        procedure.print_commands(options.emit, waiting, script, [*script, NAME, *arguments])
        return
    if options.jobs == 1 and procedure.uses_one_device(fit.settings["trainer"]):
        pool.train_here(waiting, options.retries, script, command_line.run)
    else:
        procedure.train_all(waiting, options, script, fit.settings)
    procedure.finished_fits([fit], "A refit", 1)
    print_end(fit, losses, [*script[1:]])


def _parser() -> argparse.ArgumentParser:
    parser = procedure.parser_of(
        NAME,
        "--run FOLDER [--strategy restart|continue]",
        "Train on training and validation data together, once early stopping has told for how long (Goodfellow et al. "
        "2016, section 7.8). The settings are those of the run; options of fit are laid over them.",
    )
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the log folder of a finished run")
    parser.add_argument("--ckpt_path", metavar="FILE", help="its best checkpoint (default: what it has recorded)")
    parser.add_argument(
        "--strategy",
        choices=("restart", "continue"),
        default="restart",
        help="train anew for as long as the run had until its best (default), or go on from its best until the loss on "
        "the old validation part is below what it was on the training part",
    )
    parser.add_argument(
        "--match",
        choices=("steps", "passes"),
        default="steps",
        help="what a restart has alike: the optimiser steps (default), or how often each example is seen",
    )
    parser.add_argument(
        "--cap", type=procedure.at_least(1), metavar="EPOCHS", help="the longest that `continue` goes on (default: as "
        "many epochs as the run had until its best)"
    )  # fmt: skip
    parser.add_argument("--loss", metavar="NAME", help="the loss that `continue` follows, as validation logs it")
    procedure.add_options(parser)
    return parser


def check(settings: Mapping[str, Any]) -> None:
    """Refuse a run that cannot be refitted.

    Raises:
        ValueError: If it was trained on a part of its data, or keeps no checkpoints.
    """
    for name in SHARES:
        if settings.get(name) is not None:
            raise ValueError(
                f"The run has the option --{name} {settings[name]}, by which it was trained on data of its own: refit "
                "a run of all training data."
            )
    procedure.refuse_what_fits_cannot_have(settings, "A refit")


def check_data(facts: PoolFacts) -> None:
    """Refuse data of which a refit would not make more.

    Raises:
        ValueError: If there are no validation examples, or they cannot be counted.
    """
    if facts.training is None or facts.validation is None:
        raise ValueError("A refit needs training and validation data whose examples can be counted.")
    if facts.validation == 0:
        raise ValueError("The run has no validation examples, so that a refit would train on what it was trained on.")


def restart(settings: Settings, folder: Path, stopped: StoppingPoint, facts: PoolFacts, match: str) -> tuple[Fit, str]:
    """The fit that begins anew, and what is said of it before (Goodfellow et al. 2016, algorithm 7.2).

    Epochs have as many batches as they had, where steps are matched, so that schedules have the length that they had
    and each step has the rate that it had; else as many more as there are examples.

    Args:
        settings: Those of the run.
        folder: Of the refit.
        stopped: Where the run was at its best.
        facts: Numbers of examples.
        match: "steps" or "passes".

    Raises:
        ValueError: If the rate of the run waits for a metric, or no epoch had ended at its best.
    """
    if stopped.waits:
        raise ValueError(
            "The learning rate of the run was lowered when a validation metric stopped to improve, and a refit has no "
            "such metric: refit with --strategy continue, or give the model another schedule."
        )
    assert facts.training is not None
    assert facts.validation is not None
    more = 1 + facts.validation / facts.training
    step = stopped.step if match == "steps" else max(1, round(stopped.step * more))
    trainer = {**settings["trainer"], "limit_val_batches": 0, "num_sanity_val_steps": 0, "max_time": None}
    if match == "steps":
        if stopped.batches is None:
            raise ValueError(
                f"{stopped.checkpoint} was saved before the first epoch had ended, so that the length of one is not "
                "known: refit with --match passes."
            )
        trainer["limit_train_batches"] = stopped.batches
    else:
        trainer |= _stretched(trainer, more)
    trainer["callbacks"] = without_metrics(trainer)
    callback = {"class_path": f"{CALLBACKS}.StopAtStep", "init_args": {"step": step}}
    own = {"seed_everything": base_seed(settings), "all_data": "anew"}
    fit = make_fit({**settings, "trainer": trainer}, folder, "restart", own, [callback])
    same = "as many" if match == "steps" else f"{more:.3g} times as many"
    seen = "with batches as large, as many examples are seen" if match == "steps" else "each is seen as often"
    says = (
        f"restart: anew on {facts.training:,} training and {facts.validation:,} validation examples for {step:,} "
        f"optimiser steps, {same} as the run had at its best ({told(stopped)}): {seen}."
    )
    return fit, says


def _stretched(trainer: Mapping[str, Any], more: float) -> Settings:
    """Limits that are numbers of steps or batches, for so many times the examples."""
    stretched: Settings = {}
    steps, batches = trainer.get("max_steps"), trainer.get("limit_train_batches")
    if isinstance(steps, int) and steps > 0:
        stretched["max_steps"] = math.ceil(steps * more)
    if isinstance(batches, int) and not isinstance(batches, bool):
        stretched["limit_train_batches"] = math.ceil(batches * more)
    return stretched


def go_on(
    settings: Settings, folder: Path, stopped: StoppingPoint, losses: LossesAtBest, cap: int | None
) -> tuple[Fit, str]:
    """The fit that goes on from the best weights, and what is said of it before (Goodfellow et al., algorithm 7.3).

    Args:
        settings: Those of the run.
        folder: Of the refit.
        stopped: Where the run was at its best.
        losses: Of its best weights.
        cap: Epochs at most; None for as many as the run had until its best.

    Raises:
        ValueError: If the validation loss was under the training loss already.
    """
    if losses.validation < losses.training:
        raise ValueError(
            f"At its best the run has {losses.name} {losses.validation:.4g} on validation data, below "
            f"{losses.training:.4g} on training data, where `continue` would stop at once: use that checkpoint, or "
            "--strategy restart."
        )
    epochs = cap or stopped.epoch + 1
    rate = "" if stopped.rate is None else f" at its rate of {stopped.rate:.2g}, held constant,"
    length = {"max_epochs": epochs, "max_steps": -1, "min_epochs": None, "min_steps": None, "max_time": None}
    every = {"check_val_every_n_epoch": 1, "val_check_interval": None, "num_sanity_val_steps": 0}
    trainer = {**settings["trainer"], **length, **every}
    trainer["callbacks"] = without_metrics(trainer)
    start = {"class_path": f"{CALLBACKS}.StartFrom", "init_args": {"checkpoint": str(stopped.checkpoint)}}
    until = {"monitor": losses.name, "mode": "min", "stopping_threshold": losses.training, "patience": ENDLESS}
    callbacks = [start, {"class_path": EARLY_STOPPING, "init_args": until}]
    ignored = {**dict.fromkeys(OF_NEW_EXAMPLES, TRAINED_ON), **settings.get("ignore_rules", {})}
    own = {"seed_everything": base_seed(settings), "all_data": "kept", "ignore_rules": ignored}
    fit = make_fit({**settings, "trainer": trainer}, folder, "continue", own, callbacks)
    says = (
        f"continue: from the best of the run ({told(stopped)}){rate} on all of the data, until {losses.name} on "
        f"the old validation part falls from {losses.validation:.4g} under the {losses.training:.4g} of the training "
        f"part, for {summary.count(epochs, 'epoch')} at most."
    )
    return fit, says


def told(stopped: StoppingPoint) -> str:
    """Where a run was at its best, in words."""
    score = f", {stopped.monitor} {stopped.score:.4g}" if stopped.monitor and stopped.score is not None else ""
    return f"step {stopped.step:,} in epoch {stopped.epoch + 1}{score}"


def without_metrics(trainer: Mapping[str, Any]) -> list[Any]:
    """The callbacks of a run that has no validation metric to go by: one that keeps the last weights, no monitors.

    What only the procedure of that run has needed is left out too.
    """
    kept: list[Any] = []
    has_keeper = False
    for one in as_list(trainer.get("callbacks")):
        path, options = one["class_path"], one.get("init_args") or {}
        if is_keeper(one):
            if not has_keeper:
                own = {name: options[name] for name in OF_KEEPERS if options.get(name) is not None}
                kept.append({"class_path": path, "init_args": {**own, **LAST}})
            has_keeper = True
        elif path != RECORD and not path.startswith(CALLBACKS) and "monitor" not in options:
            kept.append(one)
    return kept if has_keeper else [*kept, {"class_path": KEEPER, "init_args": LAST}]


def print_end(fit: Fit, losses: LossesAtBest | None, script: Sequence[str]) -> None:
    """What ended the fit, where the model is, and that nothing is known of how good it is."""
    record = fit.entry.read()
    path = summary.shown_path(fit.entry.checkpoint())
    rows = [("Checkpoint", path), ("Trained", f"{record['step']:,} steps on training and validation data")]
    if losses is not None:
        rows.append(("Ended by", ended_by(losses, record)))
    rows.append(("Score", NO_SCORE))
    words = ["python", *script, "test", "--config", str(fit.config), "--ckpt_path", path]
    rows.append(("Test", shlex.join(words)))
    print("\n" + summary.table(rows))


def ended_by(losses: LossesAtBest, record: Mapping[str, Any]) -> str:
    """Whether the threshold or the cap has ended a fit that went on."""
    last = record["metrics"].get(losses.name)
    if last is None:
        return f"a {losses.name} that is not finite: take the checkpoint of the run, or lower its rate"
    if last < losses.training:
        return f"the threshold: {losses.name} {last:.4g} on the old validation part is under {losses.training:.4g}"
    return (
        f"the cap: {losses.name} {last:.4g} on the old validation part is not under {losses.training:.4g}; a longer "
        "--cap may do it, or --strategy restart where the rate had fallen far already"
    )

"""The subcommand `search`: trains trials with other values of some options, and finds the best of them."""

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_recipe import summary
from lightning_recipe.runs import procedure
from lightning_recipe.runs.crossval_scores import counterpart
from lightning_recipe.runs.fit import Settings, base_seed, default_folder
from lightning_recipe.runs.judged_by import Judge, judged_by
from lightning_recipe.runs.pool_facts import training_examples
from lightning_recipe.runs.procedure import CommandLine
from lightning_recipe.runs.search import default_space, workers
from lightning_recipe.runs.search.plan import PRUNERS, SAMPLERS, Plan
from lightning_recipe.runs.search.space import read_space, short
from lightning_recipe.runs.search.trial_fits import make_fits
from lightning_recipe.runs.search.wandb_sweep import as_sweep

NAME = "search"
JOURNAL = "study.journal"


def run(arguments: Sequence[str], command_line: CommandLine) -> None:
    """Make the trials that are missing and tell which is the best, or print what would make them.

    Args:
        arguments: Those after `search`.
        command_line: The command line of the project.

    Raises:
        SystemExit: With status 2, if the arguments make no sense; with 0 after `--help`.
        ValueError: If settings, space or storage forbid a search, or no trial came to its end.
        ImportError: If Optuna or a driver is not installed.
        OSError: If the storage does not answer.
    """
    options, rest = _parser().parse_known_args(arguments)
    settings = command_line.settings(["fit", *rest])
    space = read_space(Path(options.space), settings) if options.space else default_space.default_space(settings)
    if options.print_space:
        print(default_space.printed(space, settings))
        return
    procedure.refuse_what_fits_cannot_have(settings, "A search")
    settings, objective = judged_by(settings, options.metric, options.mode)
    folder = Path(options.folder) if options.folder else default_folder(settings, NAME, "fit")
    plan = Plan(
        space=tuple(space),
        objective=objective if options.folds is None else of_folds(objective),
        trials=options.trials,
        rounds=options.rounds,
        seed=base_seed(settings),
        sampler=options.sampler,
        pruner=options.pruner,
        folds=options.folds,
    )
    if options.folds is not None:
        _check_folds(plan, settings, folder)
    script = procedure.script_words(NAME)
    where = options.storage or str(folder / JOURNAL)
    if options.emit:
        print(_emitted(options, plan, settings, script, [*arguments], rest, folder, where))
        return
    if importlib.util.find_spec("optuna") is None:
        raise ImportError("search needs Optuna, which is not installed: `pip install 'lightning-rules[train]'`.")
    _search(options, plan, settings, folder, where, script)


def _search(
    options: argparse.Namespace, plan: Plan, settings: Settings, folder: Path, where: str, script: Sequence[str]
) -> None:
    from lightning_recipe.runs.search import ending, samplers, storage
    from lightning_recipe.runs.search.search import Search, strangers
    from lightning_recipe.runs.search.standing import Standing

    name = options.study or folder.name
    kept = storage.open_storage(where)
    standing = Standing(kept, name, plan)
    sampler = samplers.make_sampler(plan, standing)
    pruner = samplers.make_pruner(plan.pruner, plan.folds or validations(settings["trainer"]))
    with storage.answering(where):
        study = storage.open_study(kept, name, plan.describe(settings), where, sampler, pruner)
        others = strangers(plan, folder, standing.all())
        if others:
            raise ValueError(
                f"{folder} holds {others[0]}, of which the study {name} in {storage.without_password(where)} knows "
                "nothing: choose another --folder, or the --study and --storage that it belongs to."
            )
        print(_told(plan, name, storage.without_password(where)), flush=True)
        search = Search(study, standing, settings, folder)
        done = sum(one.state.is_finished() for one in standing.trials())
        heard = {"ended": search.ended, "look": search.look}
        try:
            left = (plan.total - done) * (plan.folds or 1)
            procedure.train_all(search.fits(), options, script, settings, left, **heard)
        finally:
            search.close()
        ending.end(study, standing, settings, folder, script[1:])


def of_folds(judge: Judge) -> Judge:
    """The metric of the test by which folds are judged.

    Args:
        judge: What the checkpoints of the fits go by.

    Raises:
        ValueError: If its name does not tell which it is.
    """
    metric = counterpart(judge.metric)
    if metric is None:
        raise ValueError(
            f"--folds judges trials by the test's counterpart of what their checkpoints go by, and {judge.metric} does "
            "not tell which that is: name a metric of the validation, as in --metric val/accuracy."
        )
    return Judge(metric, judge.mode)


def _check_folds(plan: Plan, settings: Settings, folder: Path) -> None:
    """Cut the data as the fits will; what it refuses, it refuses now."""
    procedure.refuse_shares(settings, "A search on folds")
    training_examples(make_fits(plan, settings, folder, 0)[0].settings)


def _parser() -> argparse.ArgumentParser:
    parser = procedure.parser_of(
        NAME,
        "[--space FILE] [--trials N]",
        "Train trials by ordinary fits, each with other values of some options of fit and in a folder of its own, and "
        "write the best settings as a file that fit takes. The same command goes on where it was stopped, and shares "
        "the work with the same command on other machines.",
    )
    parser.add_argument("--space", metavar="FILE", help="what is searched (default: the options that matter most)")
    parser.add_argument("--print-space", action="store_true", help="print the space as a file to edit, and end")
    parser.add_argument(
        "--trials", type=procedure.at_least(1), default=20, metavar="N", help="how many over all machines (default: 20)"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="random", help="how points are chosen (default: random)")
    parser.add_argument("--pruner", choices=PRUNERS, default="none", help="which ends hopeless trials (default: none)")
    parser.add_argument(
        "--rounds",
        type=procedure.at_least(1),
        default=1,
        metavar="N",
        help="after each Nth of the trials the ranges are halved around the best (default: 1)",
    )
    parser.add_argument(
        "--folds",
        type=procedure.at_least(2),
        metavar="K",
        help="train and test each trial on K folds of training and validation data, as crossval does (default: one fit "
        "a trial, judged by the validation data)",
    )
    procedure.add_metric_options(parser)
    parser.add_argument(
        "--storage",
        help="where the study is kept: the path of a journal or the URL of a database (default: a journal "
        "in the folder)",
    )
    parser.add_argument("--study", metavar="NAME", help="what it is called there (default: the name of the folder)")
    procedure.add_options(parser, ("commands", "slurm", "wandb"))
    parser.set_defaults(retries=0)
    return parser


def _emitted(
    options: argparse.Namespace,
    plan: Plan,
    settings: Settings,
    script: Sequence[str],
    arguments: Sequence[str],
    rest: Sequence[str],
    folder: Path,
    where: str,
) -> str:
    if options.emit == "wandb" and plan.folds is not None:
        raise ValueError("A run of a W&B sweep is one fit: leave --folds out, or --emit commands for other machines.")
    if options.emit == "wandb":
        return as_sweep(plan, settings, script, rest)
    words = [*script, NAME, *workers.without(arguments, "--emit", "--jobs")]
    if options.emit == "slurm":
        return workers.as_slurm(words, options.jobs, folder)
    return workers.as_commands(words, options.jobs, where)


def _told(plan: Plan, name: str, where: str) -> str:
    """What is searched, and where that is kept."""
    rounds = f" in {plan.rounds} rounds" if plan.rounds > 1 else ""
    rows = [(short(one.name), default_space.told(one)) for one in plan.space]
    best = "least" if plan.objective.mode == "min" else "greatest"
    on_folds = f", each on {plan.folds} folds" if plan.folds is not None else ""
    rows.append(
        ("Trials", f"{plan.total}{on_folds}{rounds}, by {plan.sampler}, for the {best} {plan.objective.metric}")
    )
    rows.append(("Study", f"{name} in {summary.shown_path(Path(where)) if '://' not in where else where}"))
    return summary.table(rows)


def validations(trainer: Mapping[str, Any]) -> int | None:
    """How many validations a whole fit has; None where that is not known beforehand."""
    epochs, each = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch") or 1
    if trainer.get("val_check_interval") not in (None, 1.0) or not isinstance(epochs, int) or epochs < each:
        return None
    return epochs // each

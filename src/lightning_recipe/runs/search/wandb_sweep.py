"""The same search for the agents of Weights & Biases: a file that `wandb sweep` takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_recipe.runs.fit import as_list
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan, grid_shape

METHODS = {"random": "random", "qmc": "random", "tpe": "bayes", "gp": "bayes", "cmaes": "bayes", "grid": "grid"}
VALUES = 9  # of a range on a scale that W&B does not have
REDUCTION = 3  # Li et al. (2018)


def as_sweep(plan: Plan, settings: Mapping[str, Any], script: Sequence[str], rest: Sequence[str]) -> str:
    """The file, with comments where W&B has no counterpart.

    Args:
        plan: The search.
        settings: All settings of `fit`.
        script: The words that start the command line, the interpreter first.
        rest: The options of `fit` as they were given.
    """
    comments = [
        "# The search as a sweep of Weights & Biases:",
        "#   wandb sweep --project NAME THIS     prints the id of the sweep",
        "#   wandb agent ENTITY/NAME/ID          on each machine, in this folder",
        f"# W&B judges a run by the last {plan.objective.metric} it logs, `search` by that of the best checkpoint.",
    ]
    if any(one.kind == "one_minus_log10" for one in plan.space) and plan.sampler != "grid":
        comments.append(f"# W&B has no scale for 1 - 10^U(low, high): {VALUES} values at equal distances on it.")
    if plan.pruner == "median":
        comments.append("# W&B has no median pruner: hyperband instead.")
    if plan.rounds > 1:
        comments.append("# W&B has no rounds: narrow the ranges by hand.")
    sweep: dict[str, Any] = {
        "method": METHODS[plan.sampler],
        "metric": {"name": plan.objective.metric, "goal": "minimize" if plan.objective.mode == "min" else "maximize"},
        "run_cap": plan.total,
        "parameters": _parameters(plan),
        "command": ["${env}", "python", *script[1:], "fit", *rest, *_logger(settings), "${args}"],
    }
    if plan.pruner != "none":
        sweep["early_terminate"] = {"type": "hyperband", "min_iter": 1, "eta": REDUCTION}
    return "\n".join([*comments, yaml.safe_dump(sweep, sort_keys=False, width=110).rstrip()])


def _parameters(plan: Plan) -> dict[str, Any]:
    if plan.sampler == "grid":
        shape = grid_shape(plan.space, plan.round_size)
        return {
            one.name: {"values": [one.value(drawn) for drawn in one.points(count)]}
            for one, count in zip(plan.space, shape, strict=True)
        }
    return {one.name: _parameter(one) for one in plan.space}


def _parameter(one: Dimension) -> dict[str, Any]:
    if one.kind == "choice":
        return {"values": list(one.choices)}
    if one.kind == "one_minus_log10":
        return {"values": [float(f"{one.value(drawn):.6g}") for drawn in one.points(VALUES)]}
    if one.kind == "log10":
        return {"distribution": "log_uniform_values", "min": 10.0**one.low, "max": 10.0**one.high}
    if one.kind == "int":
        return {"distribution": "int_uniform", "min": int(one.low), "max": int(one.high)}
    return {"distribution": "uniform", "min": float(one.low), "max": float(one.high)}


def _logger(settings: Mapping[str, Any]) -> list[str]:
    """What lets runs log to W&B, if they do not yet."""
    loggers = [one for one in as_list(settings["trainer"].get("logger")) if isinstance(one, Mapping)]
    is_there = any(str(one.get("class_path", "")).endswith("WandbLogger") for one in loggers)
    return [] if is_there else ["--trainer.logger=WandbLogger", "--trainer.logger.save_dir=logs"]

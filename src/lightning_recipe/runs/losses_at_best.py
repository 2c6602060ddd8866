"""The losses of the best weights of a run on its training and on its validation data, both in evaluation mode."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from lightning.pytorch.utilities import CombinedLoader

from lightning_recipe.after_fit import in_order
from lightning_recipe.runs import pool
from lightning_recipe.runs.fit import Settings
from lightning_recipe.runs.manifest import file_hash
from lightning_recipe.runs.procedure import CommandLine
from lightning_recipe.whole_file import whole_file
from lightning_rules.report.score import mode_of

FILE = "losses_at_best.json"
ONE_DEVICE: Settings = {"strategy": "auto", "devices": 1, "num_nodes": 1, "sync_batchnorm": False}
NOTHING_KEPT: Settings = {"enable_checkpointing": False, "max_time": None}
START = "lightning_recipe.runs.refit_callbacks.StartFrom"
NOTHING_SHOWN: Settings = {"enable_progress_bar": False, "enable_model_summary": False}


@dataclass(frozen=True)
class LossesAtBest:
    """Losses of the best weights of a run.

    Args:
        name: Of the metric, as the validation step logs it.
        training: Over the training examples, each once, in order.
        validation: Over the validation examples.
        sha256: Of the checkpoint.
    """

    name: str
    training: float
    validation: float
    sha256: str


def losses_at_best(
    settings: Settings,
    folder: Path,
    checkpoint: Path,
    script: Sequence[str],
    command_line: CommandLine,
    name: str | None = None,
) -> LossesAtBest:
    """Measure them in this process, or read what was measured before.

    Args:
        settings: Those of the run.
        folder: Where they are kept.
        checkpoint: The best weights.
        script: The words that start the command line.
        command_line: The command line of the project.
        name: Of the loss; None finds one.

    Raises:
        ValueError: If validation logs no such loss, or it is not finite.
    """
    sha256 = file_hash(checkpoint)
    known = _known(folder / FILE)
    if known is not None and known.sha256 == sha256 and name in (None, known.name):
        return known
    config = folder / "losses_at_best.yaml"
    with whole_file(config) as file:
        yaml.safe_dump(measuring(settings, folder, checkpoint), file, sort_keys=False)
    with pool.as_command(script, ["validate", "--config", str(config)]):
        cli = command_line.run()
    validation = _numbers(cli.trainer.callback_metrics)
    source = cli.model if cli.datamodule is None else cli.datamodule
    made = source.train_dataloader()
    combined = made if isinstance(made, CombinedLoader) else CombinedLoader(made)
    cli.trainer.limit_val_batches = 1.0
    loaders = [in_order(loader) for loader in combined.flattened]
    cli.trainer.validate(cli.model, dataloaders=loaders, verbose=False)
    training = _numbers(cli.trainer.callback_metrics)
    loss = name or main_loss(validation)
    if not all(math.isfinite(one.get(loss, math.nan)) for one in (training, validation)):
        raise ValueError(
            f"No finite {loss} was logged on both training and validation data (logged were "
            f"{', '.join(validation) or 'no metrics'}): name the loss that `continue` is to follow with --loss."
        )
    losses = LossesAtBest(loss, training[loss], validation[loss], sha256)
    with whole_file(folder / FILE) as file:
        json.dump(asdict(losses), file, indent=1)
    return losses


def _known(path: Path) -> LossesAtBest | None:
    try:
        return LossesAtBest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measuring(settings: Settings, folder: Path, checkpoint: Path) -> Settings:
    """The settings of `validate` that measure a checkpoint on one device, with a small log in the folder."""
    place = {"save_dir": str(folder), "name": "losses_at_best"}
    own: Settings = {"logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": place}}
    weights = {"class_path": START, "init_args": {"checkpoint": str(checkpoint)}}
    trainer = {**settings["trainer"], **ONE_DEVICE, **NOTHING_KEPT, **NOTHING_SHOWN, **own, "callbacks": [weights]}
    given: Settings = {name: settings[name] for name in ("seed_everything", "model", "data") if name in settings}
    return {**given, "trainer": trainer, "rules": "none", "verbose": False}


def main_loss(metrics: Mapping[str, float]) -> str:
    """The name of the loss among metrics: one that is called so, else one of which less is better.

    Raises:
        ValueError: If there is none.
    """
    named = [one for one in metrics if "loss" in one.lower()]
    found = [*named, *(one for one in metrics if mode_of(one) == "min")]
    if not found:
        raise ValueError(
            f"Validation logs no loss (it logs {', '.join(metrics) or 'nothing'}), which `continue` follows: log one "
            "in the validation_step, or name a metric that falls with --loss."
        )
    return found[0]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

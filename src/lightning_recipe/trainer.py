"""Lightning's Trainer, with the subcommands of the command line that Lightning's has not."""

from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from lightning_recipe import summary
from lightning_recipe.runs.check import Asked, run_check, shapes_training
from lightning_recipe.runs.distill import distill
from lightning_rules import Distillation, LRFinder, SeedEverything


class StopBeforeTraining(Callback):
    """Ends a fit once every callback has looked at its start, before the first batch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None
        trainer.should_stop = True


class RecipeTrainer(Trainer):
    """Lightning's Trainer; each further method is a subcommand of :class:`~lightning_recipe.cli.RecipeCLI`."""

    def lr_find(self, model: LightningModule, datamodule: LightningDataModule | None = None, budget: int = 800) -> None:
        """Finds the learning rate for a run, without running it.

        Args:
            model: The model.
            datamodule: The data.
            budget: How many optimiser steps the search may take, at least 420; see
                :class:`~lightning_rules.LRFinder`.

        Raises:
            ValueError: ``budget`` is too small.
            SystemExit: With status 1, if the losses do not say which rate is best; the findings say why.
        """
        finder = LRFinder(budget, apply=False)
        self._keep_callbacks(finder)
        self.fit(model, datamodule=datamodule)
        log_dir = self.log_dir  # a broadcast: every rank asks
        if self.is_global_zero:
            print("\n" + summary.table(_rate_rows(finder, model, log_dir)))
        if finder.suggestion is None:
            raise SystemExit(1)

    def check(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        only: list[str] | None = None,
        skip: list[str] | None = None,
        capacity: bool = False,
        probe: Literal["random"] | None = None,
        json: bool = False,
    ) -> None:
        """Looks for what is wired wrong before a run, without running it; ends with status 1 if an error is found.

        Args:
            model: The model.
            datamodule: The data.
            only: A rule, or an aspect of an audit, to report on; may be given several times; by default all.
            skip: NAME=REASON: a rule or an aspect to leave out, and why; may be given several times.
            capacity: Whether to train a larger model beside this one, and see whether it fits better.
            probe: ``random``: freeze random weights and train the last layer only, to judge the architecture.
            json: Whether to print the findings as one JSON object, in place of a table.

        Raises:
            ValueError: There is no such rule, or a reason is missing.
            SystemExit: With status 1, if a finding is an error.
        """
        run_check(self, model, datamodule, Asked(only, skip, capacity, probe, json))

    def distill(
        self,
        model: LightningModule,
        teacher: str,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        temperature: float = 4.0,
        mixing: float = 0.9,
        targets: Literal["cached", "consistent"] = "cached",
        cache_dir: str | None = None,
        plain: str | None = None,
    ) -> None:
        """Fits a model that learns from a teacher, and tests both.

        Args:
            model: The student.
            teacher: A checkpoint of one model or of an ensemble.
            datamodule: The data.
            ckpt_path: Resume from this checkpoint of the student.
            weights_only: Whether that checkpoint is loaded safely.
            temperature: What logits are divided by, above 0; see :class:`~lightning_rules.Distillation`.
            mixing: The weight of the teacher, above 0 up to 1; the labels have the rest.
            targets: The teacher is asked once about each example, or at each step about the very inputs.
            cache_dir: Where the teacher's answers are kept; by default beside the teacher.
            plain: A checkpoint of the same model trained without a teacher, to be compared with.

        Raises:
            ValueError: A checkpoint cannot be read, or the run is one that distillation does not apply to.
            FileNotFoundError: There is no such checkpoint.
        """
        rule = Distillation(teacher, temperature, mixing, targets, cache_dir)
        rows = distill(self, model, rule, datamodule, plain, ckpt_path=ckpt_path, weights_only=weights_only)
        if self.is_global_zero:
            print("\n" + summary.table(rows))

    def _keep_callbacks(self, *added: Callback) -> None:
        """Only rules that act on a run and the progress bar stay: no checkpoints, no early stopping."""
        kept: list[Any] = [
            callback
            for callback in self.callbacks  # type: ignore[has-type]
            if isinstance(callback, (ProgressBar, SeedEverything)) or shapes_training(callback)
        ]
        self.callbacks = [*kept, *added, StopBeforeTraining()]


def _rate_rows(finder: LRFinder, model: LightningModule, log_dir: str | None) -> list[tuple[str, str]]:
    """What was found, and what to do with it."""
    if finder.suggestion is None:
        return [("Learning rate", f"none found. {finder.findings[-1].message}")]
    before = float(finder.findings[-1].evidence["rate_before"] or 0)
    rows = [("Learning rate", f"{finder.suggestion:.2g} (it is set to {before:.2g})")]
    names = [name for name in ("lr", "learning_rate") if name in model.hparams]
    if names:
        option = f"--model.init_args.{names[0]} {finder.suggestion:.2g}"
        rows.append(("Train with it", f"add {option} to the command for fit"))
    if log_dir is not None:
        rows.append(("Curve", f"{summary.shown_path(log_dir)}/rules/lr-finder.png"))
    return rows


# A subcommand is spelled with a hyphen, and LightningCLI looks for a method of that very name.
setattr(RecipeTrainer, "lr-find", RecipeTrainer.lr_find)

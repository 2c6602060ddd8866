"""The command line: LightningCLI with the rules, early checks of what was asked for, and a closing summary.

Works for any project: model and data are whatever `class_path` the YAML names. In a script of three lines:

    from lightning_recipe.cli import main

    if __name__ == "__main__":
        main()
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_recipe import (
    after_fit,
    arguments,
    checkpoint_option,
    errors,
    noise,
    preconditions,
    reporting,
    restoring,
    summary,
)
from lightning_recipe.runs import procedures
from lightning_recipe.runs.fit import as_list
from lightning_recipe.runs.fit_record import FitRecord
from lightning_recipe.runs.pool import as_command
from lightning_recipe.runs.procedure import CommandLine
from lightning_recipe.trainer import RecipeTrainer

_USAGE = "%(prog)s --config FILE [--config FILE ...] [--OPTION VALUE ...]"
# Imported before parsing, so that their classes have short names (`class_path: ImageClassifier`).
_CLASSES = ("lightning_recipe.models", "lightning_recipe.data", "lightning_recipe.predictions", "lightning_rules")
# logs/version_0, logs/version_1, ... unless the config names a logger.
_LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "name": None}}


class RecipeCLI(LightningCLI):
    """LightningCLI for any model and any data, with `fit validate test predict`, `check`, `lr-find` and `distill`.

    Model and data are given by `class_path`; several `--config` are laid over each other, the last wins.
    Beyond LightningCLI:

    * `lightning_rules.recommended()` are added to the callbacks (`--rules none` leaves them out,
      `ignore_rules: {loss-at-init: "reason"}` ignores some). A rule that the config lists itself is not
      added again.
    * `--test_after_fit true` tests the best checkpoint when training has ended and prints a summary.
    * Devices, loggers and folders are checked before any work is done.

    Nothing is copied from data to model: `num_classes` is written where it belongs, in the YAML, and a model
    that disagrees with its data says so.

    Args:
        args: Arguments as on the command line (a list), or as a dict or Namespace; None reads `sys.argv`.
        run: Whether to run the subcommand; False only builds model, data and trainer, without a subcommand.

    Raises:
        SystemExit: With status 2, if the arguments do not parse.
        MisconfigurationException: If devices or loggers asked for are not there, or nothing could be tested
            although `test_after_fit` is on.
        OSError: If the folder for logs cannot be written.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        self.record = summary.RunRecord()
        given = sys.argv[1:] if args is None else args
        self._asked = given[0] if isinstance(given, list) and given and given[0] in self.subcommands() else None
        super().__init__(
            trainer_class=RecipeTrainer,
            seed_everything_default=42,
            trainer_defaults={"logger": _LOGGER},
            # Optimisers belong to the model: `model.init_args.optimizer`.
            auto_configure_optimizers=False,
            parser_kwargs={
                "epilog": f"{restoring.EPILOG} {reporting.EPILOG} {procedures.EPILOG}",
                **{name: {"usage": _USAGE} for name in self.subcommands()},
            },
            parser_class=arguments.Parser,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's and ours, with the arguments that are filled in rather than asked for."""
        ours = ("check", "lr-find", "distill")
        return {**LightningCLI.subcommands(), **{name: {"model", "datamodule"} for name in ours}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Give arguments to the subcommand that is asked for alone: those of all take a second."""
        if self._asked in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        return self.init_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options beyond LightningCLI's; every subcommand has them, so that one YAML serves all."""
        arguments.add_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, having imported the classes that go by short names (the top-level help needs none)."""
        given = sys.argv[1:] if args is None else args
        if given and not (isinstance(given, list) and given[0] in ("-h", "--help")):
            for module in _CLASSES:
                importlib.import_module(module)
        super().parse_arguments(parser, args)
        chosen = self.config.get(self.config.get("subcommand") or "")
        if chosen is not None and "weights_only" in chosen and chosen.weights_only is None:
            chosen.weights_only = True  # Lightning unpickles what comes from another host without being asked

    def _parse_ckpt_path(self) -> None:
        """Take the model and its settings from the checkpoint, as LightningCLI does, if the file is one.

        Raises:
            ValueError: If it is not, or if it is only to be had by unpickling, which nobody has asked for.
        """
        try:
            super()._parse_ckpt_path()
        except checkpoint_option.UNREADABLE as error:
            chosen = self.config[self.config["subcommand"]]
            complaint = checkpoint_option.complaint(chosen["ckpt_path"], error, chosen.get("weights_only") is False)
            if complaint:
                raise ValueError(complaint) from error

    def before_instantiate_classes(self) -> None:
        """Check that a model is named, and devices and loggers as asked for, before anything is built on them."""
        if not self._option("model"):
            raise ValueError(
                "No model is named: add --model CLASS, or the --ckpt_path of one that saves its hyperparameters."
            )
        trainer = self._option("trainer")
        preconditions.check_devices(trainer.get("accelerator"), trainer.get("devices"))
        loggers = as_list(trainer.get("logger"))
        preconditions.check_logger_packages(one.class_path for one in loggers if hasattr(one, "class_path"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the callbacks of the config, the rules and the run's record.

        The rules are there for every subcommand: a checkpoint of a run with them holds their state.
        """
        callbacks = as_list(self._get(self.config_init, "trainer").get("callbacks"))
        if self._option("rules") == "recommended":
            callbacks = [*self._rules(callbacks), *callbacks]
        return super().instantiate_trainer(**{"callbacks": [*callbacks, self.record], **kwargs})

    def _rules(self, configured: Sequence[Callback]) -> list[Callback]:
        """The recommended rules, less those that the config has set up its own way."""
        from lightning_rules import ReportCard, recommended

        present = {type(callback) for callback in configured}
        rules = recommended(self._option("ignore_rules"), self._option("check_budget"))
        for rule in rules:
            if isinstance(rule, ReportCard):
                rule.form = self._option("report")
        return [rule for rule in rules if type(rule) not in present]

    def after_instantiate_classes(self) -> None:
        """Check what only the finished trainer can tell: its folders can be written, W&B lets us in."""
        preconditions.check_folders(self.trainer)
        if not self._option("trainer").get("fast_dev_run"):
            preconditions.check_wandb_login(self.trainer)

    def before_fit(self) -> None:
        """Choose the share of the training data, and refuse `test_after_fit` where there is nothing to test.

        Raises:
            MisconfigurationException: If the model has no `test_step`, or nobody has a `test_dataloader`.
            ValueError: If the data cannot give that share.
        """
        self._use_share()
        if not self._option("test_after_fit"):
            return
        sources = [source for source in (self.datamodule, self.model) if source is not None]
        loader = any(is_overridden("test_dataloader", source) for source in sources)
        if not (loader and is_overridden("test_step", self.model)):
            names = " and ".join(type(source).__name__ for source in sources)
            raise MisconfigurationException(
                f"test_after_fit is on, but {names} have not both a test_step and a test_dataloader: "
                "add what is missing, or set test_after_fit: false."
            )

    def _use_share(self) -> None:
        """Give the data the share to train on, or else the one that the model was trained with."""
        from lightning_recipe.runs.share import use_share  # brings the data modules, which not all commands need

        chosen = self.config["subcommand"]
        use_share(self.config[chosen], self.datamodule, self.model, training=chosen == "fit")

    before_validate = before_test = before_predict = _use_share

    def after_fit(self) -> None:
        """Measure the best checkpoint, and print the summary, where `test_after_fit` asks for it.

        Under DDP the test runs on rank 0 alone, after the process group has been taken down: a distributed
        sampler would fill up the last batches with examples it has already given, and count them twice.
        """
        asked = self._option("test_after_fit") or self._option("measure_training")
        if not asked or self._option("trainer").get("fast_dev_run"):
            return
        best, checkpoint = after_fit.best_checkpoint(self.trainer)
        log_dir = self.trainer.log_dir  # a broadcast: every rank asks, while there are others to answer
        trained = after_fit.trained(self.trainer, self.record.train_seconds)
        tester = after_fit.tester(self.trainer, self._get(self.config_init, "trainer"))
        if tester is None:
            return
        if self._option("measure_training"):
            self._tell("training", after_fit.measured_on_training(self.trainer, tester, self.model, best))
        if not self._option("test_after_fit"):
            return
        results = tester.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)
        self._tell("test", {name: value for result in results for name, value in result.items()})
        rows = summary.test_rows(results, self.record.tested, self.datamodule)
        rows += [("Training", trained), ("Checkpoint", checkpoint), *summary.path_rows(log_dir)]
        print("\n" + summary.table(rows))

    def _tell(self, what: str, metrics: Mapping[str, float]) -> None:
        """Put what was measured into the record of a fit that is one of several."""
        for one in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, FitRecord):
                one.tell(what, metrics)

    def after_test(self) -> None:
        """Print accuracy and baseline after a test on one device (several would count examples twice)."""
        if self.trainer.world_size == 1:
            metrics = [{name: float(value) for name, value in self.trainer.callback_metrics.items()}]
            print("\n" + summary.table(summary.test_rows(metrics, self.record.tested, self.datamodule)))

    def _option(self, name: str) -> Any:
        return self._get(self.config, name)  # wherever the subcommand has put it


class _Settings(RecipeCLI):
    """Settings as a subcommand would have them; nothing is built or run."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Nothing is there to look at."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """All settings of a subcommand, defaults and those of the configs included, as plain values for YAML.

    Args:
        arguments: The subcommand, and its options as on the command line.
    """
    with as_command(sys.argv[:1], arguments):
        cli = _Settings()
    cli._dump_config()
    dumped: dict[str, Any] = cli.config_dump
    return dumped


def main(args: ArgsType = None) -> RecipeCLI | None:
    """Run the command line; a wrong setting ends it with one line on stderr and status 2.

    Only messages to the person at the command line (`errors.message_in`) are shortened so; bugs keep their traceback.

    Args:
        args: Arguments as on the command line (a list), or as a dict or Namespace; None reads `sys.argv`.

    Returns:
        The command line after its run, with `model`, `datamodule`, `trainer` and `config`; None after `restore`,
        `report` and the procedures of several fits.

    Raises:
        SystemExit: With status 2, if the settings do not parse or cannot work; with 0 after `--help`.
    """
    noise.silence()
    given = sys.argv[1:] if args is None else args
    name, *rest = given if isinstance(given, list) and given else [""]
    try:
        if name in ("restore", reporting.NAME):
            (restoring if name == "restore" else reporting).run(rest)
            return None
        if name in procedures.MODULES:
            procedures.run(name, rest, CommandLine(settings_of, RecipeCLI))
            return None
        return RecipeCLI(args)
    except errors.USER_ERRORS as error:
        message = errors.message_in(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None

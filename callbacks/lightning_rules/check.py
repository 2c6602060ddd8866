"""Pre-flight: everything that can be seen of a run before its first step, without taking one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_rules import record
from lightning_rules.finding import Finding, Severity
from lightning_rules.monitor import Monitor
from lightning_rules.namespace import namespace_of
from lightning_rules.preflight.gradient_check import GradientCheck
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.recommended import RECOMMENDED, make
from lightning_rules.rule import Rule
from lightning_rules.untouched import untouched

# What takes too long for the beginning of every fit.
EXPENSIVE: tuple[type[Rule], ...] = (GradientCheck,)
CHECKED = (*(rule for rule in RECOMMENDED if not issubclass(rule, Monitor)), *EXPENSIVE)
# What cannot be judged unless one knows how long the run will be.
UNPLANNED = {"schedule-audit": "check was not told how long the run will be (max_epochs)"}


@dataclass(frozen=True)
class Report:
    """What a pre-flight check found.

    Attributes:
        findings: All findings, in the order of the rules.
        seconds: How long each check took, by the rule's name.
    """

    findings: list[Finding]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity < Severity.ERROR for finding in self.findings)

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as captured:
            console.print(record.findings_table(self.findings))
        return captured.get()

    def to_json(self) -> str:
        """One JSON object: ``ok``, ``findings`` (as in ``findings.jsonl``) and ``seconds``."""
        findings = [finding.to_dict() for finding in self.findings]
        return json.dumps({"ok": self.ok, "findings": findings, "seconds": dict(self.seconds)}, allow_nan=False)


def check(
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    ignore: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    extra: Sequence[Rule] = (),
    max_epochs: int | None = None,
    progress: bool = False,
) -> Report:
    """Look at a run before it starts: no step is taken, nothing is written, and the module is as it was.

    Goes through the real beginning of ``fit`` (hooks, ``configure_optimizers``, data) with the recommended rules and
    with those that take too long for each fit, on one device and without a limit of time, and stops before the first
    batch. Enforcing rules act, so that the rest sees the run as it would start, and are undone.

    Args:
        module: A LightningModule of ``lightning`` or of ``pytorch_lightning``.
        train_dataloaders: As for ``Trainer.fit``.
        val_dataloaders: As for ``Trainer.fit``.
        datamodule: As for ``Trainer.fit``.
        ignore: Rules or aspects to leave out, each with a reason; see :func:`~lightning_rules.recommended`.
        only: Names of the rules or aspects to report on; by default all.
        extra: Further rules to look with, such as ``CapacityCheck()``.
        max_epochs: How many epochs the run will have; without it, its schedules are not judged.
        progress: Whether a progress bar on standard error says what is being checked.

    Returns:
        The findings; ``print(report)`` shows them as a table.

    Raises:
        TypeError: ``module`` is no LightningModule.
        ValueError: ``ignore`` or ``only`` names a rule that is not there, or a reason is missing.
    """
    if not callable(getattr(module, "training_step", None)):
        raise TypeError(f"Expected a LightningModule with a training_step, but got {type(module).__name__}.")
    if max_epochs is None:
        ignore = {**UNPLANNED, **(ignore or {})}
    rules = rules_to_check(ignore, only, extra)
    with untouched(module), _in_place(module), tempfile.TemporaryDirectory() as folder:
        trainer = _trainer_for(module, folder, max_epochs)
        data = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders, "datamodule": datamodule}
        return look(trainer, module, rules, only, progress, **data)


def rules_to_check(
    ignore: Mapping[str, str] | None = None, only: Collection[str] | None = None, extra: Sequence[Rule] = ()
) -> list[Rule]:
    """New instances of the rules that :func:`check` looks with: those asked for, and all that act on a run's start.

    Raises:
        ValueError: As for :func:`check`.
    """
    watching = {name for rule in RECOMMENDED if issubclass(rule, Monitor) for name in (rule.name, *rule.aspects)}
    ignored = {name: reason for name, reason in (ignore or {}).items() if name not in watching}
    rules = [*make(CHECKED, ignored, budget=None), *extra]
    known = [name for rule in rules for name in (rule.name, *rule.aspects)]
    for name in only or ():
        if name in watching:
            raise ValueError(
                f"The rule {name!r} watches a run while it trains, and `check` takes no step: see it in fit."
            )
        if name not in known:
            raise ValueError(f"There is no rule {name!r} to check: the rules are {', '.join(known)}.")
    asked = [rule for rule in rules if only is None or set(only) & {rule.name, *rule.aspects}]
    return [rule for rule in rules if rule in asked or rule.kind == "enforce"]


def look(
    trainer: Any, module: Any, rules: list[Rule], only: Collection[str] | None, progress: bool, **data: Any
) -> Report:
    """Begin a fit of this Trainer with these rules alone for callbacks, and end it before the first step.

    Args:
        trainer: A Trainer that is not used for anything else.
        module: The LightningModule; it is left as the beginning of a fit leaves it.
        rules: From :func:`rules_to_check`.
        only: What to report on, by name of rule or aspect; None for all.
        progress: As for :func:`check`.
        data: As for ``Trainer.fit``.
    """
    with record.silence(), _bar(len(rules), progress and trainer.is_global_zero) as show:
        announced = [callback for rule in rules for callback in (_announcer(module, rule.name, show), rule)]
        trainer.callbacks = [*announced, _stop_before_training(module)]
        trainer.fit(module, **data)
    seconds = {rule.name: rule.spent for rule in rules if isinstance(rule, PreflightCheck)}
    findings = [(rule, finding) for rule in rules for finding in rule.findings]
    asked = [f for rule, f in findings if only is None or {rule.name, f.rule} & set(only)]
    return Report(asked, {name: spent for name, spent in seconds.items() if only is None or spent > 0})


@contextmanager
def _in_place(module: Any) -> Iterator[None]:
    """Bring the module back to its device and its Trainer."""
    attached, devices = module._trainer, {parameter.device for parameter in module.parameters()}
    try:
        yield
    finally:
        module._trainer = attached
        if len(devices) == 1:
            module.to(devices.pop())


def _trainer_for(module: Any, folder: str, max_epochs: int | None) -> Any:
    return namespace_of(module).Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=1000 if max_epochs is None else max_epochs,  # as Lightning has it
        default_root_dir=folder,
    )


@contextmanager
def _bar(total: int, visible: bool) -> Iterator[Any]:
    """A progress bar that is gone when the block ends; yields what tells it the next rule's name."""
    columns = (TextColumn("checking {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not visible) as bar:
        task = bar.add_task("the data", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def _announcer(module: Any, name: str, show: Any) -> Any:
    """A callback of the module's namespace that says whose turn it is."""

    class Announcer(namespace_of(module).Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            show(name)

    return Announcer()


def _stop_before_training(module: Any) -> Any:
    """A callback of the module's namespace that ends the fit once all rules have looked at its start."""

    class StopBeforeTraining(namespace_of(module).Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.fit_loop.min_epochs = 0
            trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True

    return StopBeforeTraining()

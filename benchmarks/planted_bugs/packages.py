"""Other packages that look for training bugs, run on a program that Lightning has set up.

They are no dependency of this project. To run them beside it::

    uv pip install --target peers --no-deps torchtest2==0.1.0 torch-audit==0.3.0
    PYTHONPATH=peers python benchmarks/bug_detection.py

A package that is not found gives no column.
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from torch import nn

from planted_bugs.detect import Alarm, Detector, StopBeforeTraining
from planted_bugs.fit import fit
from planted_bugs.program import Program, answer

AUDITED_STEPS = 10
ANOMALY_STEPS = 30


def packages() -> dict[str, Detector]:
    """The detectors of the packages that are installed, by the package's name; Lightning's own checks among them."""
    others = {"torchtest2": torchtest2_checks, "torch_audit": torch_audit_findings}
    found = {name: detector for name, detector in others.items() if importlib.util.find_spec(name)}
    return {**found, "lightning": lightning_warnings}


def set_up(program: Program) -> tuple[L.Trainer, Any]:
    """The Trainer of a fit that stopped before its first step, and its loader; ``log`` is silent from now on."""
    trainer = fit(program, [StopBeforeTraining()])
    for name in ("log", "log_dict"):
        setattr(program.module, name, lambda *_, **__: None)
    return trainer, trainer.train_dataloader


def torchtest2_checks(program: Program) -> list[Alarm]:
    """``torchtest2.check_model`` with its Lightning plugin, on the first batch; ``WARN`` and ``FAIL`` are alarms."""
    from torchtest2 import check_model
    from torchtest2.plugins.lightning import LightningPlugin

    trainer, loader = set_up(program)
    batch = next(iter(loader))
    names = list(batch) if isinstance(batch, Mapping) else None
    inputs, targets = (batch[name] for name in names) if names else batch
    plugin = LightningPlugin(lambda x, y: dict(zip(names, (x, y), strict=True)) if names else (x, y))
    report = check_model(
        program.module,
        inputs,
        targets,
        optimizer=trainer.optimizers[0],
        plugin=plugin,
        eval_forward_fn=answer,
    )
    return [Alarm(result.name, result.message) for result in (*report.warnings, *report.failures)]


def torch_audit_findings(program: Program) -> list[Alarm]:
    """torch-audit over a few steps, forward patched, backward and step through its Auditor.

    ``WARN`` and above count, but for what it files under performance, which is about speed and not about bugs.
    """
    from torch_audit import Severity, autopatch

    trainer, loader = set_up(program)
    module = program.module.train()
    has_forward = type(module).forward is not L.LightningModule.forward
    network: nn.Module = module if has_forward else module.net
    optimizer = trainer.optimizers[0]
    auditor = autopatch(network, optimizer=optimizer, every_n_steps=1, patch_optimizer=False)
    try:
        for index, batch in enumerate(_endless(loader, AUDITED_STEPS)):
            optimizer.zero_grad()
            said = module.training_step(batch, index)
            if said is None:
                continue  # by hand: it has stepped by itself
            auditor.backward(said["loss"] if isinstance(said, Mapping) else said)
            auditor.optimizer_step()
    finally:
        auditor.unpatch()
    kinds = auditor.runner.rules_map
    bugs = [finding for finding in auditor.findings if kinds[finding.rule_id].category != "Performance"]
    serious = [finding for finding in bugs if not finding.severity < Severity.WARN]
    said_once = {(finding.rule_id, finding.message): finding.step or 0 for finding in reversed(serious)}
    return [Alarm(rule, message, step) for (rule, message), step in said_once.items()]


def _endless(loader: Any, steps: int) -> Iterator[Any]:
    again = itertools.chain.from_iterable(itertools.repeat(loader))
    return itertools.islice(again, steps)


def lightning_warnings(program: Program) -> list[Alarm]:
    """Errors and warnings of ``fast_dev_run`` and of the first steps under ``detect_anomaly``.

    Warnings about speed and about logging are left out: they come with healthy runs, and say nothing of a bug.
    """
    alarms: list[Alarm] = []
    for options in ({"fast_dev_run": True}, {"detect_anomaly": True, "max_steps": ANOMALY_STEPS}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                fit(program, **options)
            except Exception as error:
                alarms.append(Alarm(type(error).__name__, str(error).partition("\n")[0]))
        said = {str(warning.message).partition("\n")[0] for warning in caught if not _housekeeping(warning)}
        alarms += [Alarm("warning", text) for text in sorted(said)]
    return alarms


HOUSEKEEPING = (
    "does not have many workers",
    "logging interval",
    "Anomaly Detection has been enabled",
    "logger",
    "ModelSummary",
    "deprecated",
    "num_workers",
)


def _housekeeping(warning: warnings.WarningMessage) -> bool:
    if issubclass(warning.category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning, ResourceWarning)):
        return True
    return any(words in str(warning.message) for words in HOUSEKEEPING)

"""Which rules to use when one does not want to choose, in the order of a project's life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_rules.data.data_audit import DataAudit
from lightning_rules.data.label_suspects import LabelSuspects
from lightning_rules.finding import Finding, Severity
from lightning_rules.init.last_layer_bias_init import LastLayerBiasInit
from lightning_rules.init.loss_at_init import LossAtInit
from lightning_rules.optimise.gradient_clipping import GradientClipping
from lightning_rules.preflight.batch_independence import BatchIndependence
from lightning_rules.preflight.input_independent_baseline import InputIndependentBaseline
from lightning_rules.preflight.model_audit import ModelAudit
from lightning_rules.preflight.overfit_one_batch import OverfitOneBatch
from lightning_rules.preflight.schedule_audit import ScheduleAudit
from lightning_rules.preflight.step_size import StepSize
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.report.report_card import ReportCard
from lightning_rules.reproduce.seed_everything import SeedEverything
from lightning_rules.rule import Rule
from lightning_rules.watch.activation_health import ActivationHealth
from lightning_rules.watch.bias_variance import BiasVariance
from lightning_rules.watch.gradient_health import GradientHealth
from lightning_rules.watch.input_gallery import InputGallery
from lightning_rules.watch.loss_decreases import LossDecreases
from lightning_rules.watch.metric_audit import MetricAudit
from lightning_rules.watch.mode_audit import ModeAudit
from lightning_rules.watch.prediction_dynamics import PredictionDynamics
from lightning_rules.watch.replica_drift import ReplicaDrift
from lightning_rules.watch.selective_prediction import SelectivePrediction
from lightning_rules.watch.update_ratio import UpdateRatio
from lightning_rules.watch.worst_errors import WorstErrors

# Those that act come first, so that the checks see the run as it will start; then the checks before the first step, by
# their cost; then those that watch the run, and those that show what came of it.
RECOMMENDED: tuple[type[Rule], ...] = (
    SeedEverything,
    LastLayerBiasInit,
    GradientClipping,
    ScheduleAudit,
    LossAtInit,
    DataAudit,
    ModelAudit,
    BatchIndependence,
    StepSize,
    OverfitOneBatch,
    InputIndependentBaseline,
    LabelSuspects,
    LossDecreases,
    GradientHealth,
    UpdateRatio,
    ActivationHealth,
    ModeAudit,
    MetricAudit,
    ReplicaDrift,
    BiasVariance,
    PredictionDynamics,
    WorstErrors,
    SelectivePrediction,
    InputGallery,
    ReportCard,
)


def recommended(ignore: Mapping[str, str] | None = None, budget: float | None = 10.0) -> list[Rule]:
    """The rules that are safe to add to any run: ``Trainer(callbacks=[*recommended(), *mine])``.

    Args:
        ignore: Names of rules to leave out, or of single aspects of an audit, each with the reason, which the
            findings then tell: ``{"loss-at-init": "the loss is a lower bound, not a likelihood"}``.
        budget: Seconds that the checks before the first step may take together; what does not fit in is skipped, and
            says so. None for no limit.

    Returns:
        New instances, in the order in which they have to stand in the list.

    Raises:
        ValueError: ``ignore`` names a rule that is not among these, or gives no reason; ``budget`` is not positive.
    """
    return make(RECOMMENDED, ignore or {}, budget)


def make(classes: Sequence[type[Rule]], ignore: Mapping[str, str], budget: float | None) -> list[Rule]:
    """An instance of each of these rules; as :func:`recommended`, for another choice of rules."""
    names = {rule.name: rule.aspects for rule in classes}
    for name, reason in ignore.items():
        if name not in names and not any(name in aspects for aspects in names.values()):
            known = ", ".join([*names, *(aspect for aspects in names.values() for aspect in aspects)])
            raise ValueError(f"Cannot ignore the rule {name!r}: the rules here are {known}.")
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"Expected a reason for ignoring {name!r}, one sentence, but got {reason!r}.")
    return [_made(rule, ignore, budget) for rule in classes]


def _made(rule: type[Rule], ignore: Mapping[str, str], budget: float | None) -> Rule:
    if rule.name in ignore:
        return Ignored(rule.name, ignore[rule.name])
    made = rule(budget=budget) if issubclass(rule, PreflightCheck) else rule()
    made.ignored = {name: ignore[name] for name in rule.aspects if name in ignore}
    return made


class Ignored(Rule):
    """Stands in the place of a rule that was ignored, and says so with the reason.

    Args:
        name: The rule that is ignored.
        reason: Why, in one sentence.
    """

    source = "the user"
    kind = "report"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]  # one class stands for all
        self.reason = reason

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record that the rule did not run."""
        said = Finding(self.name, Severity.INFO, f"Ignored: {self.reason.strip().rstrip('.')}.")
        self.observe(trainer, lambda: None, lambda ranks: [said])

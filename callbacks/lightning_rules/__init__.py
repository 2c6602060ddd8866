"""The rules of training neural networks, executable.

Callbacks for PyTorch Lightning that enforce a rule, check it with numbers, or report what a person should look at:
``Trainer(callbacks=[*recommended()])``.
"""

from lightning_rules.check import Report, check
from lightning_rules.combine.cascade import Cascade
from lightning_rules.combine.distillation import Distillation
from lightning_rules.combine.ensemble import Ensemble
from lightning_rules.combine.ensemble_file import save_ensemble
from lightning_rules.combine.ensemble_module import EnsembleModule
from lightning_rules.combine.moving_average import MovingAverage
from lightning_rules.data.data_audit import DataAudit
from lightning_rules.data.label_suspects import LabelSuspects
from lightning_rules.finding import Finding, Severity
from lightning_rules.init.activation_scale_init import ActivationScaleInit
from lightning_rules.init.last_layer_bias_init import LastLayerBiasInit
from lightning_rules.init.loss_at_init import LossAtInit
from lightning_rules.init.recurrent_init import RecurrentInit
from lightning_rules.optimise.gradient_clipping import GradientClipping
from lightning_rules.optimise.largest_batch_size import LargestBatchSize
from lightning_rules.optimise.lr_finder import LRFinder
from lightning_rules.optimise.momentum_schedule import MomentumSchedule
from lightning_rules.preflight.batch_independence import BatchIndependence
from lightning_rules.preflight.capacity_check import CapacityCheck
from lightning_rules.preflight.gradient_check import GradientCheck
from lightning_rules.preflight.input_independent_baseline import InputIndependentBaseline
from lightning_rules.preflight.model_audit import ModelAudit
from lightning_rules.preflight.overfit_one_batch import OverfitOneBatch
from lightning_rules.preflight.random_features import RandomFeatures
from lightning_rules.preflight.schedule_audit import ScheduleAudit
from lightning_rules.preflight.step_size import StepSize
from lightning_rules.recommended import recommended
from lightning_rules.regularise.freeze_by_size import FreezeBySize
from lightning_rules.regularise.max_norm import MaxNorm
from lightning_rules.regularise.weight_decay_groups import WeightDecayGroups
from lightning_rules.report.report_card import ReportCard
from lightning_rules.reproduce.exact_resume import ExactResume
from lightning_rules.reproduce.export_weights import export_weights
from lightning_rules.reproduce.git_tag_checkpoint import GitTagCheckpoint
from lightning_rules.reproduce.restore import restore
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

__all__ = [
    "ActivationHealth",
    "ActivationScaleInit",
    "BatchIndependence",
    "BiasVariance",
    "CapacityCheck",
    "Cascade",
    "DataAudit",
    "Distillation",
    "Ensemble",
    "EnsembleModule",
    "ExactResume",
    "Finding",
    "FreezeBySize",
    "GitTagCheckpoint",
    "GradientCheck",
    "GradientClipping",
    "GradientHealth",
    "InputGallery",
    "InputIndependentBaseline",
    "LRFinder",
    "LabelSuspects",
    "LargestBatchSize",
    "LastLayerBiasInit",
    "LossAtInit",
    "LossDecreases",
    "MaxNorm",
    "MetricAudit",
    "ModeAudit",
    "ModelAudit",
    "MomentumSchedule",
    "MovingAverage",
    "OverfitOneBatch",
    "PredictionDynamics",
    "RandomFeatures",
    "RecurrentInit",
    "ReplicaDrift",
    "Report",
    "ReportCard",
    "Rule",
    "ScheduleAudit",
    "SeedEverything",
    "SelectivePrediction",
    "Severity",
    "StepSize",
    "UpdateRatio",
    "WeightDecayGroups",
    "WorstErrors",
    "check",
    "export_weights",
    "recommended",
    "restore",
    "save_ensemble",
]

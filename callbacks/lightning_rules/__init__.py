"""The rules of training neural networks, executable.

Callbacks for PyTorch Lightning that enforce a rule, check it with numbers, or report what a person should look at:
``Trainer(callbacks=[*recommended()])``.
"""

from lightning_rules.check import Report, check
from lightning_rules.finding import Finding, Severity
from lightning_rules.init.last_layer_bias_init import LastLayerBiasInit
from lightning_rules.init.loss_at_init import LossAtInit
from lightning_rules.optimise.gradient_clipping import GradientClipping
from lightning_rules.recommended import recommended
from lightning_rules.rule import Rule

__all__ = [
    "Finding",
    "GradientClipping",
    "LastLayerBiasInit",
    "LossAtInit",
    "Report",
    "Rule",
    "Severity",
    "check",
    "recommended",
]

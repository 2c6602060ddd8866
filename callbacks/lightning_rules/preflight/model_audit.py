"""The rule model-audit."""

from __future__ import annotations

from typing import Literal

from lightning_rules.audit import Audit, Part, aspects_of
from lightning_rules.deadline import Deadline
from lightning_rules.preflight import (
    batch_norms,
    carried_state,
    dead_units,
    dropout,
    gradient_reset,
    missing_nonlinearity,
    modes,
    optimiser_settings,
    parameter_use,
    right_loss,
    summed_loss,
    symmetric_init,
)
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.view import View

# In the order of their cost. All read the same training step; dropout runs one more in evaluation mode.
# Parts about parameters, optimisers, modes and settings stand here too, beside those about layers and loss.
PARTS: tuple[Part, ...] = (
    right_loss.PART,
    summed_loss.PART,
    batch_norms.PART,
    missing_nonlinearity.PART,
    dead_units.PART,
    symmetric_init.PART,
    parameter_use.PART,
    optimiser_settings.PART,
    dropout.PART,
    carried_state.PART,
    modes.PART,
    gradient_reset.PART,
)


class ModelAudit(Audit):
    """The model is wired as one thinks: layers, loss, initialisation, optimiser, modes.

    Why: A softmax too many, an activation too few or weights that are all alike raise no error: the network trains,
        worse than it could, and nobody knows why.

    What it does: Runs ``training_step`` on the first batch, with dropout off, and watches which layers run, what
        feeds them, which loss functions get what, and which gradients come back; then a step in evaluation mode, one
        of validation as Lightning begins it, and, in manual optimisation, a few steps whose optimisers stand still.
        No source is read and no name is guessed. Each aspect has a name of its own, by which it can be ignored.

    Fires when: A loss gets what it does not expect: a softmax, sigmoid or ReLU before a loss that wants logits, a
        softmax over the batch, no log-softmax before ``nll_loss``, one-hot labels in a regression loss after a
        squashing, targets that the output cannot reach (``right-loss``); output and target of unlike shape are
        broadcast to all pairs (``silent-broadcast``); a summed loss makes plain SGD step beyond 2 times a mean's rate
        over 1 minus momentum (``summed-loss``); batch norm over fewer than 4 examples a device, or a last batch of one
        (``tiny-batch-norm``); two wide linear layers with nothing between them (``missing-nonlinearity``); the gradient
        shrinks 1e8 times over the layers, the largest step not counted (``depth``); units alike in weights and
        gradients, or no gradient but in biases (``symmetric-init``, ``flat-start``); 95% of a layer's units off for
        every example (``dead-units``); loss or gradients not finite (``non-finite-start``); dropout above 80%
        (``dropout``), or on in evaluation (``stochastic-evaluation``); batch norms never follow the data
        (``still-batch-norm``), or only the last batch of it (``last-batch-norm``: momentum of 0.9 and more); no
        optimiser holds what the loss depends on (``untrained-parameters``), or one holds tensors that the module does
        not use (``foreign-parameters``); layers in a plain list are not trained (``hidden-layers``), layers are cut off
        by a ``detach`` (``detached-layers``), gradients are exactly zero (``no-gradient``); a rate, momentum, beta,
        epsilon, decay or clipping is beyond reason (``optimiser-settings``); trained dropout or batch norms run in
        evaluation mode (``evaluation-mode-in-training``), or in training mode while validating
        (``training-mode-in-validation``); gradients meet those of the last step (``gradients-kept``); a recurrent state
        is carried to the next batch, though examples are shuffled (``carried-state``). For a person's eye: biases
        before batch norms (``no-bias-before-norm``), batch norms in recurrences (``layer-norm-rnn``), dropout over 50%,
        before batch norm or on under 5,000 examples, parameters without a gradient (``unused-parameters``), frozen ones
        in an optimiser (``frozen-in-optimiser``).

    Under DDP: Each rank looks at a batch of its own; what is wrong on any rank counts, units are dead or alike where
        they are on all. Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: Forward and backward of a batch or two, and a few evaluation steps (0.1 s on digits on one core, 2 s
        for 16 images of 160 x 160 through a small EfficientNet); no trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ModelAudit(on_error="raise")], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 6.2, 7.12, 8.4 and 8.7.1

    Args:
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = "model-audit"
    source = 'Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 6.2, 7.12, 8.4 and 8.7.1'
    kind = "check"
    parts = PARTS
    aspects = aspects_of(PARTS)

    def __init__(self, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(budget, on_error)

    def read(self, view: View, deadline: Deadline) -> ModelSeen:
        """The module and one step of it, read when the first part asks."""
        return ModelSeen(view)

"""What the network answers while it runs, and what would have been right.

The layer that feeds the loss is found once, by one step on a copy of the first batch; after that a hook on this layer
hands over what it gives in the run's own steps, so that no forward pass is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_rules.answer_place import SHAPES, find_once, rows
from lightning_rules.batches import leaf_at, leaves, split_batch
from lightning_rules.losses import Kind
from lightning_rules.view import View


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network said about a batch, and what was right; N rows, on the device of the network.

    A row is an example. Where each example has several answers (pixels of a segmentation, steps of a sequence), each
    of these is a row: all rows of the first example come first, ``rows_per_example`` of them. A regression of several
    dimensions is one row an example.

    Made in a validation step, these are inference tensors: use them, and change none of them in place.

    Attributes:
        kind: What the outputs are: ``"softmax"``: logits of classes; ``"sigmoid"``: logits of yes and no, one a
            column; ``"mean"`` and ``"median"``: values of a regression.
        outputs: float32 [N, C], detached; what the last layer gave, so logits also where the loss takes
            probabilities or their logarithm.
        targets: int64 [N] class indices for softmax, -1 where the loss ignores the target; else float32 [N, C].
        rows_per_example: How many rows an example has.
    """

    kind: Kind
    outputs: Tensor
    targets: Tensor
    rows_per_example: int = 1

    @property
    def regression(self) -> bool:
        """Whether the outputs are values and not logits."""
        return self.kind in ("mean", "median")

    @property
    def known(self) -> Tensor:
        """Rows that have a target, bool [N]: not ignored by the loss, not NaN."""
        return self.targets >= 0 if self.kind == "softmax" else self.targets.isfinite().all(1)

    @property
    def probabilities(self) -> Tensor:
        """Of classes, or of yes a column, [N, C].

        Raises:
            ValueError: The outputs are values of a regression.
        """
        if self.regression:
            raise ValueError("Expected answers of a classifier, but a regression has no probabilities.")
        return self.outputs.softmax(1) if self.kind == "softmax" else self.outputs.sigmoid()

    @property
    def labels(self) -> Tensor:
        """The answer, int64: the most probable class [N], for one yes or no 0 or 1 [N], for several of them [N, C].

        Raises:
            ValueError: As :attr:`probabilities`.
        """
        if self.regression:
            raise ValueError("Expected answers of a classifier, but a regression has no labels.")
        if self.kind == "softmax":
            return self.outputs.argmax(1)
        yes = (self.outputs > 0).long()
        return yes[:, 0] if yes.shape[1] == 1 else yes

    @property
    def correct(self) -> Tensor:
        """Whether the answer is right, bool [N]; of several yes and no, whether all are. Rows without target are not.

        Raises:
            ValueError: As :attr:`probabilities`.
        """
        labels = self.labels
        if self.kind == "softmax":
            return labels == self.targets
        return (labels.reshape(self.targets.shape) == (self.targets > 0.5)).all(1) & self.known

    @property
    def confidence(self) -> Tensor:
        """The probability of the answer, [N]; of several yes and no, that of the least sure.

        Raises:
            ValueError: As :attr:`probabilities`.
        """
        sure = self.probabilities
        return sure.amax(1) if self.kind == "softmax" else torch.maximum(sure, 1 - sure).amin(1)


class AnswerWatch:
    """Hears what the layer before the loss gives, in training and validation steps, with the targets of the batch.

    Works under ``no_grad`` and ``inference_mode``, mixed precision and DDP. It adds no forward pass after the first
    batch has been looked at, changes nothing, and keeps one output until it is asked for. What it leaves on the layer
    holds nothing of the run, so that the module can be copied and pickled meanwhile.

    Args:
        view: The run, before its first batch. One step runs on a copy of the first training batch, once for all rules
            of the Trainer; everything is put back.

    Raises:
        NotApplicable: The step's loss is none that torch gives, something other than a change of shape lies between
            a layer and the loss, the layer runs several times or within compiled code, the targets are not in the
            batch; or the step cannot be run beside the run, see :meth:`View.step`.
    """

    def __init__(self, view: View) -> None:
        self._module = view.module
        self._found = find_once(view)
        self._layer: nn.Module = view.module.get_submodule(self._found.head)
        self._ear = _Ear()
        self._handle: Any = None
        self._expected: Tensor | None = None

    @property
    def kind(self) -> Kind:
        """What the outputs are; see :class:`Answers`."""
        return self._found.kind

    @property
    def head(self) -> str:
        """The path of the layer in the module: ``"net.fc"``."""
        return self._found.head

    def attach(self) -> None:
        """Hear from now on; what was heard before is forgotten."""
        self.detach()
        self._ear = _Ear()
        self._handle = self._layer.register_forward_hook(self._ear)

    def detach(self) -> None:
        """Hear no more; harmless if not attached."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self._ear = _Ear()
        self._expected = None

    def expect(self, batch: Any) -> None:
        """Note the targets of a batch before its step, for steps that take them out of it (``batch.pop("labels")``)."""
        self._expected = self._target(batch)

    def answers(self, batch: Any) -> Answers | None:
        """What the layer gave in the step that has just run, with the targets of its batch; handed over once.

        Args:
            batch: What the step was given, on the device.

        Returns:
            None where the layer has not run or ran several times since the last call, the batch has no such targets,
            or shapes do not fit.
        """
        runs, given = self._ear.take()
        expected, self._expected = self._expected, None
        if runs != 1 or given is None:
            return None
        target = self._target(batch)
        target = expected if target is None else target
        if target is None:
            return None
        try:
            outputs = rows(SHAPES[self._found.shaping](given, self._found.shape), self.kind).float()
            targets = self._as_rows(target, outputs.shape[1])
        except (RuntimeError, IndexError):  # another shape than in training
            return None
        if len(outputs) != len(targets) or (targets.dim() == 2 and targets.shape != outputs.shape):
            return None
        per_example = len(outputs) // len(target) if len(target) and len(outputs) % len(target) == 0 else 1
        return Answers(self.kind, outputs, targets, per_example)

    def inputs(self, batch: Any) -> Tensor | None:
        """The main tensor that enters the network, [N, ...]; None where the batch has none."""
        return main_input(batch, self._module)

    def _target(self, batch: Any) -> Tensor | None:
        """The targets in a batch, by their place in training batches, else by the usual names and places."""
        if self._found.path is not None:
            try:
                leaf = leaf_at(batch, self._found.path)
            except (KeyError, IndexError, TypeError, AttributeError):
                leaf = None
            if isinstance(leaf, Tensor) and leaf.dim():
                return leaf.detach()
        target = split_batch(batch, self._module)[1]
        return target.detach() if isinstance(target, Tensor) and target.dim() else None

    def _as_rows(self, target: Tensor, outputs: int) -> Tensor:
        found = self._found
        given_so = target.shape[1:] == found.target_shape[1:]
        if found.kind == "softmax":
            if found.floating and given_so:
                return rows(target, "softmax").argmax(1)
            indices = target.flatten().long()
            return torch.where((indices == found.ignored) | (indices < 0) | (indices >= outputs), -1, indices)
        if found.one_hot and not given_so:
            return F.one_hot(target.long(), outputs).float()
        return rows(target.reshape(-1, *found.target_shape[1:]), found.kind).float()


class _Ear:
    """The hook on the layer: counts runs and keeps the last output. A copy of it has heard nothing."""

    def __init__(self) -> None:
        self.runs = 0
        self.given: Tensor | None = None

    def __call__(self, layer: Any, inputs: Any, output: Any) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # activation checkpointing runs the layer again within backward
        self.runs += 1
        self.given = output.detach() if isinstance(output, Tensor) else None

    def take(self) -> tuple[int, Tensor | None]:
        """How often the layer has run, and what it gave last; both are forgotten."""
        runs, given, self.runs, self.given = self.runs, self.given, 0, None
        return runs, given

    def __reduce__(self) -> Any:
        return _Ear, ()


def main_input(batch: Any, module: Any = None) -> Tensor | None:
    """The main tensor that enters the network: the inputs themselves, or the first part of them of floating point."""
    inputs, _ = split_batch(batch, module)
    parts = [part.detach() for _, part in leaves(inputs) if part.dim() > 0]
    return next((part for part in parts if part.is_floating_point()), parts[0] if parts else None)

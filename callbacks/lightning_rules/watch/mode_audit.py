"""The rule mode-audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor

from lightning_rules.finding import Finding
from lightning_rules.idle_hooks import rest, wake
from lightning_rules.monitor import Monitor, NotApplicable, Sample, View
from lightning_rules.shards import shards
from lightning_rules.watch.mode_findings import ASPECTS, IN_A_ROW, ModesSeen, WrongLayer, judge
from lightning_rules.watch.step_modes import Layer, Ran, RecordedGraph, StepModes, closed_to_hooks
from lightning_rules.watch.unchanged import Unchanged

BATCH_HOOKS = ("on_validation_batch_start", "on_validation_batch_end")


@dataclass
class _Course:
    """How a layer has been run by the training step until now; plain, for a checkpoint.

    Attributes:
        trained: How often it was seen in training mode.
        wrong: How often in a row, until now, it was seen in evaluation mode alone, its part of the network too.
        since: The batch in which that began.
    """

    trained: int = 0
    wrong: int = 0
    since: int = 0


class ModeAudit(Monitor):
    """A network is trained in training mode and validated in evaluation mode, all along the run.

    Why: Dropout and batch norm do one thing in training and another in use, and one forgotten `train()` or `eval()`
        makes a run quietly worse: no error is raised, and the loss still falls.

    What it does: At sampled training batches, and in the first batch of each validation, hooks stand on the layers
        whose mode matters (dropout, batch and instance norm with running statistics, recurrent layers with dropout)
        and write down in which mode each of them really runs, and whether gradients are on. Around that validation
        batch the norms of all weights and batch statistics are compared. Where a hook would change the computation
        (compiled modules, scripted ones, PyTorch's own transformer layers) the flags are read before and after the
        step instead. Layers that stand in evaluation mode alone, such as frozen batch norms, parts without trained
        parameters and networks that run without gradients are left alone. Whether two validations of one state agree
        is told before the run by ``data-audit`` (``validation-passes``); running one twice would cost too much here.

    Fires when: Trained parts of the network run in evaluation mode in 3 sampled training batches in a row
        (``training-in-evaluation-mode``); a layer runs in training mode in a validation batch
        (``validating-in-training-mode``); the weights or the statistics of batch norms are others after a validation
        batch than before (``validation-changes-the-model``); a validation batch records a graph that no gradient is
        taken through (``gradients-in-validation``).

    Under DDP: Each rank looks at its own steps; what is wrong on any rank counts. Batch statistics are
        compared on the first rank, since DDP hands its own to the others; sharded weights are not compared.

    Cost: Microseconds for each layer whose mode matters, at sampled batches; in one batch of each validation two
        norms of all weights besides (on one busy core 0.2 ms a sampled batch for the 20 batch norms of a ResNet-18).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ModeAudit()], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 7.12 and 8.7.1

    Args:
        overhead: Share of the training time that all monitors may take together.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = "mode-audit"
    source = 'Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 7.12 and 8.7.1'
    kind = "check"
    aspects = ASPECTS

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._seen = ModesSeen()
        self._courses: dict[str, _Course] = {}
        self._fresh: list[tuple[list[str], list[Tensor]]] = []  # comparisons since the last look
        self._let_go()

    def _let_go(self) -> None:
        self._modes: StepModes | None = None
        self._graph: RecordedGraph | None = None
        self._unchanged: Unchanged | None = None

    def start(self, view: View) -> None:
        """Find the layers whose mode matters."""
        rest(self, *BATCH_HOOKS)
        closed = closed_to_hooks(view.module)
        self._modes = StepModes(view.module, closed)
        self._graph = RecordedGraph(view.module, closed)
        if not self._modes.layers and not view.validation_loaders:
            raise NotApplicable("no layer does another thing in training than in use, and there is no validation.")

    def before(self, sample: Sample) -> None:
        """Stand on the layers."""
        if self._modes is not None:
            self._modes.attach()

    def after(self, sample: Sample, outputs: Any) -> None:
        """Write down how they have run."""
        ran = self._modes.detach() if self._modes is not None else []
        optimised: set[int] | None = None
        for layer, how in ran:
            course = self._courses.setdefault(layer.name, _Course())
            course.trained += how.training
            suspect = how.evaluation and not how.training and not layer.around.training
            if suspect and optimised is None:
                optimised = _optimised(sample.trainer)
            if not suspect or not _trains(layer, optimised or set()):
                course.wrong = 0
                continue
            course.since = course.since if course.wrong else sample.batch_number
            course.wrong += 1
        self._seen = replace(self._seen, samples=self._seen.samples + 1, layers=max(self._seen.layers, len(ran)))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the first batch."""
        if self._active and not trainer.sanity_checking:
            wake(self, *BATCH_HOOKS)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Look at the first batch of a validation."""
        rest(self, BATCH_HOOKS[0])
        self._guarded(self._open_validation, trainer, pl_module)

    def _open_validation(self, trainer: Any, module: Any) -> None:
        if self._modes is not None and self._graph is not None:
            self._unchanged = None if shards(trainer) else Unchanged(module, statistics=trainer.is_global_zero)
            self._graph.attach()
            self._modes.attach()

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """It has been looked at."""
        rest(self, BATCH_HOOKS[1])
        self._guarded(self._close_validation)

    def _close_validation(self) -> None:
        if self._modes is None or self._graph is None:
            return
        ran = self._modes.detach()
        self._graph.detach()
        if self._unchanged is not None:
            self._fresh = [*self._fresh[-3:], (self._unchanged.names, self._unchanged.changed())]
            self._unchanged = None
        self._seen = replace(
            self._seen,
            validations=self._seen.validations + 1,
            validated=max(self._seen.validated, len(ran)),
            validated_in_training=_training(ran) or self._seen.validated_in_training,
            wasted=self._seen.wasted + (self._graph.recorded and not self._graph.used),
        )

    def readings(self) -> Any:
        """Which tensors validation has changed."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def take(self, readings: Any) -> ModesSeen:
        """What has been seen until now."""
        for names, changed in readings:
            flags = [flag for group in changed for flag in group.tolist()]
            gone = tuple(name for name, flag in zip(names, flags, strict=True) if flag)
            self._seen = replace(self._seen, changed=gone or self._seen.changed, tensors=len(names))
        kinds = {layer.name: type(layer.part).__name__ for layer in (self._modes.layers if self._modes else ())}
        wrong = tuple(
            WrongLayer(name, kinds.get(name, "layer"), course.since, course.trained > 0)
            for name, course in self._courses.items()
            if course.wrong >= IN_A_ROW
        )
        return replace(self._seen, wrong=wrong)

    def judge(self, ranks: Sequence[ModesSeen]) -> list[Finding]:
        """See :func:`mode_findings.judge`."""
        return judge(ranks)

    def _take_off(self) -> None:
        """Leave no hook on the module."""
        if self._modes is not None and self._graph is not None:
            self._modes.detach()
            self._graph.detach()
        self._let_go()

    def _release(self) -> None:
        super()._release()
        self._take_off()

    def state_dict(self) -> dict[str, Any]:
        """How the layers have run until now."""
        return {**super().state_dict(), "courses": {name: asdict(course) for name, course in self._courses.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._courses = {name: _Course(**values) for name, values in state_dict["courses"].items()}


def _optimised(trainer: Any) -> set[int]:
    """The parameters that optimisers hold, by identity."""
    return {
        id(parameter)
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _trains(layer: Layer, optimised: set[int]) -> bool:
    """Whether the part of the network that holds the layer is trained."""
    return any(one.requires_grad and id(one) in optimised for one in layer.around.parameters())


def _training(ran: Sequence[tuple[Layer, Ran]]) -> tuple[tuple[str, str], ...]:
    return tuple((layer.name, type(layer.part).__name__) for layer, how in ran if how.training)

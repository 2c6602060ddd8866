"""The rule activation-health."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_rules.activation_functions import Activation
from lightning_rules.compiled_code import (
    calls_compiled_functions,
    frames_compiled,
    has_compiled_parts,
    outside_compiled,
)
from lightning_rules.monitor import Finding, Histogram, Monitor, NotApplicable, Sample, Severity, View
from lightning_rules.watch import layer_sizes, output_ranges, stuck_units
from lightning_rules.watch.layer_sizes import LayerSizes, SizesSeen
from lightning_rules.watch.output_ranges import OutputRanges, OutputsSeen
from lightning_rules.watch.step_watch import Place, StepWatch, WatchedStep
from lightning_rules.watch.stuck_units import UnitsSeen
from lightning_rules.watch.unit_windows import History, Tallies, Tally, restored, saved
from lightning_rules.watch.value_samples import BINS, counted

NAME = "activation-health"
LOGGED = 10  # names of each kind of number
K = TypeVar("K")
V = TypeVar("V")


class Seen(NamedTuple):
    """What one rank's windows say.

    Attributes:
        units: Of each activation.
        sizes: Of the layers.
        outputs: By loss.
        unseen: What is not seen, as a sentence; "" where all is.
    """

    units: tuple[UnitsSeen, ...]
    sizes: SizesSeen
    outputs: dict[str, OutputsSeen]
    unseen: str = ""


class ActivationHealth(Monitor):
    """Units stay alive, their outputs differ between examples, and their scale stays within bounds.

    Why: A step that is too large pushes ReLU units below zero for every example; they get no gradient and never come
        back. Saturated sigmoids and tanhs hold gradients up in the same way. A loss curve shows neither: the network
        trains on with what is left of it.

    What it does: It looks at the real training step, at sampled batches only: forward hooks and a function mode see
        every activation, as a module or as a function (`F.relu`, `torch.tanh`, `x.sigmoid_()`, GELU, SiLU, ELU and
        others), each layer's output, and what a loss is given. Large maps are looked at in places. A unit counts as
        dead (ReLU: no input above zero; GELU and the like: so far below that no gradient passes) or saturated only if
        it was so for every example of a window: at least 4 batches and 128 examples, or an epoch where that is less.
        It logs `activation_dead`, `activation_saturated` and `activation_rms` for up to ten places each, and
        histograms of what enters activations.
        Not seen: what runs inside compiled code or fused kernels (the gates of an LSTM, attention). Gates of whole
        maps (squeeze and excitation), leaky functions, and sigmoids or tanhs that are the network's answer are left
        aside.

    Fires when: `dying-units`: at least 90% of a layer's units were dead in two windows in a row, 80% where at most 30%
        were at the first batch, or 70% of every layer's (warning). `saturated-units`: 90% of a layer's sigmoids or
        tanhs were saturated all the time in two windows in a row (warning). `constant-outputs`: in three looks in a
        row what the loss was given was the same for all examples, their targets were not, and differences did not grow
        (warning). `exploding-activations`: a hidden layer's output is a thousand times larger than over the first
        batches, and the loss no smaller (warning). `non-finite-activations`: the loss is not finite; the first layer,
        in the order in which they run, whose output is not finite is named (error).

    Under DDP: Each rank watches its own batches; a unit that lives on one of them lives.

    Cost: At a sampled batch, hooks around each module and a reduction of up to 32,768 values for each activation:
        about 0.3 ms for a two-layer MLP, 2% of a step of a ResNet-18 on CPU. Nothing on other batches. Nothing waits
        for the device.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ActivationHealth()], logger=False)

    Source: Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks",
        section 3; dying units: Maas et al. (2013), "Rectifier nonlinearities improve neural network acoustic models".

    Args:
        overhead: Share of the training time that all monitors may take together; see
            :class:`~lightning_rules.monitor.Monitor`.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = (
        'Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks", '
        "section 3"
    )
    kind = "check"
    aspects = (
        stuck_units.DYING,
        stuck_units.SATURATED,
        output_ranges.CONSTANT,
        layer_sizes.EXPLODING,
        layer_sizes.NON_FINITE,
    )

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._step: WatchedStep | None = None
        self._drop()
        self._windows: dict[Place, History] = {}
        self._sizes = LayerSizes()
        self._outputs = OutputRanges()
        self._histograms: dict[Place, Histogram] = {}
        self._batch = 0

    def _drop(self) -> None:
        """Let go of the run's module and of its device."""
        if self._step is not None:
            self._step.remove()
        self._module: Any = None
        self._parts: list[tuple[str, Any]] = []
        self._step = None
        self._tallies = Tallies()
        self._rows: list[tuple[int, tuple[str, ...], Tensor, Tensor | None]] = []
        self._losses: list[tuple[int, str, bool, Tensor, Tensor]] = []
        self._inputs: dict[Place, Tensor] = {}

    def start(self, view: View) -> None:
        """Find the parts that can be watched."""
        if calls_compiled_functions(view.module):
            raise NotApplicable("a compiled function runs this module, and hooks would have it compiled anew.")
        self._module, self._parts = view.module, list(outside_compiled(view.module))
        if not self._parts:
            raise NotApplicable("the module has no submodules that could be watched.")
        self._functions = not has_compiled_parts(view.module)
        self._frames = frames_compiled()
        self._epoch = float(view.trainer.num_training_batches)
        self._draws = bool(view.trainer.loggers)

    def before(self, sample: Sample) -> None:
        """Stand in for ``training_step``, this once."""
        if self._functions and frames_compiled() > self._frames:
            raise NotApplicable("code was compiled while it trained, and a function mode would have it compiled anew.")
        if self._step is not None:
            self._step.remove()
        wanted = self._draws and not self._inputs
        watch = StepWatch(self._parts, self._functions, sample.batch_number, wanted)
        self._step = WatchedStep(sample.module, watch)

    def after(self, sample: Sample, outputs: Any) -> None:
        """Add up what was seen, on the device."""
        step, self._step = self._step, None
        if step is None:
            return
        step.remove()
        seen = step.watch.seen
        if step.watch.failure is not None:
            raise step.watch.failure
        self._tallies.add(seen)
        number = sample.batch_number
        if seen.sizes:
            self._rows.append((number, tuple(seen.layers), torch.stack(seen.sizes), seen.loss))
        self._losses += [(number, name, *one) for name, one in seen.outputs.items()]
        self._inputs.update(_spread(seen.inputs))

    def readings(self) -> Any:
        """Everything since the last look."""
        units = [
            (place, kind, hidden, tally.numbers, tally.samples, tally.examples, self._tallies.first.get(place))
            for place, (kind, hidden, tally) in self._tallies.of.items()
        ]
        pictures = [(place, *counted(values)) for place, values in self._inputs.items()]
        handed = (self._cadence_batches(), units, self._rows, self._losses, pictures)
        self._tallies, self._rows, self._losses, self._inputs = Tallies(), [], [], {}
        return handed

    def _cadence_batches(self) -> int:
        return max((row[0] for row in self._rows), default=self._batch)

    def take(self, readings: Any) -> Seen:
        """Fill the windows."""
        self._batch, units, rows, losses, pictures = readings
        for place, kind, hidden, numbers, samples, examples, first in units:
            self._take_units(Place(*place), kind, hidden, Tally(numbers, samples, examples), first)
        self._sizes.take(
            [
                (number, dict(zip(names, sizes.tolist(), strict=True)), None if loss is None else float(loss))
                for number, names, sizes, loss in rows
            ]
        )
        self._outputs.take([(number, name, values, float(a), float(b)) for number, name, values, a, b in losses])
        for place, counts, low, high in pictures:
            if bool(torch.isfinite(high - low)) and high > low:
                edges = torch.linspace(float(low), float(high), BINS + 1).tolist()
                self._histograms[Place(*place)] = Histogram(counts.tolist(), edges)
        return Seen(self._units_seen(), self._sizes.seen(self._weights_finite()), self._outputs.seen(), self._unseen())

    def _take_units(self, place: Place, kind: Activation, hidden: bool, tally: Tally, first: Tensor) -> None:
        history = self._windows.get(place)
        if history is None or history.units != tally.numbers.numel():
            history = self._windows[place] = History.begin(kind, hidden, first, self._batch)
        history.take(tally, self._batch, self._epoch, self._last_look)

    def _units_seen(self) -> tuple[UnitsSeen, ...]:
        return tuple(
            UnitsSeen(place, one.kind.floor is not None, one.units, one.hidden, one.start, tuple(one.shares))
            for place, one in self._windows.items()
        )

    def _weights_finite(self) -> bool:
        """Of the layer that is not finite; waits for the device, once the run is lost."""
        if self._sizes.broken is None or self._module is None:
            return True
        weights = self._module.get_submodule(self._sizes.broken[0]).parameters(recurse=False)
        return all(bool(weight.detach().isfinite().all()) for weight in weights)

    def _unseen(self) -> str:
        return "" if self._functions else "What runs inside compiled parts, and functional activations, are not seen."

    def judge(self, ranks: Sequence[Seen]) -> Iterable[Finding]:
        """All aspects, from what all ranks have seen."""
        return judge(ranks)

    def scalars(self) -> Mapping[str, float]:
        """Shares of dead and saturated units, and the layers' sizes."""
        dead = {p: one.shares[-1] for p, one in self._windows.items() if one.shares and one.kind.floor is not None}
        flat = {p: one.shares[-1] for p, one in self._windows.items() if one.shares and one.kind.floor is None}
        return {
            **{f"activation_dead/{_label(place)}": share for place, share in _spread(dead).items()},
            **{f"activation_saturated/{_label(place)}": share for place, share in _spread(flat).items()},
            **{f"activation_rms/{name}": size for name, size in _spread(self._sizes.now).items()},
        }

    def histograms(self) -> Mapping[str, Histogram]:
        """What enters the activations."""
        return {f"activation_input/{_label(place)}": one for place, one in self._histograms.items()}

    def _release(self) -> None:
        super()._release()
        self._drop()

    def state_dict(self) -> dict[str, Any]:
        """Findings, the windows that are closed, and the layers' first sizes."""
        return {**super().state_dict(), "units": saved(self._windows), "sizes": self._sizes.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._windows = restored(state_dict["units"])
        self._sizes = LayerSizes(**state_dict["sizes"])


def judge(ranks: Sequence[Seen]) -> list[Finding]:
    """All aspects, from what all ranks have seen; pure."""
    found = [
        *stuck_units.judge([rank.units for rank in ranks]),
        *output_ranges.judge([rank.outputs for rank in ranks]),
        *layer_sizes.judge([rank.sizes for rank in ranks]),
    ]
    unseen = next((rank.unseen for rank in ranks if rank.unseen), "")
    if unseen or not found:
        found.append(Finding(NAME, Severity.INFO, unseen or "Too little was seen of the network to judge it."))
    return found


def _spread(values: Mapping[K, V]) -> dict[K, V]:
    """At most ``LOGGED`` of them, evenly from the first to the last."""
    keys = list(values)
    if len(keys) > LOGGED:
        keys = [keys[round(place * (len(keys) - 1) / (LOGGED - 1))] for place in range(LOGGED)]
    return {key: values[key] for key in keys}


def _label(place: Place) -> str:
    return (place.name or "forward") + (f".{place.call}" if place.call else "")

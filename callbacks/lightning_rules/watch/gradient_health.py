"""The rule gradient-health."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.finding import Finding
from lightning_rules.idle_hooks import rest
from lightning_rules.monitor import Monitor
from lightning_rules.rule import NotApplicable, refusal_of
from lightning_rules.shards import refuse_shards
from lightning_rules.view import View
from lightning_rules.watch import gradient_judgement
from lightning_rules.watch.clearing_watch import ClearingWatch
from lightning_rules.watch.gradient_history import GradientHistory, GradientsSeen
from lightning_rules.watch.gradient_stream import GradientStream, looked_up, names_of

NAME = "gradient-health"
SHARE = 1 / 6  # of `overhead`
LAYERS = 30  # names that are logged, at most
FEW_BATCHES = 4  # an epoch


class GradientHealth(Monitor):
    """Gradients are finite, reach every layer, keep their size, and are cleared between steps.

    Why: A gradient is all that a weight learns from. One that is NaN destroys the network at the next step, one that
        does not arrive leaves a layer as it was made, one that is added to the last step's points elsewhere; and the
        loss alone tells of it late, if at all.

    What it does: At each optimiser step, before gradients are clipped, it takes the norm of each parameter's gradient
        (at every n-th where that costs too much). It compares them with the run's own first 16 steps, with other
        layers, and with the loss over the same steps, not with fixed thresholds. At the beginning of backward passes of
        the first dozen steps it looks whether gradients were cleared. It logs `rules/gradient_norm/total` and the norms
        of layers.
        Embeddings and sparse gradients are expected to be zero at times. What a module steps past
        `self.optimizers()`, and what a gradient was before a `torch` optimiser's own hooks, is not seen.

    Fires when: `non-finite-gradients`: a gradient was NaN or infinite and the weights are by now (error; it names step
        and parameter, and whether the loss was finite); somebody skips such steps, but they are more than 1% (warning).
        With a GradScaler: the last 24 steps were all skipped (error), or more than 20% (warning).
        `vanishing-gradients`: the loss has not fallen by 20%, and most of the network's gradients are less than 1e-4 of
        their largest norm in the first steps, or those of the first layers, in relation to the weights, less than 1e-5
        of the last layer's (warning). `exploding-gradients`: norms of the last 64 steps are 100 times those of the
        first 16, and the loss has risen by half (warning). `zero-gradients`: no parameter had a gradient at any step
        (error); exactly zero at each step for half of the network (warning). `always-clipped`: 95% of the steps were
        clipped (information), to less than a hundredth, with SGD, and the loss has not fallen (warning).
        `uncleared-gradients`: gradients are never cleared between steps (error).

    Under DDP: Gradients are the same on all ranks after they were averaged, and each rank measures its own. Where they
        are not averaged, one rank's non-finite gradients are enough, and what else is wrong must be so on all ranks.
        Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: One norm for each gradient, on the device, 11 microseconds a step for four parameters and about 30 with what
        that costs the caches; for large networks on a CPU at every n-th step, so that it takes at most a sixth of
        `overhead`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientHealth(on_error="raise")], logger=False)

    Source: Bengio et al. (1994), "Learning long-term dependencies with gradient descent is difficult"; Pascanu et al.
        (2013), "On the difficulty of training recurrent neural networks", section 2; Glorot and Bengio (2010),
        "Understanding the difficulty of training deep feedforward neural networks", section 4.

    Args:
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``overhead`` is not between 0 and 1.
    """

    name = NAME
    source = 'Bengio et al. (1994), "Learning long-term dependencies with gradient descent is difficult"'
    kind = "check"
    aspects = gradient_judgement.ASPECTS

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._streams: dict[int, GradientStream] = {}  # by id of the optimiser
        self._watches: dict[int, ClearingWatch] = {}
        self._histories: list[GradientHistory] = []  # one for each stream, in order
        self._losses: list[Any] = []
        self._seen: list[GradientsSeen] = []
        self._stored: list[dict[str, Any]] = []  # of a checkpoint
        self._clearing = False
        self._batches = 0

    def start(self, view: View) -> None:
        """Find the parameters of each optimiser."""
        trainer = view.trainer
        refuse_shards(trainer)
        for place, optimizer in enumerate(trainer.optimizers):
            self._begin(trainer, view.module, optimizer, place)
        if not self._streams:
            raise NotApplicable("the run has no optimiser with parameters to train.")
        for history, stored in zip(self._histories, self._stored, strict=False):
            history.load(stored)
        if _others_may_clear(trainer, view.module):
            self._watches = {}
        self._clearing = bool(self._watches)
        if not self._clearing:
            rest(self, "on_before_backward")

    def _begin(self, trainer: Any, module: Any, optimizer: Any, place: int) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscales_itself = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        stream = GradientStream(optimizer, scaler if unscales_itself else None)
        parameters = stream.parameters
        if not parameters:
            return
        own_clipping = not _is_ours(type(module).configure_gradient_clipping)
        by_norm = trainer.gradient_clip_val and "value" not in str(trainer.gradient_clip_algorithm) and not own_clipping
        facts = {
            "label": f"optimiser {place}" if len(trainer.optimizers) > 1 else "",
            "scaled": scaler is not None,
            "adaptive": not isinstance(optimizer, torch.optim.SGD),
            "clip": float(trainer.gradient_clip_val) if by_norm else None,
            "small_data": bool(trainer.num_training_batches <= FEW_BATCHES),
        }
        order = {id(one): index for index, one in enumerate(module.parameters())}
        tables = looked_up(module)
        self._streams[id(optimizer)] = stream
        self._watches[id(optimizer)] = ClearingWatch(parameters)
        self._histories.append(
            GradientHistory(
                names_of(module, parameters),
                [one.numel() for one in parameters],
                [order.get(id(one), len(order) + index) for index, one in enumerate(parameters)],
                [one.dim() for one in parameters],
                [id(one) in tables for one in parameters],
                facts,
            )
        )

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Measure, before gradients are clipped."""
        stream = self._streams.get(id(optimizer))
        if stream is None or not self._active or self._refusal:
            return
        try:
            # Asking the Trainer takes longer than counting; the count begins anew at each look.
            step = stream.step + 1 if stream.step is not None and len(self._streams) == 1 else trainer.global_step
            stream.add(step, len(self._losses))
            if self._clearing:
                self._watches[id(optimizer)].stepped()
        except Exception as error:
            self._refusal = refusal_of(error)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Look whether gradients are cleared; this hook rests when enough was seen."""
        if not self._active or all(watch.is_over for watch in self._watches.values()):
            self._clearing = False
            rest(self, "on_before_backward")
            return
        for watch in self._watches.values():
            self._guarded(watch.backward_begins)

    def each_batch(self, outputs: Any) -> None:
        """Keep the loss."""
        self._losses.append(outputs.get("loss") if isinstance(outputs, Mapping) else outputs)

    def readings(self) -> Any:
        """Losses of the batches, rows of norms, and whether gradients were cleared, since the last look."""
        for stream in self._streams.values():
            stream.adapt(self._cadence.batch_seconds, self._cadence.overhead * SHARE)
        losses, self._losses = _as_numbers(self._losses), []
        streams = [stream.readings() for stream in self._streams.values()]
        watched = [self._watches[key].readings() if self._watches else (0, []) for key in self._streams]
        return losses, streams, watched

    def take(self, readings: Any) -> list[GradientsSeen]:
        """Add them to the windows of each optimiser."""
        losses, streams, watched = readings
        self._batches += len(losses)
        known = torch.cat([losses.double(), torch.full((1,), math.nan).double()])
        for history, (places, blocks, weights), (rounds, kept) in zip(self._histories, streams, watched, strict=True):
            history.rounds, history.kept = rounds, history.kept + sum(map(int, kept))
            if len(places):
                rows = torch.cat([block.double() for block in blocks])
                batches = places[:, 1].clamp(max=len(losses))
                history.add(places[:, [0, 2]].tolist(), rows, known[batches], weights[0])
        self._seen = [replace(history.seen(), batches=self._batches) for history in self._histories]
        return self._seen

    def judge(self, ranks: Sequence[list[GradientsSeen]]) -> Iterable[Finding]:
        """Findings on each optimiser; see :mod:`~lightning_rules.watch.gradient_judgement`."""
        return gradient_judgement.judge(ranks)

    def scalars(self) -> Mapping[str, float]:
        """Medians of the last steps: the norm of all gradients, and of those of each layer."""
        several = len(self._seen) > 1
        totals = {f"total_{place}" if several else "total": seen.norms[1] for place, seen in enumerate(self._seen)}
        squares: dict[str, float] = {}
        names = [one.name for seen in self._seen for one in seen.parameters]
        layers = dict(zip(names, layers_of(names), strict=True))
        for seen in self._seen:
            for one in seen.parameters:
                squares[layers[one.name]] = squares.get(layers[one.name], 0.0) + one.recent**2
        norms = {**totals, **{layer: math.sqrt(square) for layer, square in squares.items()}}
        return {f"gradient_norm/{name}": norm for name, norm in norms.items() if math.isfinite(norm)}

    def _release(self) -> None:
        super()._release()
        self._streams, self._watches, self._losses = {}, {}, []

    def state_dict(self) -> dict[str, Any]:
        """Findings, cadence, and the windows."""
        states = [history.state() for history in self._histories]
        return {**super().state_dict(), "histories": states or self._stored, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._stored, self._batches = list(state_dict["histories"]), state_dict["batches"]


def layers_of(names: Sequence[str]) -> list[str]:
    """The layer of each parameter, of a depth at which there are few enough."""
    paths = [name.split(".") for name in names]
    for depth in range(max((len(path) for path in paths), default=1) - 1, 0, -1):
        layers = [".".join(path[:-1][:depth]) or path[0] for path in paths]
        if len(set(layers)) <= LAYERS:
            return layers
    return ["others"] * len(names)


def _others_may_clear(trainer: Any, module: Any) -> bool:
    """Whether somebody else acts when a backward pass begins, after this rule has looked."""
    others = [callback for callback in trainer.callbacks if not isinstance(callback, Monitor)]
    hooks = [type(one).on_before_backward for one in (*others, module)] + [type(module).backward]
    return not all(map(_is_ours, hooks))


def _is_ours(hook: Any) -> bool:
    """Whether a hook is Lightning's or of this package, not the user's."""
    return hook.__module__.partition(".")[0] in ("lightning", "pytorch_lightning", "lightning_rules")


def _as_numbers(losses: Sequence[Any]) -> Tensor:
    """``[batches]``; NaN where there is no loss."""
    if all(isinstance(loss, Tensor) and loss.dim() == 0 for loss in losses) and len({*map(_kind, losses)}) == 1:
        return torch.stack(list(losses)).detach()
    fine = [loss if isinstance(loss, Tensor) and loss.numel() == 1 else None for loss in losses]
    some = next((loss for loss in fine if loss is not None), None)
    if some is None:
        return torch.full((len(losses),), math.nan)
    unknown = torch.full((), math.nan, device=some.device)
    return torch.stack([unknown if one is None else one.detach().reshape(()).to(unknown) for one in fine])


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device

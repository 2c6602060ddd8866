"""A few real steps with the run's own optimiser, at its own rates, measured; and all of it undone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.batches import leaves
from lightning_rules.deadline import Deadline
from lightning_rules.preflight.planned_rates import plan_of, rates_of, stepped_of
from lightning_rules.priors import constant_output, per_example, tally_of
from lightning_rules.rule import NotApplicable, attempt
from lightning_rules.trial_runs import TrialRuns
from lightning_rules.view import View

STEPS = 30
FEWEST = 10
SHORT = 20  # steps: a run shorter than that is no training
LONGEST = 150  # steps, where the first went wrong: a healthy start recovers
BYTES = 256 * 2**20  # of batches that are held
SHARE = 0.3  # of the time that is left: how long reading batches may take, and the trial itself
WORSE = 1.0  # times the loss at the start: a trial that stands there is continued,
COARSE = 0.05  # where a step has changed the weights by this share of their size


@dataclass(frozen=True)
class Trial:
    """What a short trial did.

    Attributes:
        losses: The loss before each step; it ends where one is not finite.
        ratios: For each step the mean size of the change of a weight over the mean size of a weight, which counts as at
            least half of 1/sqrt(fan-in), so that small and zero initial weights do not look overthrown; of tensors
            with two dimensions or more.
        decrease: What a step would lower the loss by to first order: the mean of -gradient x change.
        moved: The norm of the whole change over the norm of the parameters.
        rate: The highest rate of the groups, at its peak.
        planned: How many steps at that rate the planned run amounts to, its schedule counted in; None where it has no
            planned end, or its schedule cannot be read.
        prior: The loss of the best constant output; None where it is not known.
        summed: Whether the loss is summed over the batch.
        broken: What is not finite at the start already, so that no rate is to blame: ``"loss"``, ``"gradient"``.
        optimizer: The optimiser's class.
    """

    losses: tuple[float, ...]
    ratios: tuple[float, ...]
    decrease: float
    moved: float
    rate: float
    planned: float | None = None
    prior: float | None = None
    summed: bool = False
    broken: str = ""
    optimizer: str = "SGD"

    @property
    def start(self) -> float:
        """The loss before the first step."""
        return self.losses[0]

    @property
    def highest(self) -> float:
        """The highest loss of all."""
        return max(self.losses)

    @property
    def end(self) -> float:
        """The mean loss of the last fifth of the steps."""
        last = self.losses[-max(3, len(self.losses) // 5) :]
        return sum(last) / len(last)


def try_steps(view: View, deadline: Deadline) -> Trial:
    """Take the first steps of the run, and undo them.

    Raises:
        NotApplicable: The module optimises manually or with several optimisers, or its steps cannot be run.
        OutOfTime: Ten steps do not fit into the time that is left.
    """
    trial = TrialRuns(view.trainer, view.module, alone=True)
    if isinstance(trial.optimizer, torch.optim.LBFGS):
        raise NotApplicable("LBFGS finds the size of its steps by several passes over one batch.")
    if view.trainer.world_size > 1 and trial.acting_rules() and _recurrent(view.module):
        raise NotApplicable("under DDP the trial leaves out clipping by rules, which a recurrent network needs.")
    curve, planned = _planned(view, trial, deadline)
    if view.trainer.fast_dev_run or (planned is not None and planned < SHORT):
        raise NotApplicable(f"the run has fewer than {SHORT} steps, and is a trial itself.")
    batches = _held(view, deadline)
    moves = _Moves(trial.optimizer)
    losses = _run(trial, batches, curve, moves, deadline)
    prior, summed = attempt(lambda: _prior(view, batches[0]))[0] or (None, False)
    return Trial(
        losses=tuple(losses),
        ratios=tuple(moves.ratios),
        decrease=sum(moves.decreases) / max(1, len(moves.decreases)),
        moved=moves.moved,
        rate=max(curve),
        planned=planned,
        prior=prior,
        summed=summed,
        broken=_broken(view, batches, losses, moves),
        optimizer=type(trial.optimizer).__name__,
    )


def _run(trial: TrialRuns, batches: list[Any], curve: list[float], moves: _Moves, deadline: Deadline) -> list[float]:
    losses: list[float] = []
    limit, begun = STEPS, time.monotonic()
    with closing(trial.run(_first_rates(curve), batches)) as running:
        for loss in running:
            losses.append(loss)
            moves.see()
            if len(losses) == 1:
                limit = _affordable(time.monotonic() - begun, deadline)
            wanted = LONGEST if _worse(losses) and max(moves.ratios, default=0.0) >= COARSE else STEPS
            if not math.isfinite(loss) or len(losses) >= min(wanted, limit):
                break
    return losses


def _first_rates(curve: list[float]) -> Iterator[float]:
    """The planned rates at first; a warm-up is passed through within half of the trial."""
    peak = max(curve)
    climb = STEPS // 2 if curve[0] < peak / 2 else 1
    for step in range(climb):
        yield curve[0] + (peak - curve[0]) * step / climb
    while True:
        yield peak


def _affordable(first: float, deadline: Deadline) -> int:
    """How many steps fit into the time, when one has taken so long."""
    deadline.require(FEWEST * first, f"a trial of {FEWEST} steps")
    return max(FEWEST, int(SHARE * deadline.left / max(first, 1e-6))) if math.isfinite(deadline.left) else LONGEST


def _worse(losses: list[float]) -> bool:
    recent = losses[-5:]
    return sum(recent) / len(recent) >= WORSE * losses[0]


def _planned(view: View, trial: TrialRuns, deadline: Deadline) -> tuple[list[float], float | None]:
    """The planned rate at each step, and how many steps at its peak they amount to."""
    now = max(float(group["lr"]) for group in trial.optimizer.param_groups)
    plan, _ = attempt(lambda: plan_of(view.trainer))
    stepped = stepped_of(view.trainer, trial.optimizer)
    if plan is None or not view.trainer.lr_scheduler_configs:
        return [now], None if plan is None else float(plan.steps)
    rates, _ = attempt(lambda: rates_of(view.trainer, view.module, trial.optimizer, stepped, plan, deadline))
    if rates is None or not stepped or max(rates.planned) == 0:
        return [now], None
    return rates.planned, sum(rates.planned) / max(rates.planned)


def _held(view: View, deadline: Deadline) -> list[Any]:
    """The first batches, as many as fit into memory and time."""
    begun = time.monotonic()
    first: list[Any] = view.batches(1)
    took = time.monotonic() - begun
    size = sum(int(part.nbytes) for _, part in leaves(first[0]))
    count = min(STEPS * view.trainer.accumulate_grad_batches, BYTES // max(1, size))
    if math.isfinite(deadline.left):
        count = min(count, int(SHARE * deadline.left / max(took, 1e-6)))
    return view.batches(count) if count > 1 else first


def _recurrent(module: nn.Module) -> bool:
    return any(isinstance(part, nn.RNNBase) for part in module.modules())


def _prior(view: View, batch: Any) -> tuple[float, bool]:
    """The loss that the best constant output gives on a batch, and whether it is summed."""
    with view.step(batch) as step:
        if len(step.calls) != 1 or step.loss is None:
            raise NotApplicable("no single loss.")
        (call,) = step.calls
        bias = call.head.bias if call.head is not None else None
        width = call.output.shape[call.class_dim] if call.output.dim() > 1 or call.kind == "softmax" else 1
        outputs = width if bias is None or call.kind == "softmax" else bias.numel()
        prior = float(per_example(call, constant_output(call, tally_of(view, call, batch, outputs).constant)).mean())
        given, returned = float(per_example(call, call.output).mean()), float(step.loss.detach())
        return prior * returned / given, call.arguments.get("reduction") == "sum"


def _broken(view: View, batches: list[Any], losses: list[float], moves: _Moves) -> str:
    """What is not finite before any step was taken."""
    if not moves.finite_at_start:
        return "gradient"
    if math.isfinite(losses[-1]):
        return ""
    first = (len(losses) - 1) * view.trainer.accumulate_grad_batches
    tried = [batches[(first + more) % len(batches)] for more in range(view.trainer.accumulate_grad_batches)]
    with view.on_loan():
        values = [view.loss(batch, 0) for batch in tried]
        return "" if all(value is not None and bool(value.isfinite().all()) for value in values) else "loss"


class _Moves:
    """Watches how far an optimiser moves its parameters."""

    def __init__(self, optimizer: Any) -> None:
        groups = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.parameters: list[Tensor] = [parameter for parameter in groups if parameter.requires_grad]
        self.first = [parameter.detach().clone() for parameter in self.parameters]
        self.before = self.first
        self.sizes = [_standard_size(parameter) for parameter in self.first]
        self.ratios: list[float] = []
        self.decreases: list[float] = []
        self.moved = 0.0
        self.finite_at_start = True

    @torch.no_grad()
    def see(self) -> None:
        """Look at them after a step; their gradients are those of the step."""
        if not self.parameters:
            return
        now = [parameter.detach().clone() for parameter in self.parameters]
        changes = torch._foreach_sub(now, self.before)
        self.ratios.append(self._ratio(changes))
        gradients = [parameter.grad for parameter in self.parameters]
        pairs = [(g, c) for g, c in zip(gradients, changes, strict=True) if g is not None and not g.is_sparse]
        self.decreases.append(-sum(float((g * c).sum()) for g, c in pairs))
        if len(self.ratios) == 1:
            self.finite_at_start = all(bool(gradient.isfinite().all()) for gradient, _ in pairs)
        far = torch._foreach_norm(torch._foreach_sub(now, self.first))
        norm = torch._foreach_norm(self.first)
        self.moved = _length(far) / max(_length(norm), 1e-30)
        self.before = now

    def _ratio(self, changes: Any) -> float:
        moved = size = 0.0
        for change, before, standard in zip(changes, self.before, self.sizes, strict=True):
            if before.dim() > 1:
                moved += float(change.abs().sum())
                size += max(float(before.abs().sum()), standard * before.numel())
        return moved / size if size else 0.0


def _standard_size(parameter: Tensor) -> float:
    """Half of 1/sqrt(fan-in): the mean size of a weight as torch's layers draw it."""
    return 0.5 * (len(parameter) / max(1, parameter.numel())) ** 0.5 if parameter.dim() > 1 else 0.0


def _length(norms: Any) -> float:
    return float(torch.stack([norm.double() for norm in norms]).norm())

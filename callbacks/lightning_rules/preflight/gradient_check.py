"""The rule gradient-check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.central_differences import Slope
from lightning_rules.preflight.double_precision import in_double
from lightning_rules.preflight.finite_gradients import StepSeen, see_constant_inputs, see_step
from lightning_rules.preflight.loss_slopes import ParameterSeen, RoundSeen, see_round
from lightning_rules.preflight.own_functions import FunctionSeen
from lightning_rules.preflight_check import PreflightCheck
from lightning_rules.rule import NotApplicable
from lightning_rules.short_training import learned_parameters, train
from lightning_rules.view import View

NAME = "gradient-check"
STEPS = 8  # of training before the second comparison
RATE = 1e-3  # Adam's default
BATCHES = 2
NAMED = 3
TENSORS = (24, 12)  # parameters compared at the start and later, evenly spread


@dataclass(frozen=True)
class GradientSeen:
    """What one rank measured.

    Attributes:
        step: The first step in the run's own precision.
        rounds: The comparisons by name: "at the start", "after 8 steps".
        constant: Steps on zero and constant inputs that are not finite.
        not_later: Why there was no second comparison; empty if there was one.
    """

    step: StepSeen
    rounds: dict[str, RoundSeen] = field(default_factory=dict)
    constant: dict[str, StepSeen] = field(default_factory=dict)
    not_later: str = ""


class GradientCheck(PreflightCheck):
    """Gradients by backpropagation are those that central differences give.

    Why: A wrong gradient still trains, only worse, and no curve shows it. torch's own operations are sound; what is
        written by hand is not always: the ``backward`` of an ``autograd.Function``, a regulariser that lost its
        graph, a square root whose gradient at zero is infinite.

    What it does: Runs one training step as it is and looks for gradients that are not finite. Then, in double
        precision, with dropout off, batch norm on its running statistics and the same random numbers each time, it
        compares the slope of the whole loss, regulariser included, along one random direction in each of up to 24
        parameters with central differences of two step sizes; where they differ, in single components. Calls of the
        user's own ``autograd.Function`` are differentiated by themselves as well, since they alone claim to know
        their derivative. All that is done at the start, a little off exact zeros (where ReLU has a kink and
        zero-initialised gates hide what is behind them), and again after eight steps of Adam at 1e-3. Last, it runs
        the step on inputs that are all zero and all one.

    Fires when: The first loss, or a gradient, is not finite (error). The ``backward`` of an own function is off by
        more than 1e-3, relative (error; Ng, course 2: 1e-7 is right, 1e-5 worth a look, 1e-3 wrong), where the
        function is neither flat nor an identity: straight-through estimators and gradient reversal are told for
        information. What is added to torch's loss functions depends on the parameters but has no gradient (warning).
        Gradients held back otherwise (``detach``, ``no_grad``), kinks, and zero or constant inputs that lead to NaN:
        information.

    Under DDP: Each rank compares on its own batch, outside the process group; what one rank finds, all say. Sharded
        strategies (FSDP, DeepSpeed): does not apply.

    Cost: About 150 forward passes of one batch in double precision; 7 s for timm's test_resnet on digits, batch 32,
        0.2 s for a small MLP, on one core. Within a budget it compares fewer parameters. For ``check``, not for each
        fit. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientCheck(budget=None)], logger=False)

    Source: Ng (2017), deeplearning.ai, course 2, week 1, "Gradient checking implementation notes"; Amidi and Amidi
        (2018), CS230 tips and tricks; Hui (2018), "How to start a deep learning project".

    Args:
        components: How many single components are looked at in a parameter that fails, or an argument of an own
            function.
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``components`` is less than 1.
    """

    name = NAME
    source = (
        'Ng (2017), deeplearning.ai, course 2, week 1, "Gradient checking implementation notes"; Amidi and Amidi '
        '(2018), CS230 tips and tricks; Hui (2018), "How to start a deep learning project"'
    )

    def __init__(
        self, components: int = 8, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn"
    ) -> None:
        super().__init__(budget, on_error)
        if components < 1:
            raise ValueError(f"Expected `components` to be at least 1, but got {components!r}.")
        self.components = components

    def measure(self, view: View, deadline: Deadline) -> GradientSeen:
        """Compare at the start and after some steps."""
        batches: list[Any] = view.batches(BATCHES)
        step = see_step(view, batches[0])
        if not step.finite:
            return GradientSeen(step)
        rounds, not_later = {}, ""
        with view.on_loan() as lent:
            with in_double(view, lent, batches[0]) as function:
                rounds["at the start"] = see_round(function, TENSORS[0], self.components, deadline)
            try:
                _train(view, lent, batches)
                with in_double(view, lent, batches[0]) as function:
                    rounds[f"after {STEPS} steps"] = see_round(function, TENSORS[1], self.components, deadline)
            except NotApplicable as reason:
                not_later = str(reason)
        return GradientSeen(step, rounds, see_constant_inputs(view, batches[0]), not_later)

    def judge(self, ranks: Sequence[GradientSeen]) -> list[Finding]:
        """Findings from the numbers of all ranks."""
        broken = next((seen.step for seen in ranks if not seen.step.finite), None)
        if broken is not None:
            return [judge_step(broken)]
        functions = [f for seen in ranks for one in seen.rounds.values() for f in one.functions]
        found = [*judge_functions(functions), *judge_added(ranks), *judge_constant(ranks)]
        explained = any(function.wrong for function in functions)
        return [*found, *judge_parameters(ranks, explained), *judge_agreement(ranks)]


def _train(view: View, lent: list[torch.Tensor], batches: list[Any]) -> None:
    optimizer = torch.optim.Adam(learned_parameters(view), lr=RATE)
    for _, _ in zip(range(STEPS), train(view, lent, batches, optimizer), strict=False):
        pass


def judge_step(step: StepSeen) -> Finding:
    """On a first step that is not finite; pure."""
    evidence: dict[str, float | str] = {"loss": step.loss, "parameters": step.count, "operation": step.operation}
    if not abs(step.loss) < float("inf"):
        message = f"The loss of the first training step is {step.loss}."
        advice = "Look for a logarithm of zero, a division by zero or inputs that are not finite."
        return Finding(NAME, Severity.ERROR, message, advice, evidence)
    by = f"; it comes from the backward of {step.operation}" if step.operation else ""
    message = (
        f"The loss of the first training step is {step.loss:.4g}, but the gradient of {step.count} "
        f"{_plural(step.count, 'parameter')} ({_names(step.names, step.count)}) is not finite{by}."
    )
    advice = (
        "Keep the argument away from where its derivative is infinite, as sqrt or norm at zero: add an epsilon inside; "
        "torch.where hides the value but not the gradient, so give it safe values before the operation."
    )
    return Finding(NAME, Severity.ERROR, message, advice, evidence)


def judge_functions(functions: Sequence[FunctionSeen]) -> Iterator[Finding]:
    """On the user's own autograd functions, each class and argument once; pure."""
    chosen = {f.function for f in functions if f.straight_through}
    for name in sorted(chosen):
        message = f"{name} gives a gradient where it is flat or an identity, as a straight-through estimator does."
        yield Finding(NAME, Severity.INFO, message)
    worst: dict[tuple[str, int], Any] = {}
    for function in functions:
        for one in function.wrong:
            key = (one.function, one.argument)
            if one.function not in chosen and (key not in worst or one.slope.error > worst[key].slope.error):
                worst[key] = one
    for (name, argument), one in worst.items():
        message = (
            f"The backward of {name} is wrong: at element {one.index} of its argument {argument} it gives "
            f"{_slopes(one.slope)}{_factor(one.slope)}."
        )
        yield Finding(NAME, Severity.ERROR, message, f"Correct the backward of {name}.", _evidence(one.slope))
    for name, refused in dict.fromkeys((f.function, f.refused) for f in functions if f.refused):
        yield Finding(NAME, Severity.INFO, f"{name} could not be differentiated by itself ({refused.rstrip('.')}).")


def judge_added(ranks: Sequence[GradientSeen]) -> Iterator[Finding]:
    """On a term of the loss without gradient; pure."""
    found = next((one.added for seen in ranks for one in seen.rounds.values() if one.added is not None), None)
    if found is not None:
        message = (
            "A term that training_step adds to its loss function depends on the parameters, with a slope of "
            f"{found.numeric:.3g} along a random direction, but gives them no gradient: it is never minimised."
        )
        advice = "Take away what cuts its graph: a detach, item, float, numpy or no_grad on the way to the sum."
        yield Finding(NAME, Severity.WARNING, message, advice, _evidence(found))


def judge_constant(ranks: Sequence[GradientSeen]) -> Iterator[Finding]:
    """On inputs that are all zero or all one; pure."""
    seen = {kind: step for rank in ranks for kind, step in rank.constant.items()}
    for kind, step in seen.items():
        what = f"the loss is {step.loss}"
        if abs(step.loss) < float("inf"):
            by = f", from the backward of {step.operation}" if step.operation else ""
            what = f"the gradient of {_names(step.names, step.count)} is not finite{by}"
        message = f"On inputs that are all {kind} {what}: one blank example is enough to end a run."
        advice = "Add an epsilon to denominators, and under square roots and logarithms."
        yield Finding(NAME, Severity.INFO, message, advice)


def judge_parameters(ranks: Sequence[GradientSeen], explained: bool) -> Iterator[Finding]:
    """On parameters whose slopes differ; pure.

    Args:
        ranks: The numbers of all ranks.
        explained: Whether an own function was found to differ.
    """
    failed = [(when, one) for seen in ranks for when, one in seen.rounds.items() if one.wrong]
    for when, one in failed[:1]:
        worst = max(one.wrong, key=lambda parameter: parameter.slope.error)
        names = _names([parameter.name for parameter in one.wrong[:NAMED]], len(one.wrong))
        cuts = ", ".join((one.cuts.hidden or one.cuts.cuts)[:NAMED])
        message = (
            f"{when[0].upper()}{when[1:]}, the gradient of {len(one.wrong)} of {one.compared} parameters ({names}) is "
            f"not the slope of the loss; worst, {_worst(worst)}"
        )
        evidence = {"wrong": len(one.wrong), **_evidence(worst.slope)}
        if explained:
            yield Finding(NAME, Severity.INFO, f"{message}: through the own function named above.", "", evidence)
        elif one.cuts.hidden and not any(parameter.flat for parameter in one.wrong):
            message += f": a value is changed in place where autograd cannot see it ({cuts})."
            advice = "Change it out of place and without .data or no_grad, so that the change is differentiated."
            yield Finding(NAME, Severity.WARNING, message, advice, evidence)
        else:
            message += f": part of it is held back or passed by hand ({cuts or 'no_grad, or a copy of a value'})."
            advice = "If this is on purpose all is well; if not, take away what cuts the graph."
            yield Finding(NAME, Severity.INFO, message, advice, evidence)


def judge_agreement(ranks: Sequence[GradientSeen]) -> Iterator[Finding]:
    """On those that agree; pure."""
    rounds = [(when, one) for seen in ranks for when, one in seen.rounds.items()]
    agree: dict[str, int] = {}
    for when, one in rounds:
        agree[when] = min(agree.get(when, one.compared), one.agree)
    if not any(agree.values()):
        if not any(one.wrong for _, one in rounds):
            message = "The slopes of the loss are too small, or have kinks, so that no gradient could be compared."
            yield Finding(NAME, Severity.INFO, message)
        return
    largest, parameters = max(one.largest for _, one in rounds), rounds[0][1].parameters
    left = f"; not after training: {ranks[0].not_later.rstrip('.')}" if ranks[0].not_later else ""
    counts = " and ".join(f"of {count} {when}" for when, count in agree.items() if count)
    message = (
        f"Gradients {counts}, of {parameters} parameters, agree with central differences to a relative error of "
        f"{largest:.1e}{left}."
    )
    kinks = max(one.kinks for _, one in rounds)
    evidence = {"agree": max(agree.values()), "parameters": parameters, "largest_error": largest, "kinks": kinks}
    yield Finding(NAME, Severity.OK, message, evidence=evidence)


def _worst(parameter: ParameterSeen) -> str:
    if parameter.components:
        index, single = max(parameter.components, key=lambda component: component[1].error)
        return f"element {index} of `{parameter.name}`: {_slopes(single)}"
    return f"`{parameter.name}` along a random direction: {_slopes(parameter.slope)}"


def _slopes(found: Slope) -> str:
    return f"{found.analytic:.4g} where central differences give {found.numeric:.4g} (relative error {found.error:.1e})"


def _factor(found: Slope) -> str:
    """In words, where the two differ by a simple factor."""
    if found.analytic == 0 or not abs(found.analytic) < float("inf"):
        return ""
    ratio = found.numeric / found.analytic
    if abs(ratio + 1) < 1e-4:
        return ": the sign is wrong"
    return f": a factor of {ratio:.4g} is missing"


def _names(names: Sequence[str], count: int) -> str:
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return ", ".join(f"`{name}`" for name in names) + more


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _evidence(found: Slope) -> dict[str, float]:
    return {"analytic": found.analytic, "numeric": found.numeric, "relative_error": found.error}

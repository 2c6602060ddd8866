"""The rule prediction-dynamics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.answers import Answers
from lightning_rules.exhibit import Exhibit, Section
from lightning_rules.figures import INK, RIGHT, WRONG, new_figure, plain
from lightning_rules.monitor import Finding, Severity
from lightning_rules.validation_watch import ValidationWatch

NAME = "prediction-dynamics"
ROWS = 64  # examples that are followed
TIMES = 256  # validations that are remembered; of more, every second, fourth, ...
FEWEST = 3  # validations, for a course to be seen


@dataclass(frozen=True)
class Course:
    """How the answers to a fixed batch went.

    Attributes:
        steps: The optimiser steps at which it was seen, ``[times]``.
        values: Probability of the right answer [times, n]; for a regression the mean absolute residual.
        right: Whether the answer was right, bool [times, n]; for a regression whether the residual is not larger than
            that of the first time.
        regression: Which of the two.
        moved: Whether the batch held other targets at times, as it does in a loader that shuffles.
    """

    steps: list[int]
    values: Tensor
    right: Tensor
    regression: bool
    moved: bool


class PredictionDynamics(ValidationWatch):
    """The answers to one fixed batch are followed through training: they settle, and do not flicker.

    Why: A loss curve shows the mean; the answers to a few examples, seen again and again, show how it comes about.
        Answers that jump to and fro late in training say that the rate is still too high; examples that are never
        right are hard, or labelled wrongly.

    What it does: At each validation of the run it hears the answers to the first validation batch (64 examples at most)
        and keeps the probability of the right answer (for a regression the residual). At the end of the fit it draws
        their course to ``<log_dir>/rules/prediction_dynamics.png`` and to the loggers that take pictures; the numbers
        stay in ``course``. A resumed run goes on where it was.

    Fires when: Never an alarm. At the end of the fit one line of information says how many examples were never right
        and how many still changed sides in the last third of the validations. With fewer than three validations there
        is no course, and nothing is said.

    Under DDP: Rank 0's first validation batch is followed.

    Cost: No forward pass but one before the first step; two small operations a validation (0.05 ms on one core),
        nothing on training batches, and half a second for the picture when the fit ends.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PredictionDynamics()], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "visualize prediction dynamics".

    Args:
        overhead: Share of the training time that all monitors may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "visualize prediction dynamics"'
    kind = "report"

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self.course: Course | None = None
        self._history: list[tuple[int, Tensor]] = []  # step; [3, n]: value, right, target
        self._every = 1
        self._validations = 0
        self._fresh: list[tuple[int, Tensor]] = []

    def begin_validation(self) -> None:
        """One more."""
        self._validations += 1

    def see(self, trainer: Any, answers: Answers, inputs: Any, batch_idx: int) -> None:
        """Keep the answers to the first batch."""
        if batch_idx == 0 and trainer.is_global_zero and (self._validations - 1) % self._every == 0:
            self._fresh.append((trainer.global_step, _seen(answers)))

    def end_validation(self) -> None:
        """What was kept waits for the next look."""

    def readings(self) -> Any:
        """Those since the last look."""
        fresh, self._fresh = self._fresh, []
        return [list(one) for one in fresh]

    def take(self, readings: Any) -> Course | None:
        """The course so far."""
        self._history += [(step, values) for step, values in readings]
        if len(self._history) > TIMES:
            self._history, self._every = self._history[::2], 2 * self._every
        regression = self._watch is not None and self._watch.kind in ("mean", "median")
        self.course = course_of(self._history, regression)
        return self.course

    def judge(self, ranks: Sequence[Course | None]) -> Iterable[Finding]:
        """One line of information."""
        return judge_course(ranks[0])

    def exhibits(self) -> list[Exhibit]:
        """The figure, when it has been drawn."""
        caption = (
            "Each row is an example, each column a validation: answers that jitter late mean a rate that is too high."
        )
        return self.picture(Section.PREDICTIONS, "The same examples through training", caption)

    def draw(self) -> Any:
        """The course of each example."""
        course = self.course
        return None if course is None or course.moved or len(course.steps) < FEWEST else draw_course(course)

    def state_dict(self) -> dict[str, Any]:
        """Findings, cadence, and the answers so far."""
        history = {"steps": [step for step, _ in self._history], "seen": [values for _, values in self._history]}
        return {**super().state_dict(), "history": history, "every": self._every, "validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        history = state_dict["history"]
        self._history = list(zip(history["steps"], history["seen"], strict=True))
        self._every, self._validations = state_dict["every"], state_dict["validations"]


def _seen(answers: Answers) -> Tensor:
    """Of the first examples: the probability of the right answer (or the residual), whether it is right, the target."""
    outputs, targets, known = answers.outputs[:ROWS], answers.targets[:ROWS], answers.known[:ROWS]
    answers = Answers(answers.kind, outputs, targets)
    if answers.regression:
        residual = (outputs - targets).abs().mean(1)
        return torch.stack([residual, torch.ones_like(residual), targets.sum(1)])
    if answers.kind == "softmax":
        value, shown = answers.probabilities.gather(1, targets.clamp(min=0)[:, None])[:, 0], targets.float()
    else:
        sure = answers.probabilities
        value, shown = torch.where(targets > 0.5, sure, 1 - sure).mean(1), targets.sum(1)
    return torch.stack([torch.where(known, value, torch.nan), answers.correct.float(), shown])


def course_of(history: Sequence[tuple[int, Tensor]], regression: bool) -> Course | None:
    """Put together what was seen of the batch at each time.

    Args:
        history: Steps, each with [3, n]: value, right or not, target.
        regression: Whether values are residuals.
    """
    if not history:
        return None
    first = history[0][1]
    alike = [seen for _, seen in history if seen.shape == first.shape and torch.equal(seen[2], first[2])]
    if len(alike) < len(history):
        return Course([step for step, _ in history], torch.zeros(0), torch.zeros(0), regression, moved=True)
    stacked = torch.stack(alike)[:, :, first[0].isfinite()]
    values = stacked[:, 0]
    right = values <= values[0] if regression else stacked[:, 1] > 0.5
    return Course([step for step, _ in history], values, right, regression, moved=False)


def judge_course(course: Course | None) -> list[Finding]:
    """What the course of the answers says, in one sentence."""
    if course is None or len(course.steps) < FEWEST:
        return []
    if course.moved:
        message = "Does not apply: the first validation batch holds other examples each time, so none can be followed."
        return [Finding(NAME, Severity.INFO, message)]
    times, examples = course.values.shape
    if not examples:
        return []
    if course.regression:
        first, last = float(course.values[0].mean()), float(course.values[-1].mean())
        worse = int((~course.right[-1]).sum())
        message = (
            f"Over {times} validations the mean absolute residual of {examples} fixed examples went from {first:.3g} "
            f"to {last:.3g}; {worse} of them are further off than at first."
        )
        evidence: dict[str, Any] = {"times": times, "examples": examples, "first": first, "last": last, "worse": worse}
        return [Finding(NAME, Severity.INFO, message, evidence=evidence)]
    never = int((~course.right.any(0)).sum())
    late = course.right[-max(2, -(-times // 3)) :]
    flipped = int((late[1:] != late[:-1]).any(0).sum())
    forgotten = int((course.right[:-1].any(0) & ~course.right[-1]).sum())
    message = (
        f"Examples followed over {times} validations: {examples}; never answered rightly: {never}; still changing "
        f"between right and wrong in the last {len(late)}: {flipped}; right once and wrong at the end: {forgotten}."
    )
    evidence = {"times": times, "examples": examples, "never_right": never, "late_flips": flipped}
    evidence["forgotten"] = forgotten
    return [Finding(NAME, Severity.INFO, message, evidence=evidence)]


def draw_course(course: Course) -> Any:
    """Draw the course of each example as a row of a heat map, the hardest at the top, with the mean below.

    Returns:
        The figure.
    """
    times, examples = course.values.shape
    order = course.values.mean(0).argsort(descending=course.regression)
    what = "residual" if course.regression else "probability of the right answer"
    figure = new_figure(7, 5, f"{what} of {examples} fixed validation examples".capitalize())
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    most = float(course.values.max()) if course.regression else 1.0
    cmap = "magma_r" if course.regression else "RdYlBu"
    image = above.imshow(
        course.values.T[order].numpy(), aspect="auto", cmap=cmap, vmin=0, vmax=most or 1.0, interpolation="nearest"
    )
    figure.colorbar(image, ax=above, pad=0.01).ax.tick_params(labelsize=6, colors=INK)
    above.set_ylabel("examples, hardest first", fontsize=8, color=INK)
    above.set_yticks([])
    places = list(range(times))
    below.plot(places, course.values.mean(1).tolist(), color=RIGHT, linewidth=1.5, label=plain(f"mean {what}"))
    if not course.regression:
        below.plot(places, course.right.float().mean(1).tolist(), color=WRONG, linewidth=1, label="share right")
        below.set_ylim(0, 1.02)
    below.legend(fontsize=6, frameon=False, loc="best")
    ticks = sorted({round(place * (times - 1) / 7) for place in range(8)})
    below.set_xticks(ticks, [f"{course.steps[tick]:,}" for tick in ticks])
    below.set_xlabel("optimiser step of the validation", fontsize=8, color=INK)
    for axes in (above, below):
        axes.tick_params(labelsize=7, colors=INK)
    below.spines[["top", "right"]].set_visible(False)
    return figure

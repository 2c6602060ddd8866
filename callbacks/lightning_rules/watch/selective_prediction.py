"""The rule selective-prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.answers import Answers
from lightning_rules.exhibit import Exhibit
from lightning_rules.figures import INK, RIGHT, WRONG, new_figure
from lightning_rules.monitor import Finding, NotApplicable, Severity, View
from lightning_rules.selective import SURE, RiskCoverage, risk_coverage, threshold_for_risk
from lightning_rules.validation_watch import ValidationWatch
from lightning_rules.watch.confidence_figures import (
    calibration_of,
    exhibit_of_calibration,
    exhibit_of_risk,
)

NAME = "selective-prediction"
KEPT = 262_144  # answers of a validation; of more, every second, fourth, ...
HANDED_OVER = 4096  # answers of a rank, evenly spread over its confidences
FEWEST = 20  # answers, for their accuracy to say something


class SelectivePrediction(ValidationWatch):
    """A network that may refuse is right more often: risk against coverage, and the threshold for a wanted accuracy.

    Why: Where a wrong answer costs more than none, a network that hands its least sure answers to a person is worth
        more than its accuracy says. Which threshold to set follows from its own confidences on the validation set; a
        curve that does not fall says that the confidences are worth nothing.

    What it does: Hears the answers of the run's own validation steps, keeps for each the probability of the answer and
        whether it is right, and draws, for the last validation of the fit, the share of wrong answers against the
        share of examples answered to ``<log_dir>/rules/selective_prediction.png`` and to the loggers that take
        pictures. The curve stays in ``curve``.

    Fires when: Never an alarm. At the end of the fit one line of information names the threshold with the most coverage
        at which the answers given were right as often as wanted, and the one that promises it for new examples.
        A regression has no confidences: does not apply.

    Under DDP: The answers of all ranks are put together, at most 4,096 of each, evenly spread over its confidences.
        Examples that a sampler repeats to fill the last batch count twice.

    Cost: No forward pass but one before the first step; four small operations on each validation batch (0.05 ms on one
        core), nothing on training batches, and half a second for the picture when the fit ends. Five bytes an
        example are held during a validation, for at most 262,144 of them.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SelectivePrediction(accuracy=0.99)], logger=False)

    Source: Geifman & El-Yaniv (2017), "Selective Classification for Deep Neural Networks", sections 2-3.

    Args:
        accuracy: How often the answers given are to be right, above 0 and below 1; None halves the share of wrong
            answers.
        overhead: Share of the training time that all monitors may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``accuracy`` is not between 0 and 1.
    """

    name = NAME
    source = 'Geifman & El-Yaniv (2017), "Selective Classification for Deep Neural Networks", sections 2-3'
    kind = "report"

    def __init__(
        self, accuracy: float | None = None, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn"
    ) -> None:
        super().__init__(overhead, on_error)
        if accuracy is not None and not 0 < accuracy < 1:
            raise ValueError(f"Expected `accuracy` to be above 0 and below 1, but got {accuracy!r}.")
        self.accuracy = accuracy

    def _forget(self) -> None:
        super()._forget()
        self.curve: RiskCoverage | None = None
        self._judged: tuple[Tensor, Tensor] | None = None  # confidences of all ranks, and whether they are right
        self._own: tuple[Tensor, Tensor, int] | None = None
        self._kept: list[Tensor] = []
        self._ended: list[Tensor] = []
        self._every = 1
        self._point: tuple[float, float] | None = None

    def start(self, view: View) -> None:
        """Find the last layer of a classifier."""
        super().start(view)
        if self._watch is not None and self._watch.kind in ("mean", "median"):
            raise NotApplicable("a regression has no confidence in its answers.")

    def begin_validation(self) -> None:
        """Keep anew."""
        self._kept, self._every = [], 1

    def see(self, trainer: Any, answers: Answers, inputs: Any, batch_idx: int) -> None:
        """Keep confidences, and whether the answers are right: -1 where nobody knows."""
        confidence = torch.where(answers.known, answers.confidence, -1)
        self._kept.append(torch.stack([confidence, answers.correct.float()])[:, :: self._every])
        while sum(part.shape[1] for part in self._kept) > KEPT:
            self._kept = [torch.cat(self._kept, 1)[:, ::2]]
            self._every *= 2

    def end_validation(self) -> None:
        """What was kept waits for the next look."""
        self._ended, self._kept = self._kept or self._ended, []

    def readings(self) -> Any:
        """Those of the last whole validation."""
        ended, self._ended = self._ended, []
        return torch.cat(ended, 1) if ended else None

    def take(self, readings: Any) -> Any:
        """This rank's confidences, sorted, whether each answer is right, and how many answers these stand for."""
        if readings is not None:
            self._own = thinned(readings[0], readings[1] > 0.5)
        return self._own

    def judge(self, ranks: Sequence[Any]) -> Iterable[Finding]:
        """One line of information."""
        seen = [rank for rank in ranks if rank is not None]
        if not seen:
            return []
        confidence, right = torch.cat([one[0] for one in seen]), torch.cat([one[1] for one in seen])
        found = judge_answers(confidence, right, sum(one[2] for one in seen), self.accuracy)
        if len(right):
            self.curve = risk_coverage(confidence, right)
            self._judged = confidence, right
        evidence = found[0].evidence if found else {}
        point = evidence.get("coverage"), evidence.get("risk")
        self._point = (float(point[0]), float(point[1])) if None not in point else None  # type: ignore[arg-type]
        return found

    def exhibits(self) -> list[Exhibit]:
        """Risk against coverage, and how far confidences can be believed, once a validation has been seen."""
        if self.curve is None or self._judged is None:
            return []
        return [exhibit_of_risk(self.curve, self._point), exhibit_of_calibration(calibration_of(*self._judged))]

    def draw(self) -> Any:
        """Risk against coverage."""
        return None if self.curve is None else draw_curve(self.curve, self._point)


def thinned(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor, int]:
    """Answers in falling order of confidence, at most 4,096, evenly spread; and how many there were.

    Args:
        confidence: Of each answer [N]; negative where there was nothing to answer.
        right: Whether it is right, bool [N].
    """
    known = confidence >= 0
    confidence, order = confidence[known].sort(descending=True)
    right = right[known][order]
    count = len(right)
    if count > HANDED_OVER:
        places = ((torch.arange(HANDED_OVER) + 0.5) * count / HANDED_OVER).long()
        confidence, right = confidence[places], right[places]
    return confidence, right, count


def judge_answers(confidence: Tensor, right: Tensor, examples: int, accuracy: float | None) -> list[Finding]:
    """The threshold with the most coverage at which the answers given are right as often as wanted.

    Args:
        confidence: Of each answer [N].
        right: Whether it is right, bool [N].
        examples: How many answers these stand for.
        accuracy: What is wanted; None halves the share of wrong answers.
    """
    if len(right) < FEWEST:
        return []
    curve, overall = risk_coverage(confidence, right), 1 - float(right.double().mean())
    evidence: dict[str, Any] = {"examples": examples, "accuracy": 1 - overall, "area": curve.area}
    wanted = overall / 2 if accuracy is None else 1 - accuracy
    if overall <= wanted:
        message = f"All {examples:,} validation examples can be answered: {1 - overall:.1%} of the answers are right"
        more = "." if accuracy is None else f", and {accuracy:.1%} are wanted."
        return [Finding(NAME, Severity.INFO, message + more, evidence=evidence)]
    fits = ((curve.risk <= wanted) & (curve.coverage * len(right) >= FEWEST)).nonzero()
    if not len(fits):
        message = (
            f"No threshold that leaves {FEWEST} answers or more makes them right in {1 - wanted:.1%}: of {examples:,} "
            f"validation examples {1 - overall:.1%} are answered rightly, and the surest answers are wrong too often."
        )
        return [Finding(NAME, Severity.INFO, message, evidence=evidence)]
    place = int(fits[-1])
    threshold, coverage, risk = (float(part[place]) for part in (curve.thresholds, curve.coverage, curve.risk))
    sure = threshold_for_risk(confidence, right, wanted)
    evidence |= {
        "threshold": threshold,
        "coverage": coverage,
        "risk": risk,
        "guaranteed_threshold": None if sure is None else sure.threshold,
        "guaranteed_coverage": None if sure is None else sure.coverage,
    }
    message = (
        f"At a threshold of {_shown(threshold)} the model answers {coverage:.0%} of {examples:,} validation examples "
        f"and is right in {1 - risk:.1%} of them, against {1 - overall:.1%} of all; "
    )
    if sure is None:
        message += "the examples are too few to promise that of new ones."
    else:
        message += (
            f"to be {SURE:.0%} sure of {1 - wanted:.1%} on new ones like these it takes a threshold of "
            f"{_shown(sure.threshold)}, with {sure.coverage:.0%} answered."
        )
    return [Finding(NAME, Severity.INFO, message, evidence=evidence)]


def _shown(threshold: float) -> str:
    """Probabilities near 1 with as many digits as tell them from 1."""
    return f"{threshold:.2f}" if threshold < 0.995 else f"1 - {1 - threshold:.1g}"


def draw_curve(curve: RiskCoverage, point: tuple[float, float] | None) -> Any:
    """Draw risk against coverage.

    Args:
        curve: The curve.
        point: Coverage and risk of the threshold that was chosen; None where there is none.

    Returns:
        The figure.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(6, 3.8, "Wrong answers among those given, last validation")
    axes = figure.add_subplot()
    risk = float(curve.risk[-1])
    axes.plot(
        curve.coverage.tolist(), curve.risk.tolist(), color=RIGHT, linewidth=1.5, label="the surest answers first"
    )
    axes.axhline(risk, color=INK, linewidth=0.7, linestyle=":", label=f"in any order: {risk:.1%}")
    if point is not None:
        chosen = f"answers {point[0]:.0%}, {point[1]:.1%} of them wrong"
        axes.plot(*point, "o", color=WRONG, markersize=6, label=chosen)
    axes.set(xlim=(0, 1.01), ylim=(0, max(1.45 * float(curve.risk.max()), 1e-3)))
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:.0%}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))  # as many digits as tell the ticks apart
    axes.set_xlabel("coverage: examples that are answered", fontsize=8, color=INK)
    axes.set_ylabel("risk: wrong among them", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    return figure

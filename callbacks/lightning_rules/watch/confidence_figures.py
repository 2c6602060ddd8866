"""What confidences are worth, as exhibits: risk against coverage, and a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from lightning_rules.exhibit import Curve, Curves, Exhibit, Section
from lightning_rules.selective import RiskCoverage

POINTS = 200  # of a curve
GROUPS = 10  # of a reliability diagram, of equally many answers
FEWEST = 10  # answers of a group
BINS = 15  # of the calibration error, as everywhere in this package


@dataclass(frozen=True)
class Calibration:
    """How often answers of some confidence are right.

    Attributes:
        confidence: The mean of each group of answers, ascending.
        right: The share of right answers of each.
        error: The expected calibration error, in 15 bins of equal width (Guo et al., 2017).
        examples: Answers in all.
    """

    confidence: list[float]
    right: list[float]
    error: float
    examples: int


def calibration_of(confidence: Tensor, right: Tensor) -> Calibration:
    """Groups of equally many answers, so that each share is as sure as the others.

    Args:
        confidence: The probability that the network gives its answer, of each example [N], 0 to 1.
        right: Whether it is right, bool [N].
    """
    order = confidence.argsort()
    count = max(1, min(GROUPS, len(order) // FEWEST))
    groups = order.tensor_split(count)
    error = binary_calibration_error(confidence.float(), right.int(), n_bins=BINS, norm="l1", validate_args=False)
    return Calibration(
        [float(confidence[group].double().mean()) for group in groups],
        [float(right[group].double().mean()) for group in groups],
        float(error),
        len(order),
    )


def exhibit_of_calibration(seen: Calibration) -> Exhibit:
    """A reliability diagram."""
    curves = [
        Curve("as often right as sure", [0.0, 1.0], [0.0, 1.0], faint=True),
        Curve("answers", seen.confidence, seen.right, "validation"),
    ]
    caption = (
        f"Points below the diagonal are surer than they are right, points above less sure; expected calibration error "
        f"{seen.error:.3f} over {seen.examples:,} validation answers."
    )
    content = Curves(curves, "mean confidence of a group of answers", "share of right answers")
    return Exhibit("reliability", Section.CALIBRATION, "Confidence against accuracy", caption, content)


def exhibit_of_risk(curve: RiskCoverage, point: tuple[float, float] | None) -> Exhibit:
    """Risk against coverage.

    Args:
        curve: The curve.
        point: Coverage and risk of the threshold that was chosen; None where there is none.
    """
    coverage, risk = curve.coverage.tolist(), curve.risk.tolist()
    places = sorted({round(place * (len(risk) - 1) / POINTS) for place in range(POINTS + 1)})
    surest = Curve("surest first", [coverage[place] for place in places], [risk[place] for place in places],
                   "validation")  # fmt: skip
    marks = [] if point is None else [(point[0], f"answers {point[0]:.0%}, {point[1]:.1%} of them wrong")]
    content = Curves([surest], "coverage: share of examples that are answered", "risk: share of wrong answers",
                     marks=marks)  # fmt: skip
    caption = "How often it is wrong in what it answers, if it leaves the answers that it is least sure of to others."
    return Exhibit("risk_coverage", Section.CALIBRATION, "Risk against coverage", caption, content,
                   ["selective-prediction"])  # fmt: skip

"""Judgement on reported metrics against the same reckoned from the answers themselves; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.metric_numbers import Validation, forms, pooled

LAST_BATCH = "metric-of-the-last-batch"
OF_BATCHES = "metric-of-batches"
WRONG = "wrong-metric"
UNSYNCHRONISED = "unsynchronised-metric"
PADDED = "padded-metric"
SAME = 2e-5  # relative; single precision summed in another order
APART = 50 * SAME  # what differs by more is another number
TWICE = 2  # validations that have to say the same
FAR = 5.0  # standard errors
GROSS = 0.05  # of accuracy
Evidence = dict[str, float | int | str | bool | None]
Form = Callable[[float], float]
ACCURACY = re.compile(r"((val|valid|validation|eval|dev)[_/.-]?)?(acc|accuracy)([_/.-]epoch)?", re.IGNORECASE)


@dataclass(frozen=True)
class MetricsSeen:
    """What a rank has seen until now.

    Attributes:
        validations: Those that were audited, oldest first.
        monitored: Names of metrics that a callback or scheduler waits for.
        values: The monitored metrics after the last validation, by name.
        padding: How many examples a validation counts twice, so that all ranks have equally many; of how many.
    """

    validations: tuple[Validation, ...] = ()
    monitored: tuple[str, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    padding: tuple[int, int] | None = None


def judge(ranks: Sequence[MetricsSeen]) -> list[Finding]:
    """Findings on the metrics of all ranks."""
    found = [finding for name in _names(ranks) for finding in _judge_metric(name, ranks)]
    return [*found, *_judge_ranks(ranks), *_judge_padding(ranks[0])]


def _names(ranks: Sequence[MetricsSeen]) -> list[str]:
    """Reported in each audited validation of rank 0."""
    runs = ranks[0].validations
    return [name for name in (runs[-1].reported if runs else ()) if all(name in run.reported for run in runs)]


def same(one: float, other: float, tolerance: float = SAME) -> bool:
    """Whether two numbers are one, but for rounding."""
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-6)


def _judge_metric(name: str, ranks: Sequence[MetricsSeen]) -> Iterable[Finding]:
    """One metric: what it is found to be, at most one finding."""
    runs = list(zip(*(rank.validations for rank in ranks), strict=False))  # by validation, then by rank
    runs = [run for run in runs if run[0].batches > 1 and math.isfinite(run[0].reported[name])]
    if not runs or len({run[0].kind for run in runs}) > 1:
        return
    for statistic in runs[0][0].sums:
        for form, function in forms(statistic).items():
            matches = [_Match.of(run, name, statistic, function) for run in runs]
            finding = (
                _of_whole(name, form, matches) or _of_last(name, form, matches) or _of_batches(name, form, matches)
            )
            if finding is not None:
                yield finding
                return
    yield from _wrong(name, runs)


@dataclass(frozen=True)
class _Match:
    """One validation's reported number beside the same reckoned in other ways."""

    reported: float
    whole: float
    is_whole: bool
    is_last: bool
    is_mean: bool
    telling: bool  # the whole and the last batch differ, and the last batch is not all right or all wrong
    batches: int
    last_rows: float
    rows: float

    @classmethod
    def of(cls, run: Sequence[Validation], name: str, statistic: str, form: Form) -> _Match:
        """One validation as all ranks saw it; a metric may be a rank's own, pooled, or averaged over ranks."""
        own = run[0]
        reported, sums = own.reported[name], own.sums[statistic]
        wholes = _over_ranks(run, statistic, last=False)
        lasts = _over_ranks(run, statistic, last=True)
        means = [sums.mean_of_batches, fmean(one.sums[statistic].mean_of_batches for one in run)]
        last = next((one for one in lasts if same(_formed(form, one), reported)), lasts[0])
        return cls(
            reported=reported,
            whole=_formed(form, wholes[0]),
            is_whole=any(same(_formed(form, one), reported) for one in wholes),
            is_last=same(_formed(form, last), reported),
            is_mean=any(same(_formed(form, one), reported) for one in means),
            telling=not same(last, wholes[0], APART) and not ("accuracy" in statistic and last in (0.0, 1.0)),
            batches=own.batches,
            last_rows=own.last_rows,
            rows=own.rows,
        )


def _over_ranks(run: Sequence[Validation], statistic: str, last: bool) -> list[float]:
    """The mean over all ranks' rows, rank 0's own, and the mean of the ranks' means."""
    each = [pooled([one], statistic, last) for one in run]
    return [pooled(run, statistic, last), each[0], fmean(each)]


def _formed(form: Form, value: float) -> float:
    return form(value) if math.isfinite(value) and value >= 0 else math.nan


def _of_whole(name: str, form: str, matches: Sequence[_Match]) -> Finding | None:
    """It is what it should be, in each validation."""
    if not all(one.is_whole for one in matches) or not any(one.telling for one in matches):
        return None
    last = matches[-1]
    message = f"`{name}` is the {form} of the whole validation set: {last.reported:.4g} of {last.rows:.0f} rows."
    return Finding(LAST_BATCH, Severity.OK, message, evidence={"metric": name, "reported": last.reported})


def _of_last(name: str, form: str, matches: Sequence[_Match]) -> Finding | None:
    telling = [one for one in matches if one.telling and not one.is_whole]
    named = ("accuracy" not in form and "error rate" not in form) or bool(ACCURACY.fullmatch(name))
    enough = len(matches) >= TWICE and len(telling) >= (1 if named else TWICE)
    if not enough or not all(one.is_last for one in matches):
        return None
    one = telling[-1]
    message = (
        f"`{name}` is the {form} of the last batch of a validation only: {one.reported:.4g} of {one.last_rows:.0f} "
        f"rows, where all {one.batches} batches ({one.rows:.0f} rows) give {one.whole:.4g}."
    )
    advice = (
        "Log it in validation_step with self.log(..., on_step=False, on_epoch=True), or collect all batches (a "
        "torchmetrics object does) before it is logged at the end of the epoch."
    )
    evidence: Evidence = {"metric": name, "reported": one.reported, "whole": one.whole, "last_rows": one.last_rows}
    return Finding(LAST_BATCH, Severity.ERROR, message, advice, evidence)


def _of_batches(name: str, form: str, matches: Sequence[_Match]) -> Finding | None:
    apart = [one for one in matches if one.is_mean and not one.is_whole]
    if len(matches) < TWICE or not apart or not all(one.is_mean for one in matches):
        return None
    one = apart[-1]
    message = (
        f"`{name}` is the mean of {one.batches} batches' {form}, each counted alike: {one.reported:.4g}, where all "
        f"{one.rows:.0f} rows together give {one.whole:.4g}, since the last batch is smaller."
    )
    advice = "Weight each batch by its size: self.log does so by itself, or with batch_size=."
    return Finding(OF_BATCHES, Severity.INFO, message, advice, {"metric": name, "whole": one.whole})


def _wrong(name: str, runs: Sequence[Sequence[Validation]]) -> Iterable[Finding]:
    """A metric that calls itself accuracy, of single labels from a plain last layer, and is none that is known."""
    if not ACCURACY.fullmatch(name) or len(runs) < TWICE or not all(run[0].kind == "softmax" for run in runs):
        return
    if not all(one.plain and one.macro is not None for run in runs for one in run) or not all(
        _far(run, name) for run in runs
    ):
        return
    run = runs[-1]
    accuracy, reported = pooled(run, "accuracy", False), run[0].reported[name]
    message = (
        f"`{name}` is reported as {reported:.4g}, but the most probable class is the right one in {accuracy:.4g} of "
        f"the {sum(one.rows for one in run):.0f} validation rows."
    )
    advice = (
        "Reckon it again by hand for a batch: look at the dimension of argmax, at what is divided by, and at what is "
        "compared; if it means something else than accuracy, give it another name."
    )
    yield Finding(WRONG, Severity.WARNING, message, advice, {"metric": name, "accuracy": accuracy})


def _far(run: Sequence[Validation], name: str) -> bool:
    """Whether the reported number is far from everything that an accuracy may be."""
    own = run[0]
    rows = max(1.0, min(one.rows for one in run))
    known = [
        *(pooled(ones, "accuracy", last) for ones in (run, [own]) for last in (False, True)),
        own.sums["accuracy"].mean_of_batches,
        own.macro or 0.0,
    ]
    reported = own.reported[name]
    if reported > 1.0:
        reported /= 100
    errors = [abs(reported - one) / max(GROSS, FAR * math.sqrt(one * (1 - one) / rows) + 1 / rows) for one in known]
    return min(errors) > 1


def _judge_ranks(ranks: Sequence[MetricsSeen]) -> Iterable[Finding]:
    """Under DDP: what a callback waits for is the same on all ranks."""
    apart = [
        (name, [rank.values.get(name, math.nan) for rank in ranks])
        for name in ranks[0].monitored
        if len(ranks) > 1 and name in ranks[0].values
    ]
    for name, values in apart:
        if all(math.isfinite(value) for value in values) and not all(same(values[0], one, APART) for one in values):
            message = (
                f"`{name}` is monitored, and differs between the ranks: {min(values):.4g} to {max(values):.4g}, since "
                "each of them knows its own share of the validation set only."
            )
            advice = f"Log `{name}` with sync_dist=True, or log a torchmetrics object, which sums over the ranks."
            evidence: Evidence = {"metric": name, "lowest": min(values), "highest": max(values)}
            yield Finding(UNSYNCHRONISED, Severity.WARNING, message, advice, evidence)


def _judge_padding(seen: MetricsSeen) -> Iterable[Finding]:
    if seen.padding is None or not seen.padding[0]:
        return
    extra, size = seen.padding
    message = (
        f"{extra} of {size} validation examples count twice, so that all ranks have equally many: a metric may be off "
        f"by up to {extra / (size + extra):.2g} of its range."
    )
    advice = "For numbers that are published, validate on one device, or drop the repeated examples."
    yield Finding(PADDED, Severity.INFO, message, advice, {"repeated": extra, "examples": size})

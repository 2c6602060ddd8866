"""The rule bias-variance."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any, Literal

from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.exhibit import Bars, Exhibit, Role, Section
from lightning_rules.loaders import peek
from lightning_rules.monitor import Finding, Monitor, NotApplicable, Severity, View
from lightning_rules.rule import Rule, attempt
from lightning_rules.watch.bias_judgements import Errors, Measured, Validations, judge_errors, judge_overfitting
from lightning_rules.watch.error_of_split import SplitError, error_on
from lightning_rules.watch.metric_names import is_validation, lower_is_better, pairs

EXAMPLES = 512  # of each part of the data that are measured at the end
LEAST_SECONDS = 1.0  # that measuring a part may take,
SHARE = 0.01  # or this share of the fit
SERIES = 256  # validations kept of a metric; then every second one is dropped
METRICS = 32
WORSE = 1.2  # times the training error, before a rise of the validation loss is called overfitting


@dataclass(frozen=True)
class RankSeen:
    """What one rank brings to the judgement.

    Attributes:
        unit: Of the errors measured; empty where none was.
        parts: Sums of errors by part: ``"train"``, ``"validation"``, ``"train-dev"``.
        why_not: Why no error could be measured.
        logged: The last training and validation value of a pair of metrics, by the validation metric's name.
        validations: What validation reported.
        ended: Whether this is the end of the fit.
    """

    unit: str = ""
    parts: Mapping[str, SplitError] = field(default_factory=dict)
    why_not: str = ""
    logged: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    validations: Validations = field(default_factory=lambda: Validations({}))
    ended: bool = False


class BiasVariance(Monitor):
    """Whether to fit better or to generalise better is decided by the errors on training and validation data.

    Why: The next step is another one for bias (the training error is too high: a larger network, longer training), for
        variance (validation is worse than training: more data, regularisation) and for mismatch (validation data are
        of another kind). A team that picks the wrong one wastes months; the loss curves alone do not tell, since the
        training loss is taken with dropout and augmentation, over weights that changed all epoch.

    What it does: At the end of the fit it runs `training_step` in evaluation mode on up to 512 training and 512
        validation examples each, by the same code, and reads from the loss function what was answered: the error rate
        for classes, the squared or absolute error for values. Where that cannot be had it takes the last values of a
        pair of logged metrics whose names differ only by `train` and `val`, and says that they are not alike. The
        largest of the gaps that stand out of their noise (two standard errors, and one point or 3% of a guess's
        error) is named, with the next steps in order. It also follows what validation logs.

    Fires when: Never an alarm for `high-bias`, `high-variance`, `data-mismatch` or `bias-variance` (neither stands
        out): information at the end of the fit. `overfitting` (warning): the validation loss was best in the first
        half of the run and ends 1.3 times higher, beyond five usual differences of eight validations or more, and the
        logged score has fallen as well (or the loss is the error, as in regression), while neither EarlyStopping nor a
        checkpoint with a `monitor` keeps the best weights; information where the score holds or the best is kept.

    Under DDP: Each rank measures examples of its own, and errors are added up over ranks. Sharded strategies (FSDP,
        DeepSpeed): logged metrics only.

    Cost: Nothing on the hot path; at the end of the fit forward passes of `training_step` on at most 512 examples of
        each part, and no longer than a second or 1% of the fit for each (0.1 s on digits); no trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[BiasVariance(human_error=0.01)], logger=False)

    Source: Ng (2018), "Machine Learning Yearning", chapters 20 to 27 and 40 to 43; Goodfellow et al. (2016), "Deep
        Learning", section 11.3.

    Args:
        human_error: The best error known, of people or of another model: a share of wrong answers between 0 and 1 for
            classes, else a mean squared or absolute error in the units of the targets as training sees them; None
            compares with 0.
        monitor: Name of the logged validation metric to follow and to fall back on; None finds one.
        train_dev: Place of the validation loader that holds held-out data of the training distribution; None where
            there is none.
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``human_error`` or ``train_dev`` is negative.
    """

    name = "bias-variance"
    source = (
        'Ng (2018), "Machine Learning Yearning", chapters 20 to 27 and 40 to 43; Goodfellow et al. (2016), "Deep '
        'Learning", section 11.3'
    )
    kind = "report"
    aspects = ("high-bias", "high-variance", "data-mismatch", "overfitting", "bias-variance")

    def __init__(
        self,
        human_error: float | None = None,
        monitor: str | None = None,
        train_dev: int | None = None,
        overhead: float = 0.03,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        for option, value in (("human_error", human_error), ("train_dev", train_dev)):
            if value is not None and value < 0:
                raise ValueError(f"Expected `{option}` to be at least 0 or None, but got {value!r}.")
        super().__init__(overhead, on_error)
        self.human_error = human_error
        self.monitor = monitor
        self.train_dev = train_dev

    def _forget(self) -> None:
        super()._forget()
        self._series: dict[str, list[float]] = {}
        self._fresh: list[dict[str, Tensor]] = []
        self._trainer: Any = None
        self._began = time.perf_counter()
        self._end: RankSeen | None = None

    def start(self, view: View) -> None:
        """Refuse a run without validation."""
        if not view.validation_loaders:
            raise NotApplicable("the run has no validation loader.")
        self._trainer = view.trainer

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what validation has logged."""
        if self._active and not trainer.sanity_checking:
            self._guarded(self._keep, trainer)

    def _keep(self, trainer: Any) -> None:
        named = [
            (name, value)
            for name, value in trainer.callback_metrics.items()
            if isinstance(value, Tensor) and value.numel() == 1 and (is_validation(name) or name == self.monitor)
        ]
        self._fresh.append({name: value.detach().float().reshape(()).clone() for name, value in named[:METRICS]})

    def readings(self) -> list[dict[str, Tensor]]:
        """What validation has logged since the last look; at the end of the fit, measure the errors."""
        if self._last_look:
            self._end = self._measure()
        fresh, self._fresh = self._fresh, []
        return fresh

    def take(self, readings: list[dict[str, Tensor]]) -> RankSeen:
        """Add to the series; what was measured goes along at the end."""
        for values in readings:
            for name, value in values.items():
                series = self._series.setdefault(name, [])
                series.append(float(value))
                if len(series) > SERIES:
                    del series[1::2]
        return RankSeen() if self._end is None else replace(self._end, validations=self._validations(self._end))

    def judge(self, ranks: Sequence[RankSeen]) -> Iterable[Finding]:
        """Nothing before the end of the fit; then the verdict."""
        return judge_ranks(ranks, self.human_error, self.monitor)

    def _measure(self) -> RankSeen:
        """The errors on each part, or why there are none, and the pairs that were logged."""
        trainer = self._trainer
        measured, why_not = attempt(self._measure_parts)
        unit, parts = measured or ("", {})
        values = trainer.callback_metrics
        logged = {
            validation: (float(values[training]), float(values[validation]))
            for validation, training in pairs(values).items()
            if values[training].numel() == values[validation].numel() == 1
        }
        keeper = next((type(one).__name__ for one in trainer.callbacks if _keeps_best(one)), "")
        return RankSeen(unit, parts, why_not, logged, Validations({}, keeper), ended=True)

    def _measure_parts(self) -> tuple[str, dict[str, SplitError]]:
        view = View(self._trainer, self._trainer.lightning_module)
        loaders = view.validation_loaders
        first = next((place for place in range(len(loaders)) if place != self.train_dev), None)
        if first is None:
            raise NotApplicable("the only validation loader is named as train-dev.")
        places = {"validation": first} | ({} if self.train_dev is None else {"train-dev": self.train_dev})
        seconds = max(LEAST_SECONDS, SHARE * (time.perf_counter() - self._began))
        error, unit = error_on(view, view.batches(_batches_for(view.batches(1)[0])), time.perf_counter() + seconds)
        parts = {"train": error}
        for name, place in places.items():
            if place >= len(loaders):
                raise NotApplicable(f"there is no validation loader {place}; the run has {len(loaders)}.")
            batches: list[Any] = peek(loaders[place], _batches_for(peek(loaders[place], 1)[0]))
            parts[name], _ = error_on(view, batches, time.perf_counter() + seconds)
        return unit, parts

    def _validations(self, end: RankSeen) -> Validations:
        error = end.parts.get("validation")
        is_error = end.unit in ("squared error", "absolute error")
        answers = int(error.answers) if error else 0
        return replace(end.validations, series=dict(self._series), answers=answers, is_error=is_error)

    def exhibits(self) -> list[Exhibit]:
        """The errors beside each other, when they are known."""
        known = next((one.evidence for one in self.findings if "train_error" in one.evidence), None)
        return [] if known is None else [errors_beside(known)]

    def _release(self) -> None:
        super()._release()
        self._fresh, self._trainer = [], None

    def state_dict(self) -> dict[str, Any]:
        """What validation has logged."""
        return {**super().state_dict(), "series": {name: list(values) for name, values in self._series.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._series = {name: list(values) for name, values in state_dict["series"].items()}


def errors_beside(evidence: Mapping[str, Any]) -> Exhibit:
    """Bars of the errors of a verdict, from its evidence; pure."""
    parts: list[tuple[str, str, Role]] = [
        ("best known", "human_error", "other"),
        ("training", "train_error", "train"),
        ("train-dev", "train_dev_error", "validation"),
        ("validation", "validation_error", "validation"),
    ]
    there = [(label, float(evidence[key]), role) for label, key, role in parts if evidence.get(key) is not None]
    caption = "From bar to bar: avoidable bias, variance, and what training data lack; work on the longest step first."
    labels, values, roles = zip(*there, strict=True)
    bars = Bars(labels, values, str(evidence["unit"]), roles)
    return Exhibit("bias_variance", Section.BIAS_VARIANCE, "Bias and variance", caption, bars, BiasVariance.aspects)


def _keeps_best(callback: Any) -> bool:
    watches = isinstance(callback, Rule) and callback.kind != "enforce"
    return getattr(callback, "monitor", None) is not None and not watches


def _batches_for(batch: Any) -> int:
    """How many batches of this size hold :data:`EXAMPLES` examples."""
    size = max((len(leaf) for _, leaf in leaves(batch) if leaf.dim() > 0), default=1)
    return max(1, -(-EXAMPLES // max(1, size)))


def judge_ranks(ranks: Sequence[RankSeen], human_error: float | None, monitor: str | None) -> list[Finding]:
    """The verdict on the errors of all ranks, and on the course of validation; pure."""
    first = ranks[0]
    if not first.ended:
        return []
    answers = sum(rank.validations.answers for rank in ranks)
    errors = _measured(ranks) or _logged(first, monitor)
    worse = errors is None or errors.validation.error > WORSE * errors.train.error  # else it does not fit either
    overfitting = judge_overfitting(replace(first.validations, answers=answers), monitor) if worse else None
    if errors is not None:
        verdict = judge_errors(errors, human_error)
    else:
        why_not = next((rank.why_not for rank in ranks if rank.why_not), "")
        message = f"{why_not.rstrip(': .')}. No pair of logged metrics differs only by train and val either."
        verdict = Finding("bias-variance", Severity.INFO, message)
    return [verdict] if overfitting is None else [overfitting, verdict]


def _measured(ranks: Sequence[RankSeen]) -> Errors | None:
    if any(not rank.parts or rank.unit != ranks[0].unit for rank in ranks):
        return None
    total = {name: reduce(add, (rank.parts[name] for rank in ranks)) for name in ranks[0].parts}
    parts = {name: Measured(one.mean, one.noise, int(one.answers)) for name, one in total.items()}
    guess = total["train"].guessed
    return Errors(ranks[0].unit, parts["train"], parts["validation"], parts.get("train-dev"), guess)


def _logged(seen: RankSeen, monitor: str | None) -> Errors | None:
    """A pair of logged metrics as errors: the one that is asked for, else one where more is better, else a loss."""
    names = sorted(seen.logged, key=lambda name: (name != monitor, lower_is_better(name) is not False))
    for name in names:
        train, validation = seen.logged[name]
        lower = lower_is_better(name)
        if lower is False and max(train, validation) <= 1:
            unit = "error rate" if "acc" in name.lower() else f"1 - {name}"
            return Errors(unit, Measured(1 - train), Measured(1 - validation), measured_alike=False)
        if lower:
            return Errors(name, Measured(train), Measured(validation), guess=None, measured_alike=False)
    return None

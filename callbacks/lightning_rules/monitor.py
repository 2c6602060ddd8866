"""What the rules that watch a run have in common: sampled batches, seldom looks, and a share of the time for all."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_rules.cadence import Cadence
from lightning_rules.finding import Finding, Severity
from lightning_rules.host_copy import HostCopy
from lightning_rules.idle_hooks import rest, wake, wake_all
from lightning_rules.log_to import Histogram, log_histograms, log_scalars
from lightning_rules.ranks import gather
from lightning_rules.rule import NotApplicable, Rule, attempt, refusal_of
from lightning_rules.view import View

__all__ = ["Finding", "Histogram", "Monitor", "NotApplicable", "Sample", "Severity", "View"]


@dataclass(frozen=True)
class Sample:
    """A training batch that is being sampled.

    Attributes:
        trainer: The run's Trainer.
        module: The LightningModule.
        batch: What ``training_step`` gets, on the device.
        batch_idx: Its place in the epoch.
        batch_number: How many training batches the monitors have seen before it.
    """

    trainer: Any
    module: Any
    batch: Any
    batch_idx: int
    batch_number: int


class Monitor(Rule):
    """A rule that watches a run while it trains.

    The monitors of a Trainer share one cadence, kept by the first of them: at *sampled* batches they measure, on the
    device and without waiting for it; at a *look*, every few dozen batches, the readings go to the host, ranks compare
    them, and they are judged. How often follows from what it costs, so that all of them stay within ``overhead``,
    except for the first 64 samples.

    A subclass implements :meth:`readings`, :meth:`take` and :meth:`judge`, and of :meth:`start`, :meth:`before`,
    :meth:`after` and :meth:`each_batch` what it needs; it may use any Lightning hook besides but
    ``on_train_batch_start`` and ``on_train_batch_end``. What it must remember over a resume it puts into
    ``state_dict``. A measurement that raises ends this monitor, on all ranks, with a word; never the run.

    An alarm is told once a run for each of the rule's aspects and severities; what holds is told at the end.

    Args:
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1; the
            least of all monitors counts.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``overhead`` is not between 0 and 1.
    """

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        if not 0 < overhead < 1:
            raise ValueError(f"Expected `overhead` to be a share of the time between 0 and 1, but got {overhead!r}.")
        self.overhead = overhead
        self._forget()

    def _forget(self) -> None:
        self._active = False
        self._refusal = ""
        self._cadence = Cadence(self.overhead)
        self._group: list[Monitor] | None = None  # all that are active; the first alone has it
        self._each: list[Monitor] = []  # those that count every batch
        self._sample: Sample | None = None
        self._sample_began = 0.0
        self._own_seconds = 0.0
        self._timing_began: float | None = None
        self._on_the_way: HostCopy | None = None
        self._last_look = False  # whether the look that comes is the last

    # What a subclass does.

    def start(self, view: View) -> None:
        """Before the first batch of a fit, resumed or not; no collective.

        Raises:
            NotApplicable: There is nothing to watch in this run.
        """

    def before(self, sample: Sample) -> None:
        """A sampled batch is about to go through ``training_step``. It must not change anything that training sees."""

    def after(self, sample: Sample, outputs: Any) -> None:
        """A sampled batch has gone through ``training_step`` and, unless gradients accumulate, the optimiser."""

    def each_batch(self, outputs: Any) -> None:
        """After every batch, sampled or not, with what Lightning makes of ``training_step``'s result: a microsecond."""

    @abstractmethod
    def readings(self) -> Any:
        """What was measured since the last look: a tree of tensors on their device and other values, handed over."""

    @abstractmethod
    def take(self, readings: Any) -> Any:
        """Add readings, which are on the host now, to what is remembered; returns this rank's numbers for ``judge``.

        On CUDA these are the readings of the look before, so that nothing waits for the device.
        """

    @abstractmethod
    def judge(self, ranks: Sequence[Any]) -> Iterable[Finding]:
        """Findings from the numbers of all ranks, in the order of ranks; pure, and the same on each rank."""

    def looked(self, trainer: Any, last: bool) -> None:
        """After a look, when all monitors have judged; no collective.

        Args:
            trainer: The run's Trainer.
            last: Whether the fit has ended.
        """

    def scalars(self) -> Mapping[str, float]:
        """Numbers to log after a look, by name; the names begin with what they are: ``"update_ratio/net.fc"``."""
        return {}

    def histograms(self) -> Mapping[str, Histogram]:
        """Histograms to log after a look, by name."""
        return {}

    # What Lightning calls.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget an earlier fit. A subclass that overrides this calls ``super().setup(...)``."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._forget()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Ask whether there is something to watch; the first monitor's hooks serve all of them."""
        rest(self, "on_train_batch_start", "on_train_batch_end")
        self._active = not self.observe(trainer, lambda: self.start(View(trainer, pl_module)), lambda ranks: ())
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, Monitor)]
        if monitors[-1] is self:
            monitors[0]._lead([monitor for monitor in monitors if monitor._active], monitors)

    def _lead(self, group: list[Monitor], monitors: list[Monitor]) -> None:
        """Be the one whose hooks serve all."""
        self._group = group
        self._each = [one for one in group if type(one).each_batch is not Monitor.each_batch]
        self._cadence.overhead = min(monitor.overhead for monitor in monitors)
        for monitor in group:
            monitor._cadence = self._cadence
        if group:
            wake(self, "on_train_batch_start", "on_train_batch_end")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin a sample, or time a batch without, where one is due; this hook rests in between."""
        rest(self, "on_train_batch_start")
        if not self._cadence.sample_is_due:
            self._timing_began = time.perf_counter()
            return
        self._sample_began = time.perf_counter()
        self._sample = Sample(trainer, pl_module, batch, batch_idx, self._cadence.batches)
        for monitor in self._group or ():
            monitor._guarded(monitor.before, self._sample)
        self._own_seconds = time.perf_counter() - self._sample_began

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch; end a sample, look, and wait for the next sample where they are due."""
        if self._timing_began is not None:
            self._cadence.timed(time.perf_counter() - self._timing_began)
            self._timing_began = None
        for monitor in self._each:
            monitor._guarded(monitor.each_batch, outputs)
        cadence = self._cadence
        cadence.batches += 1
        if cadence.batches < cadence.idle_until:
            return
        if self._sample is not None:
            self._end_sample(outputs)
        if cadence.look_is_due:
            self._look(trainer)
        if cadence.sample_is_due or cadence.timing_is_due:
            wake(self, "on_train_batch_start")

    def _end_sample(self, outputs: Any) -> None:
        sample, self._sample = self._sample, None
        began = time.perf_counter()
        for monitor in self._group or ():
            monitor._guarded(monitor.after, sample, outputs)
        ended = time.perf_counter()
        self._cadence.sampled(self._own_seconds + ended - began, ended - self._sample_began)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        """Run a measurement; after one that raised this monitor measures no more, and says so at the next look."""
        if self._refusal:
            return
        try:
            step(*arguments)
        except Exception as error:
            self._refusal = refusal_of(error)

    def _look(self, trainer: Any, last: bool = False) -> None:
        """Bring readings to the host, compare ranks, judge. A collective."""
        began = time.perf_counter()
        group = self._group or []
        fresh = HostCopy([attempt(monitor.readings) for monitor in group])
        due = [copy for copy in (self._on_the_way, fresh if last or not fresh.late else None) if copy is not None]
        self._on_the_way = fresh if fresh.late and not last else None
        numbers: list[tuple[Any, str]] = [(None, "")] * len(group)
        for copy in due:
            numbers = [one._taken(*read) for one, read in zip(group, copy.get(), strict=True)]
        everywhere = gather(trainer, (numbers, self._cadence.proposal()))
        if due:
            for place, monitor in enumerate(list(group)):
                monitor._hear(trainer, [numbers[place] for numbers, _ in everywhere], self._cadence.batches, last)
        if not last:
            self._group = [monitor for monitor in group if monitor._active]
            self._each = [monitor for monitor in self._each if monitor._active]
            self._on_the_way = self._on_the_way if self._group == group else None
        for monitor in group:
            if monitor._active:
                monitor._guarded(monitor.looked, trainer, last)
        self._cadence.agree([proposal for _, proposal in everywhere])
        self._cadence.looked(time.perf_counter() - began)

    def _taken(self, readings: Any, refusal: str) -> tuple[Any, str]:
        refusal = self._refusal or refusal
        return (None, refusal) if refusal else attempt(lambda: self.take(readings))

    def _hear(self, trainer: Any, ranks: Sequence[tuple[Any, str]], batches: int, last: bool) -> None:
        """Judge what the ranks have measured, record what is new, and log."""
        refusals = [refusal for _, refusal in ranks if refusal]
        found: list[Finding] = []
        if not refusals:
            judged, refusal = attempt(lambda: list(self.judge([numbers for numbers, _ in ranks])))
            found, refusals = judged or [], [refusal] if refusal else []
        if refusals:
            self._active = False
            found = [Finding(self.name, Severity.INFO, refusals[0])]
        news = self._news(found, last or bool(refusals))
        if last and not news and not self.findings:
            news = [Finding(self.name, Severity.INFO, f"Too little was seen to judge, in {batches:,} batches.")]
        self._record(trainer, news, acted=False)
        if self._active and trainer.loggers:
            log_scalars(trainer, self.scalars())
            log_histograms(trainer, self.histograms())

    def _news(self, found: Iterable[Finding], last: bool) -> list[Finding]:
        """Alarms not told yet; at the end also what holds, unless the same aspect has raised an alarm."""
        told = {(finding.rule, finding.severity) for finding in self.findings}
        alarmed = {rule for rule, severity in told if severity >= Severity.WARNING}
        return [
            one
            for one in found
            if (one.rule, one.severity) not in told
            and (one.severity >= Severity.WARNING or (last and one.rule not in alarmed))
        ]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for the last time. A subclass that overrides this calls ``super().on_train_end(...)``."""
        for monitor in self._group or ():
            monitor._last_look = True
        if self._group:
            self._look(trainer, last=True)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the run. A subclass that overrides this, or ``on_exception``, calls ``super()``."""
        super().teardown(trainer, pl_module, stage)
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Print what was found, and let go of the run: Lightning tears nothing down after an exception."""
        super().on_exception(trainer, pl_module, exception)
        self._release()

    def _release(self) -> None:
        """Hold nothing of the run: a rule that is pickled or copied needs no device. A subclass adds what it holds."""
        self._group, self._each, self._sample, self._on_the_way = None, [], None, None
        self._active = False
        wake_all(self)

    def state_dict(self) -> dict[str, Any]:
        """Findings, and where the cadence stands; a subclass adds its windows."""
        return {**super().state_dict(), "cadence": self._cadence.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        for name, value in state_dict["cadence"].items():
            setattr(self._cadence, name, value)

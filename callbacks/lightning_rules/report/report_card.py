"""The rule report-card."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules import record
from lightning_rules.finding import Finding, Severity
from lightning_rules.monitor import Monitor, View
from lightning_rules.report.collect import collect, to_keep
from lightning_rules.report.cost import Meter
from lightning_rules.report.document import FINISHED, HTML, JSON, Document
from lightning_rules.report.hand_out import hand_out
from lightning_rules.report.series import Series
from lightning_rules.report.terminal import print_summary
from lightning_rules.reproduce.run_record import describe_run
from lightning_rules.rule import attempt

NAME = "report-card"
EVERY = 30.0  # seconds between two pages of a run that goes on, in its first ten minutes;
SHARE, LONGEST = 0.05, 300.0  # then this part of the time that has passed, at most so many seconds
DRAW = Path(__file__).with_name("draw_alone.py")
METRICS = 64  # that are followed


class ReportCard(Monitor):
    """Every run ends with one page that tells a person whether to trust it, and what to do next.

    Why: People would rather look than read logs. What was found, what was measured and what brings the run back belong
        on one page, beside what the run is held against: a guess, the best that is known, the run before.

    What it does: Collects the findings of all rules, what they measured and show, the metrics that the run logs, the
        learning rates, what it costs, and what brings it back, into ``<log_dir>/rules/report.json``; and draws
        ``<log_dir>/rules/report.html`` from it, a page of its own that opens without a network. While the run goes on
        both are written anew every half minute or so, the page by a process of its own; what a run that was killed has
        left says that it is unfinished. ``python -m lightning_rules.report FOLDER`` draws the page again.
        It has to stand behind the rules that it reports on.

    Fires when: Never an alarm. At the end one line of information says where the page is.

    Under DDP: Rank 0 collects and writes; findings are those of all ranks.

    Cost: About a millisecond a look, and another to write the file; nothing at other batches.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_rules import GradientHealth
        >>> trainer = Trainer(callbacks=[GradientHealth(), ReportCard()], logger=False)

    Source: Hui (2018), "How to start a deep learning project", on visualisation; Goodfellow et al. (2016), "Deep
        Learning", section 11.5, "Visualize the model in action".

    Args:
        form: ``"html"`` for the page and the file it is drawn from, ``"json"`` for the file alone, ``"none"`` for
            neither.
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``form`` is none of these.
    """

    name = NAME
    source = (
        'Hui (2018), "How to start a deep learning project", on visualisation; Goodfellow et al. (2016), "Deep '
        'Learning", section 11.5, "Visualize the model in action"'
    )
    kind = "report"

    def __init__(
        self,
        form: Literal["html", "json", "none"] = "html",
        overhead: float = 0.03,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(overhead, on_error)
        if form not in ("html", "json", "none"):
            raise ValueError(f"Expected `form` to be 'html', 'json' or 'none', but got {form!r}.")
        self.form = form

    @property
    def state_key(self) -> str:
        """The same whatever the form: a run that is resumed with another one goes on with its series."""
        return type(self).__qualname__

    @property
    def tells_all(self) -> bool:
        """Whether there is a page with all findings, so that the terminal can be brief."""
        return self.form == "html" and self._folder is not None

    def _forget(self) -> None:
        super()._forget()
        self.document = Document()
        self._trainer: Any = None
        self._meter: Meter | None = None
        self._began = self._written = time.perf_counter()
        self._drawing: subprocess.Popen[bytes] | None = None
        self._logged: list[tuple[int, dict[str, Any]]] = []  # still on their device

    def start(self, view: View) -> None:
        """Note what brings the run back."""
        trainer = self._trainer = view.trainer
        self._meter = Meter(view.module.device)
        self._began = self._written = time.perf_counter()
        self.document.started = self.document.started or _now()
        if trainer.is_global_zero:
            self._note_record(trainer, view.module)

    def _note_record(self, trainer: Any, module: Any) -> None:
        known = next((one.run_record for one in trainer.callbacks if getattr(one, "run_record", None)), None)
        found, why_not = attempt(lambda: known or describe_run(trainer, module, snapshot=False))
        self.document.record = {**found} if found else {"why_not": why_not}
        self.document.run = str(self.document.record.get("run", ""))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what validation has logged."""
        if self._active and not trainer.sanity_checking:
            self._guarded(self._keep, trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what the epoch has logged."""
        if self._active:
            self._guarded(self._keep, trainer)

    def _keep(self, trainer: Any) -> None:
        values = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in list(trainer.callback_metrics.items())[:METRICS]
        }
        self._logged.append((trainer.global_step, values))

    def readings(self) -> Any:
        """What was logged since the last look, and the learning rates of now."""
        logged, self._logged = self._logged, []
        rates = {
            f"learning_rate/{place}.{number}": group["lr"]
            for place, optimizer in enumerate(self._trainer.optimizers)
            for number, group in enumerate(optimizer.param_groups)
            if "lr" in group
        }
        return self._trainer.global_step, rates, logged

    def take(self, readings: Any) -> None:
        """Add them to the series."""
        step, rates, logged = readings
        for name, rate in rates.items():
            self.document.series.setdefault(name, Series()).add(step, float(rate))
        self._add_logged(logged)

    def _add_logged(self, logged: Sequence[tuple[int, dict[str, Any]]]) -> None:
        for at, values in logged:
            for name, value in values.items():
                series = self.document.metrics.setdefault(name, Series())
                if series.steps and series.steps[-1] == at:  # validation still saw the last epoch's training metrics
                    series.values[-1] = float(value)
                else:
                    series.add(at, float(value))

    def judge(self, ranks: Sequence[Any]) -> Iterable[Finding]:
        """Nothing but where the page is."""
        if self.form == "none" or self._folder is None:
            why = "`form` is 'none'" if self.form == "none" else "the run has no log folder"
            return [Finding(NAME, Severity.INFO, f"No report is written: {why}.")]
        page = HTML if self.form == "html" else JSON
        return [Finding(NAME, Severity.INFO, f"The report of this run is {page} in its log folder.")]

    def looked(self, trainer: Any, last: bool) -> None:
        """Collect what the other rules know, and write it down where that is due."""
        if not trainer.is_global_zero:
            return
        for rule in trainer.callbacks:
            if isinstance(rule, Monitor) and rule is not self:
                for name, value in rule.scalars().items():
                    self.document.series.setdefault(name, Series()).add(trainer.global_step, float(value))
        if not last and self._is_due():
            self._written = time.perf_counter()
            _harmless(lambda: self._write_beside(trainer), f"The report of this run in {self._folder}")

    def _is_due(self) -> bool:
        """Pages come the more seldom the longer a run has gone on."""
        now = time.perf_counter()
        return now - self._written > min(LONGEST, max(EVERY, SHARE * (now - self._began)))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for the last time."""
        super().on_train_end(trainer, pl_module)
        self.document.state = FINISHED

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Add what the test of the weights has shown."""
        if self.document.started and trainer.is_global_zero:
            self.document.tested = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test")
            }
            self._save()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the last page of a run that failed or was interrupted."""
        if self._stage == "fit":  # a test that fails leaves the page of the fit as it was
            said = str(exception).partition("\n")[0]
            self.document.state = f"failed: {type(exception).__name__}: {said}".rstrip(": ")
        super().on_exception(trainer, pl_module, exception)
        if self._stage == "fit" and self.document.started and trainer.is_global_zero:
            self._end(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write the last page."""
        super().teardown(trainer, pl_module, stage)
        if stage == "fit" and self.document.started and trainer.is_global_zero:
            self._end(trainer)

    def _release(self) -> None:
        super()._release()
        self._trainer = None

    def _end(self, trainer: Any) -> None:
        """Page and figures of a run that has ended, drawn here and now, and the verdict in the terminal."""
        self._save(lambda: self._fill(trainer))
        if self.tells_all:
            _harmless(lambda: hand_out(self.document, str(self._folder), trainer), "The figures of this run")
        page = f"{self._folder}/{HTML}" if self.tells_all else ""
        _harmless(lambda: print_summary(self.document, page), "The verdict")

    def _save(self, fill: Callable[[], None] = lambda: None) -> None:
        """What fails costs the page alone."""

        def save() -> None:
            fill()
            self._write()
            if self.tells_all:
                from lightning_rules.report.page import page_of  # Jinja2, for those who draw

                self._stop_drawing()
                record.write_file(page_of(self.document, Path(str(self._folder))), f"{self._folder}/{HTML}")

        _harmless(save, f"The report of this run in {self._folder}")

    def _write(self) -> None:
        if self.form != "none" and self._folder is not None:
            self.document.updated = _now()
            record.write_file(self.document.to_json(), f"{self._folder}/{JSON}")

    def _fill(self, trainer: Any) -> None:
        """Bring the document up to now."""
        logged, self._logged = self._logged, []
        self._add_logged(logged)
        spent = {} if self._meter is None else self._meter.read()
        collect(self.document, trainer, self._folder, {**spent, **self._cadence.costs})

    def _write_beside(self, trainer: Any) -> None:
        """Write what is known, and draw the page in a process of its own, unless the last is still at it."""
        self._fill(trainer)
        self._write()
        local = self._folder is not None and "://" not in self._folder
        if self.form != "html" or not local or (self._drawing is not None and self._drawing.poll() is None):
            return
        command = [sys.executable, "-P", str(DRAW), str(self._folder)]
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._drawing = subprocess.Popen(command, start_new_session=True, **quiet)

    def _stop_drawing(self) -> None:
        drawing, self._drawing = self._drawing, None
        if drawing is not None and drawing.poll() is None:
            drawing.terminate()
            drawing.wait()

    def state_dict(self) -> dict[str, Any]:
        """Findings, cadence, the series, and what was seen before the first step."""
        kept = self.document if self._trainer is None else to_keep(self.document, self._trainer)
        packed = bytearray(zlib.compress(kept.to_json().encode()))  # of a long run it is a megabyte, in each checkpoint
        return {**super().state_dict(), "document": torch.frombuffer(packed, dtype=torch.uint8)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        if self._stage == "fit":
            self.document = Document.from_json(zlib.decompress(state_dict["document"].cpu().numpy()).decode())


def _harmless(step: Callable[[], None], what: str) -> None:
    """What fails in a report never fails the run."""
    try:
        step()
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        record.log.warning(f"{what} could not be made ({said}).")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""What reports on validation have in common: they hear the answers of the run's own validation, and draw at the end."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning_rules.answers import Answers, AnswerWatch
from lightning_rules.class_names import class_names
from lightning_rules.exhibit import Exhibit, Picture, Section
from lightning_rules.figures import save
from lightning_rules.log_to import log_figure
from lightning_rules.monitor import Monitor, NotApplicable, View


class ValidationWatch(Monitor):
    """A report on the answers to the first validation loader.

    A subclass implements :meth:`begin_validation`, :meth:`see` and :meth:`end_validation`, which only count on the
    device, and :meth:`draw`; the rest is as for any monitor.
    """

    def _forget(self) -> None:
        super()._forget()
        self.names: list[str] = []
        self._watch: AnswerWatch | None = None
        self._batches = 0
        self._heard = 0
        self._drawn = False

    def start(self, view: View) -> None:
        """Find the last layer, and what the classes are called.

        Raises:
            NotApplicable: There is no validation, or no answers can be heard; see :class:`AnswerWatch`.
        """
        if not view.trainer.enable_validation:
            raise NotApplicable("the run has no validation.")
        self._watch = AnswerWatch(view)
        self.names = class_names(view.trainer, view.validation_loaders)

    @abstractmethod
    def begin_validation(self) -> None:
        """A validation begins."""

    @abstractmethod
    def see(self, trainer: Any, answers: Answers, inputs: Any, batch_idx: int) -> None:
        """Count the answers to a batch, on the device.

        Args:
            trainer: The run's Trainer.
            answers: Of at least one row.
            inputs: What entered the network, [examples, ...]; None where that is not known.
            batch_idx: The batch's place in the validation.
        """

    @abstractmethod
    def end_validation(self) -> None:
        """A validation has ended."""

    @abstractmethod
    def draw(self) -> Any:
        """The figure, on rank 0 when the fit has ended; None where there is nothing to draw."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to hear."""
        if self._active and self._watch is not None:
            self._batches, self._heard = 0, 0
            self.begin_validation()
            self._watch.attach()

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the targets: the step may take them out of the batch."""
        if self._active and self._watch is not None and dataloader_idx == 0:
            self._guarded(self._watch.expect, batch)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """See the answers to a batch."""
        if self._active and self._watch is not None and dataloader_idx == 0:
            self._guarded(self._see, trainer, self._watch, batch, batch_idx)

    def _see(self, trainer: Any, watch: AnswerWatch, batch: Any, batch_idx: int) -> None:
        self._batches += 1
        answers = watch.answers(batch)
        if answers is None or not len(answers.outputs):
            return
        self._heard += 1
        inputs = watch.inputs(batch)
        fits = inputs is not None and len(inputs) * answers.rows_per_example == len(answers.outputs)
        self.see(trainer, answers, inputs if fits else None, batch_idx)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Hear no more."""
        if self._active and self._watch is not None:
            self._watch.detach()
            self._guarded(self._end, self._watch)

    def _end(self, watch: AnswerWatch) -> None:
        if self._batches and not self._heard:
            raise NotApplicable(
                f"in validation {watch.head or 'the module'} does not run once for each batch with targets."
            )
        self.end_validation()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for the last time, and draw."""
        super().on_train_end(trainer, pl_module)
        if self._active and trainer.is_global_zero:
            self._guarded(self._save, trainer)

    def _save(self, trainer: Any) -> None:  # rank 0 alone: `trainer.log_dir` would wait for the others
        figure = self.draw()
        if figure is not None:
            name = self.name.replace("-", "_")
            self._drawn = save(figure, self._folder, name) is not None
            log_figure(trainer, name, figure)

    def picture(self, section: Section, title: str, caption: str) -> list[Exhibit]:
        """The figure as an exhibit, when it has been drawn."""
        name = self.name.replace("-", "_")
        return (
            [Exhibit(name, section, title, caption, Picture(f"{name}.png", title), [self.name])] if self._drawn else []
        )

    def _release(self) -> None:
        super()._release()
        if self._watch is not None:
            self._watch.detach()
        self._watch = None

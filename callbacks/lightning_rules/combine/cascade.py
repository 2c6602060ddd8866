"""Models in a row, cheap first: an example goes on to the next only while the answer is not sure enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_rules.combine.averaging import mean_loss
from lightning_rules.combine.cascade_choice import Decided, all_right, decide, refuse_contradictions, save_curves
from lightning_rules.combine.cascade_stages import refuse_other_classes, seconds_an_example, stage_readings
from lightning_rules.combine.collector import Collector
from lightning_rules.combine.member import member
from lightning_rules.combine.reading import Answer, Reading, Task, call, probabilities, read, targets_of
from lightning_rules.combine.routing import stops
from lightning_rules.combine.scores import comparable_targets, known
from lightning_rules.combine.stored_module import description
from lightning_rules.ranks import gather, on_rank_zero

WANTED = ("accuracy", "cost", "recall", "risk", "coverage")  # what a user asks for
FILE = "cascade/cascade.ckpt"


class Cascade(L.LightningModule):
    """Models in a row, cheap first, as one classifier.

    An example stops at the first stage whose confidence (its largest probability; for several labels that of the
    least sure one) reaches the stage's threshold; only what goes on is computed by the next stage. The thresholds
    are chosen by ``trainer.validate(cascade, ...)``: all stages see all validation examples, and the thresholds are
    set for the wanted ``accuracy``, ``cost`` or ``recall``. With a log folder, ``cascade/cascade.ckpt`` is written
    there (``trainer.test(ckpt_path=...)``, ``load_module`` and the command line take it like any checkpoint), beside
    the curves of cost against accuracy and of risk against coverage.

    With ``recall``, for binary tasks, all stages but the last are screens: an example stops, as negative, only where
    it is surely negative, and the last stage decides.

    ``forward`` returns log probabilities [N, C], or logits [N, L] of labels, from inputs of any nesting whose tensors
    have examples in dimension 0. ``predict_step`` returns "probabilities", "label" [N] (-1: unknown), "stage" [N] and,
    with a reject option, "refused" [N].

    Under DDP all ranks' examples are gathered, each counted once, and every rank chooses the same thresholds.

    Args:
        stages: Modules whose ``forward`` gives logits or probabilities, or paths of their checkpoints, cheap first;
            at least two (the command line takes them from ``--ckpt_path``).
        accuracy: The accuracy to reach at the least cost, above 0 and below 1.
        cost: The mean cost of an example to keep to at the most accuracy, in the unit of ``costs``.
        recall: The share of positives, on new examples, that the screens let through, above 0 and below 1.
        risk: Refuse answers so that of those given at most this share is wrong, guaranteed with probability 95%.
        coverage: Refuse answers, the least sure ones, so that this share is given.
        costs: What one example costs in each stage, such as FLOPs; "parameters" counts these; "time" measures, on a
            validation batch, in milliseconds.
        thresholds: Of all stages but the last, where they are known; validation then only measures, unless one of
            ``accuracy``, ``cost`` and ``recall`` is given.
        refuse_under: Refuse answers of less confidence, where that is known.
        cost_unit: What ``costs`` are given in, for reports.
        readings: How to read what each stage returns, ``{"task": ..., "scale": ...}``; found on the first batch with
            targets by default.

    Raises:
        ValueError: There are fewer than two stages, a stage cannot be made, or the arguments contradict each other.
        FileNotFoundError: There is no such checkpoint.
    """

    def __init__(
        self,
        stages: Sequence[str | dict[str, Any] | nn.Module] = (),
        accuracy: float | None = None,
        cost: float | None = None,
        recall: float | None = None,
        risk: float | None = None,
        coverage: float | None = None,
        costs: Sequence[float] | Literal["time", "parameters"] = "time",
        thresholds: Sequence[float] | None = None,
        refuse_under: float | None = None,
        cost_unit: str | None = None,
        readings: Sequence[dict[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self.accuracy, self.cost, self.recall = accuracy, cost, recall
        self.risk, self.coverage = risk, coverage
        refuse_contradictions({name: getattr(self, name) for name in WANTED}, thresholds, costs, len(stages))
        together = [member(stage, f"stage {number}") for number, stage in enumerate(stages)]
        self.stages = nn.ModuleList(stage.module for stage in together)
        self._described = [stage.description or description(type(stage.module), {}) for stage in together]
        self.costs: list[float] | None = None if isinstance(costs, str) else [float(one) for one in costs]
        self.cost_unit = cost_unit or (costs if isinstance(costs, str) else "units of cost")
        if costs == "parameters":
            self.costs = [float(sum(p.numel() for p in stage.parameters())) for stage in self.stages]
        self._find(thresholds, refuse_under, readings)
        self._collector = Collector()
        self._decided: Decided | None = None
        self.eval()

    def _find(
        self,
        thresholds: Sequence[float] | None,
        refuse_under: float | None,
        readings: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        """Take over what was chosen or found."""
        self.thresholds = None if thresholds is None else [float(one) for one in thresholds]
        self.refuse_under = refuse_under
        self.readings = None if readings is None else [Reading(**one) for one in readings]

    @property
    def screening(self) -> bool:
        """Whether all stages but the last only say what is surely negative."""
        return self.recall is not None

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Log probabilities [N, C], or logits [N, L] of labels."""
        return self._answer(lambda stage, rows: stage(*_rows(inputs, rows), **_rows(named, rows)))[0]

    def _answer(self, ask: Callable[[nn.Module, Tensor | None], Any]) -> tuple[Tensor, Tensor]:
        """What the cascade says, [N, C], and the stage [N] at which each example stopped.

        Args:
            ask: Returns what a stage says of some rows; None stands for all of them.
        """
        if self.thresholds is None or self.readings is None:
            raise ValueError(
                "This cascade has no thresholds yet: run `trainer.validate(cascade, ...)` with `accuracy`, `cost` or "
                "`recall` first, or give `thresholds` and `readings`."
            )
        values = self._read(ask(self.stages[0], None), 0)
        stopped = torch.zeros(len(values), dtype=torch.long, device=values.device)
        going = torch.arange(len(values), device=values.device)
        for number in range(1, len(self.stages)):
            going = going[self._signal(values[going]) < self.thresholds[number - 1]]
            if not len(going):
                break
            everything = len(going) == len(values)
            values[going] = self._read(ask(self.stages[number], None if everything else going), number)
            stopped[going] = number
        return values, stopped

    def _read(self, returned: Any, number: int) -> Tensor:
        """Log probabilities [N, C] or logits [N, L]."""
        assert self.readings is not None
        values = read(returned, self.readings[number]).values
        return values.log_softmax(dim=1) if self.readings[number].task == "multiclass" else values.clone()

    def _signal(self, values: Tensor) -> Tensor:
        """What is compared with thresholds [N]: a stage's confidence, or for screens its probability of "negative"."""
        return 1 - self._positive(values) if self.screening else self._confidence(values)

    def _confidence(self, values: Tensor) -> Tensor:
        if self._task == "multiclass":
            return values.softmax(dim=1).amax(dim=1)
        return values.abs().sigmoid().amin(dim=1)

    def _positive(self, values: Tensor) -> Tensor:
        return values.sigmoid()[:, 0] if values.shape[1] == 1 else values.softmax(dim=1)[:, 1]

    @property
    def _task(self) -> Task:
        assert self.readings is not None
        return self.readings[0].task

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Ask all stages about all examples."""
        self._look(batch)
        answers = [call(stage, batch) for stage in self.stages]
        values = [self._read(answer, number) for number, answer in enumerate(answers)]
        refuse_other_classes(values)
        targets = comparable_targets(targets_of(self.stages[0], batch), values[0], self._task)
        self._collector.add(self.trainer.val_dataloaders, dataloader_idx, torch.stack(values, dim=1), targets)

    def _look(self, batch: Any) -> None:
        """Find out from a first batch how to read the stages, and what they cost."""
        if self.readings is None:
            self.readings = stage_readings(self.stages, batch)
        if self.costs is None:
            both = zip(self.stages, self.readings, strict=True)
            self.costs = [1000 * seconds_an_example(stage, reading, batch) for stage, reading in both]
            self.cost_unit = "ms"

    def on_validation_epoch_end(self) -> None:
        """Choose thresholds, the same on all ranks."""
        self.costs = gather(self.trainer, self.costs)[0]  # where measured, they differ between ranks
        gathered = self._gathered()
        values, targets = gathered[0].movedim(1, 0), gathered[1]
        decided = decide(self, values, targets)
        self.thresholds, self.refuse_under = decided.thresholds, decided.refuse_under
        answers, stage = self._routed(values)
        self.log_dict(self._results("val", answers, stage, targets), sync_dist=True)
        self._decided = decided

    def on_validation_end(self) -> None:
        """Write the cascade with its thresholds and its curves, and print what was chosen."""
        decided, self._decided = self._decided, None
        folder = self.trainer.log_dir  # a broadcast: every rank asks
        if decided is None or self.trainer.sanity_checking:
            return
        if self.trainer.is_global_zero:
            print(decided.report)
        if folder is not None and "://" not in folder and not getattr(self.trainer, "fast_dev_run", False):
            self.trainer.save_checkpoint(Path(folder, FILE), weights_only=True)
            on_rank_zero(self.trainer, lambda: save_curves(decided, Path(folder, FILE).with_suffix(".png")))

    def _gathered(self) -> tuple[Tensor, ...]:
        """What was collected, of the examples whose target is known; the last is the target."""
        gathered = self._collector.gathered(self.trainer)
        if not gathered:
            raise ValueError("The cascade was given no example: check the loader and its limits.")
        classes = gathered[0][:, 0] if gathered[0].dim() == 3 else gathered[0]
        with_target = known(gathered[-1], classes, self._task)
        return tuple(tensor[with_target] for tensor in gathered)

    def _routed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Answers [N, C] and stages [N], from what all stages say of all examples [S, N, C]."""
        signal = torch.stack([self._signal(one) for one in values])
        stage = stops(signal, signal.new_tensor(self.thresholds))
        return values[stage, torch.arange(len(stage))], stage

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer as in use: later stages see only what goes on."""
        self._look(batch)
        answers, stage = self._answer(lambda one, rows: call(one, _rows(batch, rows)))
        targets = comparable_targets(targets_of(self.stages[0], batch), answers, self._task)
        self._collector.add(self.trainer.test_dataloaders, dataloader_idx, answers, stage, targets)

    def on_test_epoch_end(self) -> None:
        """Log what the cascade gets right, what it costs, and where examples stop."""
        self.costs = gather(self.trainer, self.costs)[0]
        answers, stage, targets = self._gathered()
        self.log_dict(self._results("test", answers, stage, targets), sync_dist=True)

    def _results(self, name: str, answers: Tensor, stage: Tensor, targets: Tensor) -> dict[str, float]:
        """What an evaluation logs."""
        assert self.costs is not None
        right = all_right(answers, targets, self._task)
        spent = torch.tensor(self.costs).cumsum(0)[stage]
        results = {
            "loss": float(mean_loss(Answer(answers), targets, self._task)),
            "accuracy": float(right.double().mean()),
            "cost": float(spent.mean()),
        }
        results |= {f"stopped_{n}": float((stage == n).double().mean()) for n in range(len(self.stages))}
        if self.refuse_under is not None:
            given = self._confidence(answers) >= self.refuse_under
            wrong = float((given & ~right).sum())
            results |= {"coverage": float(given.double().mean()), "risk": wrong / max(1, int(given.sum()))}
        return {f"{name}/{key}": value for key, value in results.items()}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Probabilities [N, C], label [N], the stage [N] that answered, and whether the answer is refused [N]."""
        answers, stage = self._answer(lambda one, rows: call(one, _rows(batch, rows)))
        target = targets_of(self.stages[0], batch)
        label = target if isinstance(target, Tensor) else torch.full((len(answers),), -1)
        predicted = {"probabilities": probabilities(answers, self._task), "label": label, "stage": stage}
        if self.refuse_under is not None:
            predicted["refused"] = self._confidence(answers) < self.refuse_under
        return predicted

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the cascade is made of, so that :func:`load_module` and the command line make it again."""
        kept = {name: getattr(self, name) for name in (*WANTED, "thresholds", "refuse_under", "cost_unit")}
        kept["costs"] = self.costs if self.costs is not None else "time"
        kept["readings"] = None if self.readings is None else [one.to_dict() for one in self.readings]
        described = description(type(self), {"hyper_parameters": {**kept, "stages": self._described}})
        checkpoint.update(described)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over thresholds and what else was found."""
        kept = checkpoint.get("hyper_parameters", {})
        if "thresholds" in kept:
            self._find(kept["thresholds"], kept["refuse_under"], kept["readings"])
            self.costs = None if isinstance(kept["costs"], str) else list(kept["costs"])
            self.cost_unit = kept["cost_unit"]


def _rows(value: Any, rows: Tensor | None) -> Any:
    """Some rows of all tensors in anything nested; all of them for None."""
    return value if rows is None else apply_to_collection(value, Tensor, lambda tensor: _taken(tensor, rows))


def _taken(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor if tensor.dim() == 0 else tensor[rows.to(tensor.device)]

"""Several networks as one LightningModule, which evaluates, predicts and is saved like any other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_rules.combine.averaging import Average, averaged
from lightning_rules.combine.epoch_scores import EpochScores
from lightning_rules.combine.member import check_members, member
from lightning_rules.combine.member_calls import MemberCalls
from lightning_rules.combine.positions import positions
from lightning_rules.combine.reading import (
    Answer,
    Reading,
    Scale,
    Task,
    arguments_of,
    probabilities,
    read,
    reading_of,
    targets_of,
)
from lightning_rules.combine.stacked_weights import architecture
from lightning_rules.combine.streamed_members import StreamedMembers, fits

FORMAT = 1  # of saved ensembles; a newer one is refused


class EnsembleModule(pl.LightningModule):
    """Networks whose answers are averaged: to a Trainer, to ``test`` and to ``predict`` they are one.

    ``forward`` takes what the members' ``forward`` takes, and returns one answer on the scale of logits: log
    probabilities [N, C, ...] for classes, logits [N, L] for labels that are yes or no, means [N, D] for values.
    ``validation_step`` and ``test_step`` log ``val/loss``, ``val/accuracy`` and ``val/calibration_error`` (regression:
    ``val/loss``, the mean squared error, and ``val/rmse``) over all examples, each once, also under DDP.
    ``predict_step`` returns ``probabilities`` [N, C] and ``label`` [N] (-1: unknown); for regression ``mean`` and
    ``variance`` [N, D], where the spread between members is part of the variance.

    The members stay in evaluation mode, and are not trained. They run in one vectorised call where that was measured
    to be faster; see :class:`MemberCalls`. Members that do not fit on the device together stay on the host, from where
    their weights come one after the other; a file that was loaded by :func:`load_module` is read only as it is used.

    Args:
        members: The networks: modules, paths of checkpoints, or descriptions out of a saved ensemble. Architectures
            may differ; classes and inputs may not.
        task: What the outputs mean: "multiclass", "multilabel" (or binary) or "regression". By default that of the
            loss which the first member computes for the first batch with targets.
        scale: Whether the members' ``forward`` returns "logits" or "probabilities"; found out together with the task.
        average: "probabilities", or "logits": the geometric mean, which no single member can outvote.
        weights: One weight for each member, not negative; None weighs all alike.
        facts: What the members' checkpoints tell of classes and inputs; the ensemble's own checkpoint tells it too.
        format: Of the saved ensemble that this one is loaded from.
        module_class: The members' class, where their checkpoints do not name it.
        devices: Devices to spread the members over, in turns, such as ["cuda:0", "cuda:1"]; by default all are where
            the module is.
        stream: Whether members stay on the host; None decides by the free memory of the device.

    Raises:
        FileNotFoundError: A member's checkpoint is not there.
        ValueError: There are fewer than two members; one is damaged; their classes, class order or normalisation
            differ; a weight is missing or negative; or the file is of a newer version. The message names the member.

    Example:
        >>> ensemble = EnsembleModule([nn.Linear(4, 3), nn.Linear(4, 3)], task="multiclass")
        >>> ensemble(torch.zeros(2, 4)).exp().sum(dim=1).allclose(torch.ones(2))
        True
    """

    weights: Tensor

    def __init__(
        self,
        members: Sequence[Any],
        task: Task | None = None,
        scale: Scale = "logits",
        average: Average = "probabilities",
        weights: Sequence[float] | None = None,
        facts: Mapping[str, Any] | None = None,
        format: int = FORMAT,
        module_class: type | None = None,
        devices: Sequence[str] | None = None,
        stream: bool | None = None,
    ) -> None:
        super().__init__()
        if format > FORMAT:
            raise ValueError(
                f"The ensemble was saved by a newer lightning-rules (format {format}, here {FORMAT}): upgrade, or "
                "build it again from its members."
            )
        if average not in ("probabilities", "logits"):
            raise ValueError(f"Expected `average` to be 'probabilities' or 'logits', but got {average!r}.")
        made = [member(source, f"member {place}", module_class) for place, source in enumerate(members)]
        self.facts = {**check_members(made), **(facts or {})}
        self.members = nn.ModuleList([one.module for one in made])
        self.descriptions = [one.description for one in made]
        self.names = [one.name for one in made]
        self.reading = Reading(task, scale) if task is not None else None
        self.average = average
        self.register_buffer("weights", _shares(weights, len(made)))
        self.scores = nn.ModuleDict()
        self.devices, self.stream = devices, stream
        self._streamed = bool(stream)
        self._calls: MemberCalls | StreamedMembers | None = None
        self.eval()

    def train(self, mode: bool = True) -> EnsembleModule:
        """Members never leave evaluation mode."""
        return super().train(False)

    @property
    def calls(self) -> MemberCalls | StreamedMembers:
        """How the members run."""
        if self._calls is None:
            members = list(self.members)
            self._calls = self._streams(members) if self._streamed else MemberCalls(members, self.devices)
        return self._calls

    def _streams(self, members: list[nn.Module]) -> StreamedMembers:
        shells: dict[Any, nn.Module] = {}
        for one in members:
            if architecture(one) not in shells:
                shells[architecture(one)] = copy.deepcopy(one).to(self.weights.device)
        return StreamedMembers([shells[architecture(one)] for one in members], [one.state_dict for one in members])

    def _apply(self, fn: Any, recurse: bool = True) -> EnsembleModule:
        """Move the module; members that are spread, or would not fit, stay where they are."""
        self._calls = None
        device = fn(torch.empty(0)).device
        if self.stream is None and self.devices is None and device.type != "cpu":
            self._streamed = not fits(_bytes_of(self.members), device)
        if not self._streamed and self.devices is None:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            return self
        members = self._modules.pop("members")
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self._modules["members"] = members
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled calls, which belong to these very weights."""
        return {**self.__dict__, "_calls": None}

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """One answer to inputs, on the scale of logits; see the class."""
        return self.combined(self.calls(*inputs, **named)).values

    def combined(self, returned: Any) -> Answer:
        """The ensemble's answer, given what the members returned, stacked in a first dimension.

        Raises:
            ValueError: What the outputs mean is not known yet.
        """
        if self.reading is None:
            raise ValueError(
                "What the members' outputs mean is not known: give the ensemble its `task` (multiclass, multilabel or "
                "regression), or validate it first."
            )
        values, variances = read_all(returned, self.reading, len(self.members))
        return averaged(values, self.reading.task, self.average, self.weights, variances)

    def answer(self, batch: Any) -> Answer:
        """The ensemble's answer to a batch."""
        if self.reading is None and targets_of(self.members[0], batch) is not None:
            self.reading = reading_of(self.members[0], batch)
        arguments, named = arguments_of(self.members[0], batch)
        return self.combined(self.calls(*arguments, **named))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Judge a validation batch."""
        self._judge(batch, batch_idx, dataloader_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Judge a test batch."""
        self._judge(batch, batch_idx, dataloader_idx, "test")

    def on_validation_epoch_end(self) -> None:
        """Log what the validation said."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log what the test said."""
        self._log_scores("test")

    def _judge(self, batch: Any, batch_idx: int, dataloader_idx: int, stage: str) -> None:
        answer = self.answer(batch)
        assert self.reading is not None
        key = f"{stage}{dataloader_idx}"
        if key not in self.scores:
            self.scores[key] = EpochScores().to(self.device)
        loaders = self.trainer.val_dataloaders if stage == "val" else self.trainer.test_dataloaders
        loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
        scores: Any = self.scores[key]
        rows = torch.arange(scores.seen, scores.seen + len(answer.values))
        scores.seen += len(answer.values)
        scores.update(answer, targets_of(self.members[0], batch), self.reading.task, positions(loader, rows) >= 0)

    def _log_scores(self, stage: str) -> None:
        for key, scores in self.scores.items():
            if key.startswith(stage):
                number = key.removeprefix(stage)
                suffix = "" if number == "0" else f"/dataloader_idx_{number}"
                for name, value in scores.compute().items():  # type: ignore[operator]
                    self.log(f"{stage}/{name}{suffix}", value, prog_bar=True, sync_dist=True)
                scores.reset()  # type: ignore[operator]

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Probabilities and labels, or means and variances."""
        answer = self.answer(batch)
        assert self.reading is not None
        if answer.variances is not None:
            return {"mean": answer.values, "variance": answer.variances}
        shares = probabilities(answer.values, self.reading.task)
        return {"probabilities": shares, "label": _labels(targets_of(self.members[0], batch), shares)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint stand alone: the members' classes and hyperparameters are in it, and what they expect.

        Raises:
            ValueError: A member does not know its hyperparameters.
        """
        for name, one in zip(self.names, self.descriptions, strict=True):
            if one is None:
                raise ValueError(
                    f"{name} cannot be saved in an ensemble: it is no LightningModule with hyperparameters; call "
                    "`self.save_hyperparameters()` in its `__init__`."
                )
        described = [one for one in self.descriptions if one is not None]
        checkpoint["hyper_parameters"] = hyper_parameters(
            described, self.reading, self.average, self.weights, self.facts
        )
        checkpoint.update({name: dict(state) for name, state in self.facts.items() if name not in checkpoint})


def hyper_parameters(
    descriptions: list[dict[str, Any]],
    reading: Reading | None,
    average: Average,
    weights: Tensor,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments that make an ensemble again, with its class, as a checkpoint holds them."""
    return {
        "_class_path": "lightning_rules.EnsembleModule",
        "members": descriptions,
        **(reading.to_dict() if reading else {}),
        "average": average,
        "weights": weights.tolist(),
        "facts": dict(facts),
        "format": FORMAT,
    }


def read_all(returned: Any, reading: Reading, count: int) -> tuple[Tensor, Tensor | None]:
    """What the members returned, as values and variances [M, N, ...]."""
    if isinstance(returned, Tensor) and reading == Reading("multiclass"):
        return returned.float(), None  # the common case, without a loop
    answers = [read(torch.utils._pytree.tree_map(lambda part, i=i: part[i], returned), reading) for i in range(count)]
    variances = [answer.variances for answer in answers if answer.variances is not None]
    return torch.stack([answer.values for answer in answers]), torch.stack(variances) if variances else None


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _shares(weights: Sequence[float] | None, count: int) -> Tensor:
    if weights is None:
        return torch.full((count,), 1 / count)
    given = torch.as_tensor(weights, dtype=torch.float32)
    if given.shape != (count,) or bool((given < 0).any()) or not 0 < float(given.sum()) < float("inf"):
        raise ValueError(
            f"Expected one weight for each of the {count} members, not negative and not all 0, but got {weights}."
        )
    return given / given.sum()


def _labels(targets: Any, shares: Tensor) -> Tensor:
    """Class numbers as they are known; -1 elsewhere."""
    if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.shape == shares.shape[:1]:
        return targets
    return torch.full(shares.shape[:1], -1, device=shares.device)

"""The rule ensemble."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from lightning_rules.combine.averaging import Average, Weighting
from lightning_rules.combine.candidates import compare_all
from lightning_rules.combine.comparison import ENSEMBLE, Comparison, Criterion
from lightning_rules.combine.comparison_exhibits import exhibits_of
from lightning_rules.combine.comparison_table import print_comparison
from lightning_rules.combine.member_files import MemberFiles
from lightning_rules.combine.snapshots import Cycles
from lightning_rules.exhibit import Exhibit
from lightning_rules.finding import Finding, Severity
from lightning_rules.ranks import gather, on_rank_zero
from lightning_rules.record import write_local
from lightning_rules.rule import NotApplicable, Rule

NAME = "ensemble"


class Ensemble(Rule):
    """Average several independent models; it nearly always helps.

    Why: Models that err on different examples outvote one another's errors. "About two percent" (Karpathy) is nearly
        always there, and the averaged probabilities are better calibrated too. What it costs at inference can be
        chosen: all members, a soup of their weights, a distilled student.

    What it does: At the end of a fit it takes several checkpoints and compares, on the same validation and test
        examples, the single best of them, the mean of the singles, the ensemble, and where all have one architecture
        the uniform and the greedy soup of their weights, with the statistics of batch norm estimated anew. A run with
        weight averaging (EMA, SWA) has its averaged weights in the comparison too. It prints accuracy with its
        interval, likelihood, calibration and disagreement, writes them to ``ensemble/comparison.json``, and the
        ensemble to one file, ``ensemble/ensemble.ckpt``, which ``test`` and ``predict`` take like any checkpoint. The
        winner is chosen on validation alone; a soup that wins is written too. The run's module is left as it was.

        Where the members come from: "top-k" are the best checkpoints that the run's checkpoint callback keeps.
        "snapshots" are taken at the ends of cycles of the learning rate: of the module's own schedule, or of cosines
        that ``cycles`` sets (Huang et al. 2017). A list names checkpoints of any runs; then it also acts at the end of
        ``validate``.

    Fires when: For information, with the numbers. A warning tells of members that all give the same answers, and of
        an ensemble that could not be saved because its members cannot be made again.

    Under DDP: Each rank runs all members on its share of the examples; all ranks gather what was said and judge
        alike. Each example counts once, whatever the sampler repeats; the result is that of one process. Rank 0
        writes.

    Cost: One pass over validation and test data for each member, and for each soup that is tried, and up to 100
        batches of training data for batch norm. One network and the answers (members x examples x classes, float32)
        are in memory at a time. Snapshots cost a checkpoint each.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> keep = ModelCheckpoint(monitor="val/loss", save_top_k=5)
        >>> trainer = Trainer(callbacks=[keep, Ensemble("top-k", weighting="greedy")], logger=False)

    Source: Goodfellow et al. (2016), section 7.11; Karpathy (2019), "squeeze out the juice"

    Args:
        members: "top-k", "snapshots", or paths of checkpoints and git tags of kept runs.
        cycles: For snapshots, how many cosine cycles the learning rate goes through in the run, at least 2; None
            leaves the rate to the module's schedule.
        average: What is averaged: "probabilities" or "logits".
        weighting: "equal"; "fitted": the weights with the least loss on validation; "greedy": greedy selection with
            replacement on validation.
        criterion: What the winner is chosen by on validation: "loss" or "accuracy" (for regression the error).
        test: Whether to compare on the test set too, where there is one. Nothing is chosen by it.
        folder: Where to write; by default ``<log_dir>/ensemble``.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: An option is none of the allowed, or the members of a list cannot answer together.
        FileNotFoundError: A member of a list is not there; before training starts.
    """

    name = NAME
    source = 'Goodfellow et al. (2016), section 7.11; Karpathy (2019), "squeeze out the juice"'
    kind = "enforce"

    def __init__(
        self,
        members: Literal["top-k", "snapshots"] | list[str] = "top-k",
        cycles: int | None = None,
        average: Average = "probabilities",
        weighting: Weighting = "equal",
        criterion: Criterion = "loss",
        test: bool = True,
        folder: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        if members not in ("top-k", "snapshots") and (isinstance(members, str) or len(members) < 2):
            raise ValueError(
                f"Expected `members` to be 'top-k', 'snapshots' or at least 2 checkpoints, but got {members!r}."
            )
        if cycles is not None and (members != "snapshots" or isinstance(cycles, bool) or cycles < 2):
            raise ValueError(f"Expected `cycles` to be at least 2, with members='snapshots', but got {cycles!r}.")
        for option, value, allowed in (
            ("average", average, Average),
            ("weighting", weighting, Weighting),
            ("criterion", criterion, Criterion),
        ):
            if value not in get_args(allowed):
                raise ValueError(f"Expected `{option}` to be one of {', '.join(get_args(allowed))}, but got {value!r}.")
        self.members, self.cycles, self.average, self.weighting = members, cycles, average, weighting
        self.criterion, self.test, self.folder = criterion, test, folder
        self.comparison: Comparison | None = None
        self._cycles = Cycles(cycles)
        self._taken: list[str] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look at the members that are there already, before hours are spent on the others."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._cycles, self._taken, self.comparison = Cycles(self.cycles), [], None
        if isinstance(self.members, list):
            MemberFiles(self.members, pl_module, own=False)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find out whether rates can be set."""
        if self.members == "snapshots":
            self.observe(trainer, lambda: self._cycles.begin(trainer), lambda ranks: self._told_cycles())

    def _told_cycles(self) -> Iterable[Finding]:
        if self.cycles is not None:
            message = f"The learning rate goes through {self.cycles} cosine cycles; each ends with a snapshot."
            yield Finding(NAME, Severity.INFO, message, evidence={"cycles": self.cycles})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Set the rate, and take a snapshot where a cycle has ended."""
        if self.members == "snapshots" and not self._refused and self._cycles.ends(trainer):
            self._take(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the last snapshot."""
        if self.members == "snapshots" and not self._refused and trainer.global_step:
            self._take(trainer)

    def exhibits(self) -> list[Exhibit]:
        """The members and what was made of them, once they were compared."""
        return [] if self.comparison is None else exhibits_of(self.comparison)

    @property
    def _refused(self) -> bool:
        return self.cycles is not None and not self._cycles.base

    def _take(self, trainer: Any) -> None:
        path = f"{self._place(trainer)}/snapshot-{len(self._taken) + 1}.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        self._taken.append(path)

    def _place(self, trainer: Any) -> str:
        """The folder to write to; a collective, as the log folder is."""
        return self.folder or f"{trainer.log_dir or trainer.default_root_dir}/ensemble"

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare, and write the ensemble; what stands in the way is said, and training is not lost."""
        self._act(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """The same after ``validate``, for a list of checkpoints."""
        if isinstance(self.members, list) and trainer.state.fn.value == "validate":
            self._act(trainer, pl_module)

    def _act(self, trainer: Any, pl_module: Any) -> None:
        folder = self._place(trainer)

        def measure() -> tuple[Comparison, str]:
            files = self._files(trainer, pl_module)
            comparison, soups = compare_all(
                trainer, pl_module, files, self.test, self.average, self.weighting, self.criterion
            )
            unsaved = on_rank_zero(trainer, lambda: self._write(Path(folder), files, comparison, soups))
            return comparison, unsaved

        said: list[tuple[Comparison, str]] = []

        def judge(ranks: Sequence[tuple[Comparison, str]]) -> list[Finding]:
            said.append(ranks[0])
            return list(judged(*ranks[0], folder))

        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # validation runs in inference mode, whose tensors learn nothing
            self.observe(trainer, measure, judge)
        if said:
            self.comparison = said[0][0]
            if trainer.is_global_zero:
                print_comparison(self.comparison)

    def _files(self, trainer: Any, pl_module: Any) -> MemberFiles:
        if trainer.fast_dev_run:
            raise NotApplicable("fast_dev_run saves no checkpoints.")
        if isinstance(self.members, list):
            return MemberFiles(self.members, pl_module, own=False)
        paths = self._paths(trainer)
        absent = [path for of_rank in gather(trainer, [p for p in paths if not Path(p).is_file()]) for path in of_rank]
        if absent:
            raise NotApplicable(f"{absent[0]} is not there, or not on a disk that all ranks see.")
        return MemberFiles(paths, pl_module, own=True)

    def _paths(self, trainer: Any) -> list[str]:
        """The checkpoints of this run."""
        if self.members == "snapshots":
            if len(self._taken) < 2:
                raise NotApplicable(
                    f"{len(self._taken)} snapshot was taken: the learning rate has no cycles; set `cycles`."
                )
            return self._taken
        keepers = [one for one in trainer.checkpoint_callbacks if len(getattr(one, "best_k_models", {})) > 1]
        if not keepers:
            raise NotApplicable("no checkpoint callback has kept 2 or more: give it a `monitor` and `save_top_k=5`.")
        return sorted(keepers[0].best_k_models)

    def _write(self, folder: Path, files: MemberFiles, comparison: Comparison, soups: dict[str, Any]) -> str:
        """Write what was found; why the ensemble could not be saved, or nothing."""
        write_local(json.dumps(comparison.to_dict(), indent=1), folder / "comparison.json")
        if comparison.winner in soups:
            files.save_soup(folder / "soup.ckpt", soups[comparison.winner])
        try:
            weights = torch.tensor(comparison.weights)
            files.save_ensemble(folder / "ensemble.ckpt", comparison.reading, self.average, weights)
        except ValueError as error:
            return str(error)
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Findings, and the snapshots taken so far."""
        return {**super().state_dict(), "taken": self._taken, "cycles": self._cycles.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._taken = list(state_dict["taken"])
        self._cycles.restore(state_dict["cycles"])


def judged(comparison: Comparison, unsaved: str, folder: str) -> Iterable[Finding]:
    """What a comparison says.

    Args:
        comparison: All models side by side.
        unsaved: Why the ensemble could not be saved; empty where it was.
        folder: Where everything is.
    """
    split = "test" if "test" in comparison.differ else "val"
    ensemble, single = comparison.row(ENSEMBLE), comparison.rows[0]
    what = "accuracy" if comparison.reading.task != "regression" else "error"
    score = ensemble.scores[split]
    gain, half = ensemble.gains[split]
    message = (
        f"The ensemble of {len(comparison.members)} has {split} {what} {score.value:.4g} (95% interval {score.low:.4g} "
        f"to {score.high:.4g}), the single best {single.scores[split].value:.4g}, the mean of singles "
        f"{comparison.mean[split]['value']:.4g}; {comparison.winner} has the best validation {comparison.criterion}."
    )
    evidence = {f"{split}_gain": gain, f"{split}_gain_half_interval": half, "members": len(comparison.members)}
    advice = "" if unsaved else f"Use it: `test --ckpt_path {folder}/ensemble.ckpt`."
    yield Finding(NAME, Severity.INFO, message, advice, evidence=evidence)
    if comparison.differ["val"] == 0:
        message = f"All {len(comparison.members)} members give the same answers, so that averaging them changes little."
        advice = "Take members that differ: other seeds, folds, bootstrap samples or architectures."
        yield Finding(NAME, Severity.WARNING, message, advice, evidence={"disagreement": 0.0})
    if unsaved:
        yield Finding(NAME, Severity.WARNING, f"The ensemble was not saved: {unsaved}")

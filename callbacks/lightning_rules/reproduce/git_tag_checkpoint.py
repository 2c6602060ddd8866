"""The rule git-tag-checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from lightning_rules.finding import Finding, Severity
from lightning_rules.namespace import namespace_of
from lightning_rules.ranks import on_rank_zero
from lightning_rules.reproduce import checkpoint_tags, kept_files, run_files
from lightning_rules.reproduce.code_state import commit_of, continued, described, judge_code
from lightning_rules.reproduce.free_space import check_room
from lightning_rules.reproduce.proven_checkpoint import ProvenCheckpoint, Saved
from lightning_rules.rule import Rule
from lightning_rules.shards import shards

NAME = "git-tag-checkpoint"


class GitTagCheckpoint(Rule, ProvenCheckpoint):
    """Save checkpoints regularly and tie each kept one to the code that made it.

    Why: A checkpoint without its code is a guess: months later nobody knows which layers, which transforms and which
        options made it. And a save can fail without a word: the disk is full, the folder may not be written, a kill
        leaves half a file.

    What it does: All that Lightning's ``ModelCheckpoint`` does, whose place it takes, and:

        When training starts it notes commit, configuration, command, seed, versions and data of the run. Where the
        working tree differs from the commit, it makes a snapshot commit of it; working tree, index, branches and
        stash are not touched, and nothing is pushed. This record is in each checkpoint (``checkpoint["run_record"]``)
        and, with step, metrics and hash, beside it (``<checkpoint>.json``). Kept checkpoints get an annotated tag
        ``runs/<run>/<step>-<metric>=<value>`` on that commit, whose message holds the same; the tag goes when the
        checkpoint goes. ``restore`` brings code and weights of a tag back.

        A checkpoint is written beside its name, flushed, read back, compared and then renamed. Older ones are deleted
        only after the new ones, "last" among them, are proven. A file of another run is not overwritten (unless
        ``enable_version_counter`` is off), one that this run wrote before it was killed is. "last" is the newest
        whole file by its recorded step, not by the time of the file; it is also saved after epochs that are not
        among the best, which Lightning 2.6 leaves out. An instance that fits again starts over.

    Fires when: For information it tells the commit, what git could not do (the run goes on, the record stays), which
        files a snapshot leaves out, that the code has changed since the run began, and classes in the checkpoint
        that ``weights_only=True`` refuses. A warning tells of best checkpoints that are gone and of code that no
        commit holds. An error that ends the run on all ranks: a checkpoint that could not be saved or proven; a disk
        without room for the files that the run will keep, before training starts and before each save.

    Under DDP: Rank 0 writes, tags and deletes; all ranks wait for its verdict and fail together. Strategies that
        shard the parameters write their own files, which are then hashed.

    Cost: A save reads the file back and hashes it twice; see benchmarks/RESULTS.md. A tag takes some ten
        milliseconds. While a file is replaced, the disk holds both.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> keep = GitTagCheckpoint(dirpath="runs/digits", monitor="val/loss", save_last=True)
        >>> trainer = Trainer(callbacks=[keep], logger=False)
        >>> trainer.checkpoint_callbacks == [keep]
        True

    Source: Hui (2018), "How to start a deep learning project", on checkpoints

    Args:
        dirpath: Folder of the checkpoints, or an address that fsspec knows; by default below the logger's folder.
        filename: Pattern of their names, such as "{epoch}-{step}".
        monitor: The logged metric that says which are best; without one the newest counts.
        verbose: Whether to log each decision.
        save_last: Whether to keep the last state in "last.ckpt": True, "link" (a link to the newest), or not.
        save_top_k: How many of the best to keep; -1 keeps all, 0 none.
        save_on_exception: Whether to save when training fails.
        save_weights_only: Whether to leave out optimisers, schedulers and callbacks; such a file cannot be resumed.
        mode: Whether the smallest ("min") or the largest ("max") metric is best.
        auto_insert_metric_name: Whether names hold "metric=value" rather than the value.
        every_n_train_steps: Save each so many optimiser steps; excludes the next two.
        train_time_interval: Save after each such time; excludes its neighbours.
        every_n_epochs: Save each so many epochs; by default each.
        save_on_train_epoch_end: Whether to save after training rather than after validation; by default as suits.
        enable_version_counter: Whether "-v1" is appended to a name that another file has, instead of replacing it.
        policy: Which checkpoints get tags. "best": those that ``save_top_k`` keeps (without ``monitor``, the newest).
            "all": also "last" and those saved on exceptions. "none": none.
        require_clean: Whether to refuse to train where the working tree differs from the last commit.
        margin: Room on the disk to ask for beyond what is needed, as a fraction: 0.1 asks for 10% more.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`. Saves that fail always raise.

    Raises:
        ValueError: ``policy``, ``mode`` or ``margin`` is none of the allowed.
        MisconfigurationException: Options that ``ModelCheckpoint`` refuses.
        OSError: At the start of a fit or at a save, that there is no room or that writing failed; on all ranks.
        RuntimeError: The state cannot be saved; or the tree is dirty and ``require_clean`` is set; on all ranks.
    """

    name = NAME
    source = 'Hui (2018), "How to start a deep learning project", on checkpoints'
    kind = "enforce"

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: Literal["min", "max"] = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        policy: Literal["best", "all", "none"] = "best",
        require_clean: bool = False,
        margin: float = 0.1,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        Rule.__init__(self, on_error)
        if policy not in ("best", "all", "none"):
            raise ValueError(f"Expected `policy` to be 'best', 'all' or 'none', but got {policy!r}.")
        if isinstance(margin, bool) or not 0 <= margin < float("inf"):
            raise ValueError(f"Expected `margin` to be a fraction such as 0.1, but got {margin!r}.")
        ProvenCheckpoint.__init__(
            self, dirpath, filename, monitor, verbose, save_last, save_top_k, save_on_exception, save_weights_only,
            mode, auto_insert_metric_name, every_n_train_steps, train_time_interval, every_n_epochs,
            save_on_train_epoch_end, enable_version_counter,
        )  # fmt: skip
        # ModelCheckpoint keeps these under other names, and None as what it stands for.
        self.every_n_train_steps, self.train_time_interval = every_n_train_steps, train_time_interval
        self._given_every_n_epochs = every_n_epochs
        self.save_on_train_epoch_end, self.enable_version_counter = save_on_train_epoch_end, enable_version_counter
        self.policy, self.require_clean, self.margin = policy, require_clean, margin
        self._record_before: dict[str, Any] | None = None
        self._folder_of_code = "."

    @property
    def every_n_epochs(self) -> int | None:
        """What was given; None means each epoch, unless steps or a time are given."""
        return self._given_every_n_epochs

    @property
    def state_key(self) -> str:
        """As of ``ModelCheckpoint``: what is monitored and when, so that other options may change at a resume."""
        return str(ProvenCheckpoint.state_key.fget(self))  # type: ignore[attr-defined]

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the folder; a fit from the first step is a new run."""
        Rule.setup(self, trainer, pl_module, stage)
        if stage == "fit":
            self._record_before = self.run_record if trainer.global_step else None
        ProvenCheckpoint.setup(self, trainer, pl_module, stage)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A fit goes on with the record of the run that it resumes."""
        before = checkpoint.get("run_record")
        if trainer.state.fn.value == "fit" and isinstance(before, dict):
            self.run_record = self._record_before = before

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look after the files of an earlier session, ask for room, and say what checkpoints are tied to."""
        gone = self._begin(trainer)
        if trainer.fast_dev_run:
            self._say(trainer, [Finding(NAME, Severity.INFO, "Does not apply: fast_dev_run saves no checkpoints.")])
            return
        self._note_run(trainer, pl_module)
        on_rank_zero(trainer, lambda: check_room(self, trainer, pl_module))
        found = judge_code(NAME, self.run_record or {}, self._record_before)
        self._say(trainer, [*found, *kept_files.told_gone(NAME, gone), *_odd(self, trainer)])
        self._remove_replaced(trainer)

    def _note_run(self, trainer: Any, pl_module: Any) -> None:
        """One record for all rules of this class in a run."""
        self._folder_of_code = os.getcwd()
        first = next(callback for callback in trainer.callbacks if isinstance(callback, GitTagCheckpoint))
        if first is not self:
            self.run_record = first.run_record
        else:
            now, before = on_rank_zero(trainer, lambda: described(trainer, pl_module)), self._record_before
            self.run_record = continued(now, before) if before else now
        code = (self.run_record or {}).get("code", {})
        if self.require_clean and (code.get("dirty") or not code.get("commit")):
            reason = "differs from the last commit" if code.get("commit") else f"has no commit ({code.get('why_not')})"
            raise RuntimeError(
                f"{NAME}: The code {reason}, and `require_clean` is set; commit it, or unset the option."
            )

    def _say(self, trainer: Any, found: list[Finding]) -> None:
        """Findings that all ranks hold alike."""
        self.observe(trainer, lambda: found, lambda of_ranks: of_ranks[0])

    def _on_proven(self, trainer: Any, saved: Saved) -> None:
        """Rank 0 tags while the others wait; what git refuses is said once."""
        self.observe(
            trainer,
            lambda: self._tag(saved) if trainer.is_global_zero else [],
            lambda of_ranks: [*of_ranks[0], *_told_refused(saved.file.refused)],
        )

    def _tag(self, saved: Saved) -> list[Finding]:
        """Tag a kept checkpoint, and note the tag beside it; the tag of the file that it replaced goes."""
        troubles = [self._delete_tag(saved.replaced)]
        path, record = saved.file.path, saved.record
        kept = path in self.best_k_models or (self.monitor is None and path == self.best_model_path)
        wanted = self.policy == "all" or (self.policy == "best" and kept)
        name = None
        if wanted and commit_of(record.get("code", {})):
            score = record["metrics"].get(self.monitor) if self.monitor else None
            name, trouble = checkpoint_tags.tag_checkpoint(self._folder_of_code, record, self.monitor, score)
            troubles.append(trouble)
        if name or (saved.replaced or {}).get("tag"):
            try:
                run_files.write_record({**record, "tag": name}, path)
            except OSError as error:
                troubles.append(str(error))
        return [_no_tag(trouble) for trouble in troubles if trouble]

    def _delete_tag(self, record: dict[str, Any] | None) -> str:
        if record is None or not record.get("tag"):
            return ""
        return checkpoint_tags.delete_tag(self._folder_of_code, record["tag"], record["id"])

    def _on_replaced(self, trainer: Any, paths: list[str]) -> None:
        """Delete checkpoints with their records and tags."""
        self.observe(
            trainer,
            lambda: [f for path in paths for f in self._delete(trainer, path)] if trainer.is_global_zero else [],
            lambda of_ranks: of_ranks[0],
        )

    def _delete(self, trainer: Any, path: str) -> list[Finding]:
        """Tag, checkpoint, record: what is left after a kill still tells what else has to go."""
        record = run_files.read_record(path)
        if record is not None and record.get("id") != (self.run_record or {}).get("id"):
            return [_not_deleted(f"{path} belongs to another run")]
        no_tag, trouble = self._delete_tag(record), kept_files.remove(trainer, path)
        return [*([_no_tag(no_tag)] if no_tag else []), *([_not_deleted(trouble)] if trouble else [])]

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save if asked to, unless a save was what failed; print what was found."""
        ProvenCheckpoint.on_exception(self, trainer, pl_module, exception)
        Rule.on_exception(self, trainer, pl_module, exception)

    def state_dict(self) -> dict[str, Any]:
        """Findings, the kept files, when the last was saved, and which are still to be deleted."""
        return {**Rule.state_dict(self), **ProvenCheckpoint.state_dict(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; files of another folder stay known, and are never deleted there."""
        Rule.load_state_dict(self, state_dict)
        ProvenCheckpoint.load_state_dict(self, state_dict)


def _odd(keep: GitTagCheckpoint, trainer: Any) -> list[Finding]:
    found = []
    if shards(trainer):
        strategy = type(trainer.strategy).__name__
        message = f"{strategy} shards the state and writes it by itself; the files are then hashed."
        found.append(Finding(NAME, Severity.INFO, message))
    if not isinstance(keep, namespace_of(trainer).callbacks.ModelCheckpoint):
        message = "The Trainer of pytorch_lightning does not know this rule as a checkpoint, and adds a second one."
        advice = "Import pytorch_lightning before lightning_rules."
        found.append(Finding(NAME, Severity.WARNING, message, advice))
    return found


def _told_refused(refused: Sequence[str]) -> list[Finding]:
    """Classes that a safe load does not make."""
    if not refused:
        return []
    kinds = ", ".join(refused)
    message = (
        f"Checkpoints hold values of {kinds}, which `weights_only=True` refuses; resume with `weights_only=False`."
    )
    return [Finding(NAME, Severity.INFO, message, "Keep hyperparameters and states to numbers, strings and tensors.")]


def _no_tag(trouble: str) -> Finding:
    message = f"A tag was not made or not deleted: {trouble.rstrip('.')}."
    return Finding(NAME, Severity.INFO, message, "The run goes on; the record is in the checkpoint and beside it.")


def _not_deleted(trouble: str) -> Finding:
    message = f"An old checkpoint was not deleted: {trouble.rstrip('.')}."
    return Finding(NAME, Severity.WARNING, message, "Delete it by hand, before the disk is full.")

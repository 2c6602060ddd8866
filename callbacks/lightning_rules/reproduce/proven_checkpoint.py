"""Lightning's ModelCheckpoint with saves that are proven, and removals that wait for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import proxy

from lightning_rules.namespace import checkpoint_bases
from lightning_rules.ranks import on_rank_zero
from lightning_rules.reproduce import kept_files, run_files
from lightning_rules.reproduce.checkpoint_file import SavedFile
from lightning_rules.reproduce.free_space import check_free_space
from lightning_rules.reproduce.proven_save import is_remote, save_proven

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint
else:
    # One class for the Trainers of both namespaces; its name is not that of Lightning's, which command lines look up.
    ModelCheckpoint = type("ModelCheckpointOfBoth", checkpoint_bases(), {})


@dataclass(frozen=True)
class Saved:
    """A proven checkpoint.

    Attributes:
        file: Path, hash and size.
        record: What stands beside it: the run's record, the file, step, epoch and metrics.
        replaced: The record of the file whose place it took, where this run wrote that too.
    """

    file: SavedFile
    record: dict[str, Any]
    replaced: dict[str, Any] | None


class ProvenCheckpoint(ModelCheckpoint):
    """What :class:`~lightning_rules.GitTagCheckpoint` does with files; git and findings are its own part.

    At any moment the folder holds, whole, every file that the newest "last" names: a checkpoint is written beside,
    proven and renamed; "last" likewise; and only then is deleted what they replace.
    """

    margin: float = 0.0
    enable_version_counter: bool = True
    run_record: dict[str, Any] | None = None
    _size = 0
    _failed = False
    _found_folder: Any = None

    def __init__(self, *arguments: Any) -> None:
        ModelCheckpoint.__init__(self, *arguments)
        self._removals: list[str] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the folder; a fit from the first step starts over."""
        if stage == "fit" and trainer.global_step == 0:
            kept_files.start_over(self)
            self._removals, self._size, self._failed, self.run_record = [], 0, False, None
            if self._found_folder is not None and self.dirpath == self._found_folder:
                self.dirpath = None
        given = self.dirpath
        ModelCheckpoint.setup(self, trainer, pl_module, stage)
        if given is None:
            self._found_folder = self.dirpath

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The record goes into whatever is saved, by whomever."""
        if self.run_record is not None:
            checkpoint["run_record"] = self.run_record

    def _begin(self, trainer: Any) -> list[str]:
        """Make the folder, and find the files of an earlier session; those of the best that are gone."""
        ModelCheckpoint.on_train_start(self, trainer, trainer.lightning_module)
        if trainer.fast_dev_run:
            return []
        on_rank_zero(trainer, lambda: kept_files.prepare_folder(str(self.dirpath)))
        return kept_files.follow(self, on_rank_zero(trainer, lambda: kept_files.find(self)))

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        """Save, prove, write the record beside, and only then tell others."""
        before = self._last_global_step_saved, self._last_checkpoint_saved
        # They are part of the state: a resumed run does not save the same step again.
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
        metrics = kept_files.plain_metrics(trainer)
        try:
            overwrite = on_rank_zero(trainer, lambda: self._make_way(filepath))
            extra = {"run_record": self.run_record}
            file = save_proven(trainer, filepath, self.save_weights_only, extra=extra, overwrite=overwrite)
            record = self._record_beside(trainer, file, metrics)
            replaced = on_rank_zero(trainer, lambda: kept_files.replace_record(record, filepath))
        except BaseException:
            self._last_global_step_saved, self._last_checkpoint_saved = before
            self._failed = True
            raise
        self._size = file.bytes
        self._on_proven(trainer, Saved(file, record, replaced))
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def _make_way(self, filepath: str) -> bool:
        """Ask for room and make a missing subfolder; whether a file that stands there may be replaced."""
        if is_remote(filepath):
            return True
        check_free_space(str(self.dirpath), self._size, 1, self.margin)
        kept_files.make_subfolder(str(self.dirpath), filepath)
        return not self.enable_version_counter or kept_files.exists(filepath)

    def _record_beside(self, trainer: Any, file: SavedFile, metrics: dict[str, Any]) -> dict[str, Any]:
        checkpoint = {"path": file.path, "sha256": file.sha256, "bytes": file.bytes}
        progress = {"step": trainer.global_step, "epoch": trainer.current_epoch, "metrics": metrics}
        aim = {"monitor": self.monitor, "mode": self.mode}
        return {**(self.run_record or {}), "checkpoint": checkpoint, **progress, **aim, "tag": None}

    def _on_proven(self, trainer: Any, saved: Saved) -> None:
        """What else belongs to a save; all ranks are here."""

    @staticmethod
    def _link_checkpoint(trainer: Any, filepath: str, linkpath: str) -> None:
        """As Lightning's, but there is a link at any moment."""
        on_rank_zero(trainer, lambda: kept_files.link(filepath, linkpath))

    def file_exists(self, filepath: Any, trainer: Any) -> bool:
        """Whether a name is taken; what this run wrote there before it was killed is written again."""
        run, step, kept = (self.run_record or {}).get("id"), trainer.global_step, set(self.best_k_models)
        return on_rank_zero(trainer, lambda: kept_files.is_taken(self._fs, str(filepath), run, step, kept))

    def _remove_checkpoint(self, trainer: Any, filepath: str) -> None:
        """Later: after all that this hook saves is proven."""
        self._removals.append(filepath)

    def _remove_replaced(self, trainer: Any) -> None:
        wanted = {*self.best_k_models, self.best_model_path, self.last_model_path}
        removals, self._removals = [path for path in self._removals if path not in wanted], []
        if removals:
            self._on_replaced(trainer, removals)

    def _on_replaced(self, trainer: Any, paths: list[str]) -> None:
        """Delete them; all ranks are here."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time; then remove what was replaced."""
        ModelCheckpoint.on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx)
        self._remove_replaced(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save if it is time; then remove what was replaced."""
        ModelCheckpoint.on_train_epoch_end(self, trainer, pl_module)
        self._keep_last(trainer, self._should_save_on_train_epoch_end(trainer))
        self._remove_replaced(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save if it is time; then remove what was replaced."""
        ModelCheckpoint.on_validation_end(self, trainer, pl_module)
        self._keep_last(trainer, not self._should_save_on_train_epoch_end(trainer))
        self._remove_replaced(trainer)

    def _keep_last(self, trainer: Any, due: bool) -> None:
        """Save "last" also after an epoch that is not among the best; Lightning (2.6) leaves it as it was then."""
        epoch = self._every_n_epochs >= 1 and (trainer.current_epoch + 1) % self._every_n_epochs == 0
        if due and epoch and self.save_last is True and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the last state if there is none; then remove what was replaced."""
        if not trainer.fast_dev_run:  # Lightning (2.6) saves "last" there
            ModelCheckpoint.on_train_end(self, trainer, pl_module)
        self._remove_replaced(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save if asked to, unless a save was what failed."""
        if not self._failed:
            ModelCheckpoint.on_exception(self, trainer, pl_module, exception)
            self._remove_replaced(trainer)

    def _find_last_checkpoints(self, trainer: Any) -> set[str]:
        """For ``ckpt_path="last"``: the one that is newest by its record, and whole; else the newest of the best.

        A logger gives each start a new folder ("version_1"), in which Lightning finds nothing; then those beside it
        are looked through.
        """
        found = {str(path) for path in ModelCheckpoint._find_last_checkpoints(self, trainer)}
        if not found and self.dirpath is None and trainer.loggers:
            folder = self._ModelCheckpoint__resolve_ckpt_dir(trainer)  # type: ignore[attr-defined]
            found = run_files.last_of_other_versions(str(folder), self.CHECKPOINT_NAME_LAST, self.FILE_EXTENSION)
        local = {path for path in found if not is_remote(path)}
        newest = run_files.newest(local)
        if newest is None and local and not self.save_weights_only:
            newest = run_files.newest(run_files.others_beside(local))
        return {newest} if newest is not None else found - local

    def state_dict(self) -> dict[str, Any]:
        """The kept files, when the last was saved, and which are still to be deleted."""
        return {
            **ModelCheckpoint.state_dict(self),
            "last_global_step_saved": self._last_global_step_saved,
            "last_checkpoint_saved": self._last_checkpoint_saved,
            "removals": list(self._removals),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; files of another folder stay known, and are never deleted there."""
        if self.dirpath is None:
            self.dirpath = state_dict["dirpath"]
        best = dict(state_dict["best_k_models"])
        ModelCheckpoint.load_state_dict(self, {**state_dict, "dirpath": self.dirpath, "best_k_models": best})
        self.current_score = state_dict["current_score"]
        self._last_global_step_saved = state_dict["last_global_step_saved"]
        self._last_checkpoint_saved = state_dict["last_checkpoint_saved"]
        self._removals = list(state_dict["removals"])

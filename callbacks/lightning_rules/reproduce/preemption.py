"""Signals that end a run: noted when they arrive, obeyed by all ranks together between two batches."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import torch

from lightning_rules.namespace import namespace_of

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not finished, try again
TERMINATE, REQUEUE = 1, 2


class Signals:
    """Notes SIGTERM, and SLURM's requeue signal where Lightning listens to it, without acting at once.

    Lightning 2.6.6 calls collectives from inside its handlers, where another may be under way (two ranks then wait
    for each other for ever), and saves for SLURM in the middle of a step, from where nothing resumes exactly.

    Args:
        trainer: The run's Trainer, before Lightning has set its handlers.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.noted = 0
        self._signal = int(signal.SIGTERM)
        self._undo = ExitStack()
        connector, loop = trainer._signal_connector, trainer.fit_loop.epoch_loop
        self._requeue = connector._slurm_sigusr_handler_fn
        self._replace(connector, "_sigterm_notifier_fn", self._terminate)
        self._replace(connector, "_slurm_sigusr_handler_fn", self._note_requeue)
        # one exchange a batch, in place of Lightning's
        self._replace(loop, "_broadcast_sigterm_tensor", lambda: None)

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        vars(owner)[name] = function
        self._undo.callback(vars(owner).pop, name, None)

    def _terminate(self, number: int, frame: Any) -> None:
        launcher = getattr(self.trainer.strategy, "launcher", None)
        if not self.noted & TERMINATE and launcher is not None:
            launcher.kill(number)  # the other processes that this one has started
        self.noted |= TERMINATE

    def _note_requeue(self, number: int, frame: Any) -> None:
        self._signal = number
        self.noted |= REQUEUE

    def agreed(self) -> int:
        """What any rank has noted; the same on all. A collective, where there are several."""
        if self.trainer.world_size == 1 or not torch.distributed.is_initialized():
            return self.noted
        bits = [self.noted & TERMINATE, self.noted & REQUEUE]
        noted = torch.tensor(bits, device=self.trainer.strategy.root_device)
        torch.distributed.all_reduce(noted, op=torch.distributed.ReduceOp.MAX)
        return int(noted.sum())

    def requeue(self) -> None:
        """Let Lightning save for SLURM and requeue the job."""
        self.noted &= ~REQUEUE
        self._requeue(self._signal, None)

    def stop_listening(self) -> None:
        """Let Lightning handle signals itself again."""
        self._undo.close()


def ended_by_signal(trainer: Any) -> BaseException:
    """Lightning's exception for a run that was told to end, with an exit code of its own."""
    kind = import_module(f"{namespace_of(trainer).__name__}.utilities.exceptions").SIGTERMException
    exception: BaseException = kind()
    exception.code = EXIT_CODE  # type: ignore[attr-defined]
    return exception


def save_last(trainer: Any) -> str:
    """Save where ``ckpt_path="last"`` looks; a collective.

    Returns:
        The path of the checkpoint.
    """
    for keeper in trainer.checkpoint_callbacks:
        if hasattr(keeper, "_save_last_checkpoint"):
            asked, keeper.save_last = keeper.save_last, True
            try:
                keeper._save_last_checkpoint(trainer, keeper._monitor_candidates(trainer))
            finally:
                keeper.save_last = asked
            return str(keeper.last_model_path)
    path = os.path.join(trainer.default_root_dir, "last.ckpt")
    trainer.save_checkpoint(path)
    return path

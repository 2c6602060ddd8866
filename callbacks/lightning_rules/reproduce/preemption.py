"""Signals that end a run: noted when they arrive, obeyed by all ranks together between two batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import torch

from lightning_rules.namespace import namespace_of

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not finished, try again
TERMINATE, REQUEUE = 1, 2


class Signals:
    """Notes SIGTERM, and SLURM's requeue signal where Lightning listens to it, without acting at once.

    Lightning 2.6.6 calls collectives from inside the handler, where another collective may be under way, and saves
    for SLURM in the middle of a step; there nothing can be resumed exactly.

    Args:
        trainer: The run's Trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.noted = 0
        self._undo = ExitStack()
        self._requeue: Callable[[], Any] | None = None

    def listen(self) -> None:
        """Take the handlers' place, after Lightning has set its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        connector = self.trainer._signal_connector
        before = connector._original_handlers.get(signal.SIGTERM)
        launcher = getattr(self.trainer.strategy, "launcher", None)

        def terminate(number: int, frame: Any) -> None:
            if not self.noted and launcher is not None:
                launcher.kill(number)  # the other processes that this one has started
            self.noted |= TERMINATE
            if callable(before):
                before(number, frame)

        self._set(signal.SIGTERM, terminate)
        environment = self.trainer._accelerator_connector.cluster_environment
        if getattr(environment, "auto_requeue", False):
            number = environment.requeue_signal or signal.SIGUSR1
            self._requeue = lambda: connector._slurm_sigusr_handler_fn(number, None)
            self._set(number, lambda *_: self._note(REQUEUE))
        loop = self.trainer.fit_loop.epoch_loop
        # one exchange a batch, in place of Lightning's
        vars(loop)["_broadcast_sigterm_tensor"] = lambda: None
        self._undo.callback(vars(loop).pop, "_broadcast_sigterm_tensor", None)

    def _set(self, number: int, handler: Any) -> None:
        self._undo.callback(signal.signal, number, signal.getsignal(number))
        signal.signal(number, handler)

    def _note(self, what: int) -> None:
        self.noted |= what

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
        if self._requeue is not None:
            self._requeue()

    def stop_listening(self) -> None:
        """Give Lightning's handlers back."""
        self._undo.close()


def ended_by_signal(trainer: Any) -> BaseException:
    """Lightning's exception for a run that was told to end, with an exit code of its own."""
    kind = import_module(f"{namespace_of(trainer).__name__}.utilities.exceptions").SIGTERMException
    exception: BaseException = kind()
    exception.code = EXIT_CODE  # type: ignore[attr-defined]
    return exception

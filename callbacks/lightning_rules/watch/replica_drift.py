"""The rule replica-drift."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.batches import leaves
from lightning_rules.monitor import Finding, Monitor, NotApplicable, Sample, View
from lightning_rules.shards import refuse_shards
from lightning_rules.watch.bit_sums import SAMPLED, bit_sum, content_of, place_weights
from lightning_rules.watch.replicas import BATCHES, DIFFER, LOOKS, SAME_BATCH, ReplicaSeen, judge_ranks
from lightning_rules.watch.strided import is_plain, strided

SHOWN = 8  # elements of each parameter that ranks compare to tell how far apart they are
PARTS = 16  # tensors of a batch that are looked at


class ReplicaDrift(Monitor):
    """All ranks of a distributed run hold the same weights, and each of them trains on batches of its own.

    Why: Distributed data parallelism starts all ranks with the same weights and averages their gradients, so that they
        stay the same. What changes weights beside that (a reset, a step without synchronisation, a layer outside the
        wrapped module) makes as many half-trained networks as there are ranks, and a checkpoint holds one of them.
        Ranks that all see the same batch do the work of one.

    What it does: Every few dozen batches it sums the bits of each trainable parameter, all of them once wherever they
        are and a sample of 4,096 in its place, on the device; the ranks compare these sums, and a few weights to tell
        how far apart they are. At sampled batches it sums the bits of what `training_step` gets in the same way.
        Buffers such as running statistics may differ between ranks, and are not compared.

    Fires when: `replicas-differ`: a parameter is not the same on all ranks, by more than a ten-thousandth of its size
        (error; it names the first ones and since when); by less, as rounding on unlike hardware does, is only told.
        `same-batch-on-ranks`: 8 sampled batches in a row were the same on all ranks, and not always the same one
        (warning).

    Under DDP: What it is about; one process has no replicas. Strategies that shard the parameters (FSDP, DeepSpeed) and
        those that average them now and then (post-local SGD) make no such promise: does not apply, nor do strategies
        that are not Lightning's DDP. Parameters that DDP was told to ignore are left out.

    Cost: Parameters are read once at each look: 90 us for a two-layer MLP of 64-128-10 and 24 ms for a ResNet-18 on
        one core. 15 us for each tensor of a sampled batch. Ranks exchange about 50 bytes for each parameter at a look.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ReplicaDrift()], logger=False)

    Source: Li et al. (2020), "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 2.2.

    Args:
        overhead: Share of the training time that all monitors of a run may take together, above 0 and below 1; the
            least of all monitors counts.
        on_error: What an error does: ``"warn"`` logs it, ``"raise"`` stops the run, on all ranks alike.

    Raises:
        ValueError: An argument is out of its range.
    """

    name = "replica-drift"
    source = 'Li et al. (2020), "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 2.2'
    kind = "check"
    aspects = (DIFFER, SAME_BATCH)

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self._module: Any = None
        self._left_out: set[str] = set()
        self._weights: dict[torch.device, Tensor] = {}  # by device: numbers for the places of elements
        self._sums: list[tuple[int, Tensor]] = []  # of sampled batches since the last look
        self._batches: deque[tuple[int, int]] = deque(maxlen=BATCHES)
        self._looks: deque[tuple[int, int]] = deque(maxlen=LOOKS)

    def start(self, view: View) -> None:
        """Refuse runs in which nothing keeps replicas alike."""
        if view.trainer.world_size == 1:
            raise NotApplicable("the run has one process, and no replicas.")
        refuse_shards(view.trainer)
        refuse_loose_replicas(view.trainer.strategy)
        self._module = view.module
        self._left_out = set(getattr(view.module, "_ddp_params_and_buffers_to_ignore", ()))

    def before(self, sample: Sample) -> None:
        """Sum the bits of the batch."""
        tensors = [leaf for _, leaf in leaves(sample.batch)][:PARTS]
        sums = [bit_sum(leaf, self._places(leaf.device)) for leaf in tensors if is_plain(leaf)]
        known = [part for part in sums if part is not None and part.device == sums[0].device]  # type: ignore[union-attr]
        if known:
            places = self._places(known[0].device)[: len(known)]
            self._sums.append((sample.batch_number, (torch.stack(known) * places).sum()))

    def _places(self, device: torch.device) -> Tensor:
        if device not in self._weights:
            self._weights[device] = place_weights(SAMPLED, device)
        return self._weights[device]

    @torch.no_grad()
    def readings(self) -> Any:
        """Sums over the bits of parameters as they are now, and of the batches since the last look."""
        kinds: dict[torch.device, list[tuple[str, Tensor]]] = {}
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad and name not in self._left_out and is_plain(parameter):
                kinds.setdefault(parameter.device, []).append((name, parameter))
        names = [name for pairs in kinds.values() for name, _ in pairs]
        contents = [content_of([p for _, p in pairs], self._places(device)) for device, pairs in kinds.items()]
        shown = [torch.stack([_shown(p) for _, p in pairs]) for pairs in kinds.values()]
        sums, self._sums = self._sums, []
        return self._module.trainer.global_step, names, contents, shown, sums

    def take(self, readings: Any) -> ReplicaSeen:
        """Remember sums of the last looks and batches."""
        step, names, contents, shown, sums = readings
        content = torch.cat(contents) if contents else torch.zeros(0, 2, dtype=torch.int64)
        self._looks.append((step, int((content.flatten() * place_weights(content.numel(), content.device)).sum())))
        self._batches.extend((number, int(total)) for number, total in sums)
        values = torch.cat(shown) if shown else torch.zeros(0, SHOWN)
        return ReplicaSeen(names, content, values, list(self._looks), list(self._batches))

    def judge(self, ranks: Sequence[ReplicaSeen]) -> Iterable[Finding]:
        """See :func:`judge_ranks`."""
        return judge_ranks(ranks)

    def _release(self) -> None:
        super()._release()
        self._module, self._weights, self._sums = None, {}, []

    def state_dict(self) -> dict[str, Any]:
        """Findings, and the sums of the last looks; batches are another matter on each rank."""
        return {**super().state_dict(), "looks": list(self._looks)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._looks.extend((step, total) for step, total in state_dict["looks"])


def refuse_loose_replicas(strategy: Any) -> None:
    """Refuse strategies that do not keep replicas alike at every step.

    Raises:
        NotApplicable: It is not Lightning's DDP, or averages parameters instead of gradients.
    """
    if all(base.__name__ != "DDPStrategy" for base in type(strategy).__mro__):
        raise NotApplicable(f"nothing is known of how {type(strategy).__name__} keeps its replicas alike.")
    local = "LocalSGD" in type(getattr(strategy, "_ddp_comm_state", None)).__name__
    if local or getattr(strategy, "_model_averaging_period", None):
        raise NotApplicable("the strategy lets replicas part, and averages them every few steps.")


def _shown(parameter: Tensor) -> Tensor:
    """A few elements, ``[8]``; NaN where there are less."""
    sample = strided(parameter, SHOWN)
    values = parameter.new_full((SHOWN,), torch.nan, dtype=torch.float32)
    if sample is not None:
        values[: len(sample)] = sample
    return values

"""Batch norms: biases in vain before them, batches too small for them, recurrences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.layer_runs import BATCH_NORMS, LayerRun
from lightning_rules.preflight.model_seen import ModelSeen

BIAS, TINY, RECURRENT, STILL = "no-bias-before-norm", "tiny-batch-norm", "layer-norm-rnn", "still-batch-norm"
LAST = "last-batch-norm"
ALL_NEW = 0.9  # momentum from which running statistics are those of the last batch; other libraries mean 1 - momentum
TOO_FEW = 3  # examples a device: batch norm's error grows fast below 4 (Wu and He 2018, figure 1)
ONE_VALUE = "Expected more than 1 value per channel"  # what torch raises


@dataclass(frozen=True)
class NormsSeen:
    """The batch norms of one rank's step.

    Attributes:
        biased: Layers whose bias the batch norm after them subtracts, with the number of these parameters.
        smallest: Name, and examples over all devices it averages, of the batch norm in training mode that saw the
            fewest; None where there is none.
        last_batch: Examples in the last batch of an epoch; None where that is not known.
        flat: The first batch norm in training mode that gets one value a channel and example; "" for none.
        refused: Whether torch refused the batch: one value per channel.
        recurrent: Batch norms that get what depends on their own output, with the number of their runs.
        still: Batch norms in training mode whose running statistics never move, since their momentum is 0.
        forgetful: Batch norms in training mode whose running statistics are those of the last batch, with their
            momentum.
        batches: How many batches an epoch has.
    """

    biased: tuple[tuple[str, int], ...] = ()
    smallest: tuple[str, int] | None = None
    last_batch: int | None = None
    flat: str = ""
    refused: bool = False
    recurrent: tuple[tuple[str, int], ...] = ()
    still: tuple[str, ...] = ()
    forgetful: tuple[tuple[str, float], ...] = ()
    batches: float = 1


def measure(seen: ModelSeen, deadline: Deadline) -> NormsSeen:
    """The batch norms that ran in one step."""
    try:
        trace = seen.trace
    except ValueError as error:
        if ONE_VALUE in str(error):
            return NormsSeen(refused=True)
        raise
    norms = [run for run in trace.runs if isinstance(run.module, BATCH_NORMS) and run.inputs]
    made = {run.name: run for run in trace.runs}
    biased = [(run.source, _bias(made[run.source])) for run in norms if run.source in made]
    trained = [run for run in norms if run.training]
    kept = [run for run in trained if run.module.track_running_stats]
    momenta = [float(getattr(run.module, "momentum", None) or 0.0) for run in kept]  # None: averaged over all batches
    sizes = [(run.name, run.inputs[0] * _devices(run.module, seen.trainer)) for run in trained if run.inputs]
    counts = {run.name: sum(other.name == run.name for other in norms) for run in norms if run.recurs}
    return NormsSeen(
        tuple(dict.fromkeys((name, size) for name, size in biased if name is not None and size)),
        min(sizes, key=lambda pair: pair[1], default=None),
        last_batch(seen.trainer.train_dataloader, seen.trainer.num_training_batches),
        next((run.name for run in trained if _is_flat(run, trace.examples)), ""),
        recurrent=tuple(counts.items()),
        still=tuple(run.name for run in kept if run.module.momentum == 0),
        forgetful=tuple(
            (run.name, momentum) for run, momentum in zip(kept, momenta, strict=True) if momentum >= ALL_NEW
        ),
        batches=seen.trainer.num_training_batches,
    )


def _is_flat(run: LayerRun, examples: int) -> bool:
    """Whether it gets one value a channel and example."""
    return run.inputs is not None and len(run.inputs) == 2 and run.inputs[0] == examples


def _bias(run: LayerRun) -> int:
    """How many parameters of a layer's bias are in vain; 0 where others read its output too."""
    bias = getattr(run.module, "bias", None)
    plain = isinstance(run.module, (nn.Linear, nn.modules.conv._ConvNd)) and run.readers == 1
    return bias.numel() if plain and bias is not None and bias.requires_grad else 0


def _devices(norm: nn.Module, trainer: Any) -> int:
    return int(trainer.world_size) if isinstance(norm, nn.SyncBatchNorm) else 1


def last_batch(loader: Any, batches: float) -> int | None:
    """How many examples the last batch of an epoch has, as far as a plain DataLoader tells.

    Args:
        loader: The training loader.
        batches: How many batches of it an epoch takes.
    """
    size: int | None = getattr(loader, "batch_size", None)
    sampler: Any = getattr(loader, "sampler", None)
    if not size or not hasattr(sampler, "__len__") or not hasattr(loader, "drop_last"):
        return None
    examples = len(sampler)
    full = examples % size == 0 or loader.drop_last or batches * size < examples
    return int(size if full else examples % size)


def judge(ranks: Sequence[NormsSeen]) -> list[Finding]:
    """Findings on the first rank's layers and on the smallest batch of all ranks; pure."""
    first = ranks[0]
    return [*_judge_size(ranks), *_judge_bias(first), *_judge_recurrence(first), *_judge_momentum(first)]


def _judge_size(ranks: Sequence[NormsSeen]) -> list[Finding]:
    advice = "Use larger batches, GroupNorm or LayerNorm, or SyncBatchNorm over several devices."
    if any(rank.refused for rank in ranks):
        message = "A batch norm gets one value per channel (a batch of one example a device), which torch refuses."
        return [Finding(TINY, Severity.ERROR, message, advice)]
    for rank in ranks:
        if rank.flat and rank.last_batch == 1 and rank.smallest and rank.smallest[1] > 1:
            message = (
                f"The last batch of an epoch has 1 example: `{rank.flat}` gets one value a channel, and torch raises."
            )
            return [Finding(TINY, Severity.ERROR, message, "Set drop_last=True in the training loader.")]
    smallest = min((rank.smallest for rank in ranks if rank.smallest), key=lambda pair: pair[1], default=None)
    if smallest is None or smallest[1] > TOO_FEW:
        return []
    message = f"`{smallest[0]}` normalises over {smallest[1]} examples a device; its statistics are noise below 4."
    return [Finding(TINY, Severity.WARNING, message, advice, {"examples": smallest[1]})]


def _judge_bias(seen: NormsSeen) -> list[Finding]:
    if not seen.biased:
        return []
    count = sum(size for _, size in seen.biased)
    names = ", ".join(name for name, _ in seen.biased[:3]) + (" ..." if len(seen.biased) > 3 else "")
    message = f"{len(seen.biased)} layers before batch norms have biases ({names}), {count} parameters without effect."
    return [Finding(BIAS, Severity.INFO, message, "Set bias=False there.", {"layers": len(seen.biased)})]


def _judge_recurrence(seen: NormsSeen) -> list[Finding]:
    if not seen.recurrent:
        return []
    name, runs = max(seen.recurrent, key=lambda pair: pair[1])
    message = (
        f"`{name}` runs {runs} times in one step on what depends on its own output: one set of statistics for all."
    )
    advice = "Use LayerNorm in recurrences, or a batch norm for each step."
    return [Finding(RECURRENT, Severity.INFO, message, advice, {"runs": runs})]


def _judge_momentum(seen: NormsSeen) -> list[Finding]:
    if seen.forgetful and seen.batches > 1:
        name, momentum = seen.forgetful[0]
        message = (
            f"{len(seen.forgetful)} batch norms ({name}, ...) have momentum {momentum:.3g}: evaluation normalises with "
            f"the statistics of the last batch alone. torch's momentum is the share of the new batch, 0.1 by default; "
            f"TensorFlow and Keras give the share of the old, 0.99."
        )
        return [Finding(LAST, Severity.WARNING, message, "Set momentum to 0.1.", {"layers": len(seen.forgetful)})]
    if not seen.still:
        return []
    message = (
        f"{len(seen.still)} batch norms ({seen.still[0]}, ...) have momentum 0: what evaluation normalises with is "
        "never learnt. torch's momentum is the share of the new batch, 0.1 by default."
    )
    return [Finding(STILL, Severity.WARNING, message, "Set momentum to 0.1.", {"layers": len(seen.still)})]


PART = Part((BIAS, TINY, RECURRENT, STILL, LAST), measure, judge)

"""Whether ranks hold the same weights and see different batches: judged from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rules.finding import Finding, Severity

DIFFER, SAME_BATCH = "replicas-differ", "same-batch-on-ranks"
BATCHES = 8  # sampled batches in a row that have to be the same
LOOKS = 32  # that are remembered, to tell since when replicas differ
NAMED = 3  # parameters in a message
ROUNDING = 1e-4  # of the size of weights; replicas that part are farther apart after a few steps


@dataclass(frozen=True)
class ReplicaSeen:
    """What one rank holds and has seen.

    Attributes:
        names: Of its trainable parameters.
        content: Sums over their bits, ``[parameters, 2]``.
        shown: A few of their elements, ``[parameters, elements]``, NaN where there are less.
        looks: Steps of the last looks, each with a number for all parameters together.
        batches: Numbers of the last sampled batches, each with a number for its content.
    """

    names: list[str]
    content: Tensor
    shown: Tensor
    looks: list[tuple[int, int]]
    batches: list[tuple[int, int]]


def judge_ranks(ranks: Sequence[ReplicaSeen]) -> list[Finding]:
    """Findings of both kinds; pure."""
    return [*judge_replicas(ranks), *judge_batches(ranks)]


def judge_replicas(ranks: Sequence[ReplicaSeen]) -> list[Finding]:
    """Whether parameters are the same on all ranks, bit by bit."""
    first = ranks[0]
    if any(rank.names != first.names for rank in ranks):
        return [_unlike_modules(ranks)]
    unlike = torch.stack([(rank.content != first.content).any(1) for rank in ranks]).any(0)
    if not unlike.any():
        said = f"The {len(first.names)} trainable parameters are the same on all {len(ranks)} ranks, bit by bit."
        return [Finding(DIFFER, Severity.OK, said)] if first.names else []
    places: list[int] = unlike.nonzero().flatten().tolist()
    distance = max(_distance(first.shown[unlike], rank.shown[unlike]) for rank in ranks)
    since = next((step for step, totals in _together([rank.looks for rank in ranks]) if len(totals) > 1), 0)
    evidence = {"parameters": len(places), "of": len(first.names), "distance": distance, "since_step": since}
    names = ", ".join(f"`{first.names[place]}`" for place in places[:NAMED])
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    if not distance > ROUNDING:
        said = f"The replicas of {names}{more} differ between ranks by {distance:.1e} of their size, as rounding does."
        return [Finding(DIFFER, Severity.INFO, said, evidence=evidence)]
    said = (
        f"The {len(ranks)} replicas have drifted apart: {len(places)} of {len(first.names)} parameters differ between "
        f"ranks ({names}{more}), seen first at step {since}, and by {distance:.2g} of their size now; they should be "
        "the same bit by bit."
    )
    return [Finding(DIFFER, Severity.ERROR, said, ADVICE, evidence)]


ADVICE = (
    "Look for what changes weights beside the averaged gradients: layers that are made or reset after the strategy has "
    "wrapped the module (in on_fit_start or later) with a seed of each rank's own, a forward that goes around the "
    "wrapped module, `no_sync` or `toggle_model(sync_grad=False)` left on, or weights set by hand."
)


def _unlike_modules(ranks: Sequence[ReplicaSeen]) -> Finding:
    counts = [len(rank.names) for rank in ranks]
    known = set(ranks[0].names)
    odd = next((name for rank in ranks for name in rank.names if name not in known), None)
    odd = odd or next((name for rank in ranks for name in ranks[0].names if name not in set(rank.names)), "")
    said = (
        f"The ranks train different replicas: they have {', '.join(map(str, counts))} trainable parameters, and "
        f"`{odd}` is not among those of each rank."
    )
    advice = "Build and freeze the same layers on all ranks: nothing in the module may depend on the rank."
    return Finding(DIFFER, Severity.ERROR, said, advice, {"parameters": min(counts), "of": max(counts)})


def _distance(one: Tensor, other: Tensor) -> float:
    """How far apart weights are, as a share of their size; what is not finite, or not there, is left out."""
    known = one.isfinite() & other.isfinite()
    apart = (one - other)[known].abs().sum().item()
    return apart / max(one[known].abs().sum().item(), other[known].abs().sum().item(), 1e-30)


def _together(histories: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, set[int]]]:
    """What the ranks have at the moments that all of them know, in order of time."""
    tables = [dict(history) for history in histories]
    moments = [moment for moment, _ in histories[0] if all(moment in table for table in tables)]
    return [(moment, {table[moment] for table in tables}) for moment in moments]


def judge_batches(ranks: Sequence[ReplicaSeen]) -> list[Finding]:
    """Whether ranks see different batches, once enough have been sampled."""
    if len(ranks) < 2:
        return []
    seen = _together([rank.batches for rank in ranks])[-BATCHES:]
    if len(seen) < BATCHES:
        return []
    contents = set().union(*(totals for _, totals in seen))
    if any(len(totals) > 1 for _, totals in seen):
        return [Finding(SAME_BATCH, Severity.OK, f"The {len(ranks)} ranks train on batches of their own.")]
    if len(contents) < BATCHES // 2:
        return []  # always the same few: a full batch, or a batch that says nothing
    said = (
        f"All {len(ranks)} ranks were given the same examples in the last {BATCHES} sampled batches, up to batch "
        f"{seen[-1][0]}: {len(ranks)} processes do the work of one, where each should see a part of its own."
    )
    advice = (
        "Leave `use_distributed_sampler` of the Trainer on, or give the loader a DistributedSampler; a loader over an "
        "IterableDataset or with a batch sampler of its own has to pick the part of its rank itself."
    )
    return [Finding(SAME_BATCH, Severity.WARNING, said, advice, {"batches": BATCHES, "ranks": len(ranks)})]

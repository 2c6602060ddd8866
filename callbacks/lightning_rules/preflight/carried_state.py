"""An aspect of the model's audit: does a recurrent layer begin with what an unrelated batch has left?

Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", section 10.2: a sequence begins with a state of its
own; only where batches continue each other's sequences is the state handed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import RandomSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.loaders import each_loader
from lightning_rules.preflight.model_seen import ModelSeen

NAME = "carried-state"
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class StateSeen:
    """Where recurrent layers begin.

    Attributes:
        carried: Layers whose first state in a second step is the last one of the step before.
        shuffled: Whether each epoch draws the examples in a random order.
    """

    carried: tuple[str, ...] = ()
    shuffled: bool = False


def measure(seen: ModelSeen, deadline: Deadline) -> StateSeen:
    """Run two steps, one after the other, where there are recurrent layers; else nothing."""
    layers = [(name, part) for name, part in seen.module.named_modules() if isinstance(part, RECURRENT)]
    if not layers:
        return StateSeen()
    deadline.require(0.0, "two steps of a recurrent network")
    with seen.view.on_loan(), _states(layers) as (given, made):
        seen.view.loss(seen.batch, 0)
        ends = {name: states[-1] for name, states in made.items()}
        given.clear()
        seen.view.loss(seen.batch, 1)
        begins = {name: states[0] for name, states in given.items()}
    carried = tuple(name for name in begins if name in ends and _same(begins[name], ends[name]))
    loaders = each_loader(seen.trainer.train_dataloader)
    return StateSeen(carried, bool(loaders) and all(_is_shuffled(loader) for loader in loaders))


@contextmanager
def _states(layers: Sequence[tuple[str, nn.Module]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each layer the states that it is given and that it makes, in the order of its calls."""
    given: dict[str, list[list[Tensor]]] = {}
    made: dict[str, list[list[Tensor]]] = {}

    def watch(name: str) -> Any:
        def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[1] if len(args) > 1 else kwargs.get("hx")
            after = output[1] if isinstance(part, nn.RNNBase) else output
            given.setdefault(name, []).append(_tensors(before))
            made.setdefault(name, []).append(_tensors(after))

        return hook

    handles = [part.register_forward_hook(watch(name), with_kwargs=True) for name, part in layers]
    try:
        yield given, made
    finally:
        for handle in handles:
            handle.remove()


def _tensors(state: Any) -> list[Tensor]:
    return [one.detach().clone() for one in tree_leaves(state) if isinstance(one, Tensor)]


def _same(begins: list[Tensor], ends: list[Tensor]) -> bool:
    """Whether a state is another one, value for value, and not zero."""
    pairs = [(one, other) for one, other in zip(begins, ends, strict=False) if one.shape == other.shape]
    return len(pairs) == len(begins) > 0 and all(torch.equal(*pair) and bool(pair[0].any()) for pair in pairs)


def _is_shuffled(loader: Any) -> bool:
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, RandomSampler) or (isinstance(sampler, DistributedSampler) and sampler.shuffle)


def judge(ranks: Sequence[StateSeen]) -> list[Finding]:
    """A finding where a state is carried over, an alarm where batches are shuffled; pure."""
    carried = ranks[0].carried
    if not carried:
        return []
    names = ", ".join(f"`{name}`" for name in carried[:3])
    evidence = {"layers": len(carried)}
    if not all(rank.shuffled for rank in ranks):
        message = f"The recurrent state of {names} is carried from one batch to the next."
        return [Finding(NAME, Severity.INFO, message, "Batches must continue each other's sequences.", evidence)]
    message = (
        f"The recurrent state of {names} is carried from one batch to the next, though examples are shuffled: each "
        "sequence begins with the state that other, unrelated examples have left, and the output depends on them."
    )
    advice = (
        "Start each batch with a fresh state: pass none to the recurrent layer, or reset what the module keeps. Carry "
        "it only over batches that continue each other's sequences, in order."
    )
    return [Finding(NAME, Severity.WARNING, message, advice, evidence)]


PART = Part((NAME,), measure, judge)

"""What a rank alone knows of a run, gathered into the checkpoint that rank 0 writes."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rules.ranks import gather
from lightning_rules.reproduce import loop_position
from lightning_rules.reproduce.epoch_metrics import metrics_state, set_metrics_state
from lightning_rules.reproduce.generators import global_states, set_global_states
from lightning_rules.reproduce.seeded_batches import Pass, SeededBatches, is_stateful

RankState = dict[str, Any]


def gather_ranks(trainer: Any, batches: list[SeededBatches]) -> list[RankState]:
    """The state of every rank, in the order of ranks; on other ranks than 0 only their own.

    Rank 0 receives one rank after the other. What is large, gradients in flight and buffers, is sent only where it
    is not rank 0's.
    """
    module = trainer.lightning_module
    own = _own_state(trainer, batches)
    if trainer.world_size == 1:
        return [own]
    digests = {name: _digest(buffer) for name, buffer in _buffers(module)}
    first = gather(trainer, digests)[0]
    own["buffers"] = {name: buffer.cpu() for name, buffer in _buffers(module) if digests[name] != first.get(name)}
    return _send_to_first(trainer, own)


def _send_to_first(trainer: Any, own: RankState) -> list[RankState]:
    """One rank at a time, so that rank 0 holds one message in flight and no rank holds all."""
    states = [own]
    for rank in range(1, trainer.world_size):
        message = [own if trainer.global_rank == rank else None]
        if trainer.global_rank == 0:
            torch.distributed.recv_object_list(message, src=rank)
            states.append(message[0])  # type: ignore[arg-type]
        elif trainer.global_rank == rank:
            torch.distributed.send_object_list(message, dst=0)
    return states


def _own_state(trainer: Any, batches: list[SeededBatches]) -> RankState:
    module = trainer.lightning_module
    gradients = {}
    if loop_position.gradients_in_flight(trainer):
        gradients = {name: p.grad.detach().cpu() for name, p in module.named_parameters() if p.grad is not None}
    taken = loop_position.batches_done(trainer)
    passes = [current_pass(trainer, one) for one in batches]
    return {
        "random": global_states(),
        "loaders": [one.place(_taken_of(taken, len(one.batches))) if one else None for one in passes],
        "stateful": [one.state_dict() for one in trainer.fit_loop._combined_loader.flattened if is_stateful(one)],
        "reloads": loop_position.reloads(trainer),
        "gradients": gradients,
        "buffers": {},
        "metrics": metrics_state(trainer),
    }


def put_back(trainer: Any, state: RankState, batches: list[SeededBatches], *, running: bool) -> None:
    """The inverse, on this rank; ``running`` tells whether the epoch is under way."""
    module = trainer.lightning_module
    device = module.device
    set_metrics_state(trainer, state["metrics"], running=running)
    loop_position.set_reloads(trainer, state["reloads"])
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)
    with torch.no_grad():
        for name, value in state["buffers"].items():
            buffers[name].copy_(value.to(device))
    for one, place in zip(batches, state["loaders"], strict=False):
        if place is not None:
            one.go_on(place)
    set_global_states(state["random"])


def current_pass(trainer: Any, batches: SeededBatches) -> Pass | None:
    """The pass that training takes its batches from; None where there is none yet."""
    combined = trainer.fit_loop._combined_loader
    for iterator in getattr(getattr(combined, "_iterator", None), "iterators", []):
        found = getattr(iterator, "_sampler_iter", None)
        if isinstance(found, Pass) and found.batches is batches:
            return found
    return None


def _taken_of(done: int, length: int) -> int:
    """Batches taken of the current pass; a shorter loader beside a longer one begins again when it is exhausted."""
    return (done - 1) % length + 1 if done else 0


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer.detach()) for name, buffer in module.named_buffers() if not buffer.is_meta]


def _digest(tensor: Tensor) -> int:
    values: Any = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return zlib.crc32(values)

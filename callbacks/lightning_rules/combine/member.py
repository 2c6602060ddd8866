"""A member of an ensemble, wherever it comes from, and whether members can answer together."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from lightning_rules.combine.stored_module import build, description, load_module, named_class, read_checkpoint
from lightning_rules.repository.kept_runs import checkpoint_file
from lightning_rules.untouched import untouched

T = TypeVar("T")
# What a data module tells of classes and inputs, in its part of a checkpoint.
TOLD = ("class_names", "normalisation", "image_size", "in_chans")


@dataclass(frozen=True)
class Member:
    """A network and what is known of it.

    Attributes:
        name: What messages call it: its path, or its place among the members.
        module: The network, in evaluation mode; None where it is not kept in memory.
        classes: Its number of classes, where it has an attribute ``num_classes``.
        description: What makes it again, as in :func:`stored_module.description`; None where that is not known.
        facts: What its checkpoint tells of the data, by the name of the data module.
    """

    name: str
    module: Any
    classes: int | None = None
    description: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def member(source: Any, name: str, module_class: type | None = None) -> Member:
    """A member from a module, a checkpoint (its path, tag or run), or a description out of a saved ensemble.

    Args:
        source: One of these.
        name: What to call it where it has no path.
        module_class: Its class, where a checkpoint does not name it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or its module cannot be made.
        TypeError: The source is none of these.
    """
    if isinstance(source, nn.Module):
        return Member(name, source.eval(), _classes(source), description_of(source))
    if isinstance(source, (str, os.PathLike)):
        path = checkpoint_file(os.fspath(source))
        checkpoint = read_checkpoint(path)
        module = outside_of_cli(lambda: load_module(path, module_class))
        described = description(type(module), checkpoint)
        return Member(str(source), module, _classes(module), described, facts_of(checkpoint))
    if isinstance(source, Mapping):
        described = dict(source)
        found = module_class or named_class(described.get("hyper_parameters", {}), name)
        module = outside_of_cli(lambda: build(found, described, name)).eval()
        return Member(name, module, _classes(module), described)
    raise TypeError(f"Expected members to be modules or paths of checkpoints, but got {type(source).__name__}.")


def _classes(module: nn.Module) -> int | None:
    count = getattr(module, "num_classes", None)
    return count if isinstance(count, int) else None


def outside_of_cli(step: Callable[[], T]) -> T:
    """Run a step that makes modules, and draw no random number of the run.

    While LightningCLI makes an ensemble, its members would take the ensemble's hyperparameters for their own.
    """
    with untouched():
        return contextvars.Context().run(step)


def description_of(module: nn.Module) -> dict[str, Any] | None:
    """What makes a module again, from the hyperparameters that it has saved; None where it has saved none."""
    if not hasattr(module, "hparams"):
        return None
    saved: Any = module.hparams
    kept = {"hyper_parameters": dict(saved), "hparams_name": getattr(module, "_hparams_name", None)}
    add: Any = getattr(module, "on_save_checkpoint", None)
    with contextlib.suppress(Exception):  # anybody's code, which may look for more than is in here
        add(kept)  # as that of an ensemble, which tells of its members, or of a module that needs no download any more
    return description(type(module), kept)


def facts_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint tells of classes and inputs: the states of data modules that name them."""
    return {
        name: dict(state)
        for name, state in checkpoint.items()
        if name != "hyper_parameters" and isinstance(state, Mapping) and any(told in state for told in TOLD)
    }


def check_members(members: Sequence[Member]) -> dict[str, Any]:
    """The facts that all members share.

    Raises:
        ValueError: There are fewer than two, or they differ in number or order of classes or in what they expect of
            inputs; the message names the first that differs.
    """
    if len(members) < 2:
        names = f" ({members[0].name})" if members else ""
        raise ValueError(f"An ensemble needs at least 2 members, but got {len(members)}{names}: name more.")
    counted = [each for each in members if each.classes is not None]
    for each in counted[1:]:
        if each.classes != counted[0].classes:
            raise ValueError(
                f"{each.name} has {each.classes} classes, and {counted[0].name} has {counted[0].classes}: all members "
                "must have been trained on the same classes."
            )
    return _common_facts([each for each in members if each.facts])


def _common_facts(members: Sequence[Member]) -> dict[str, Any]:
    for each in members[1:]:
        for told in TOLD:
            first, other = _told(members[0], told), _told(each, told)
            if first is not None and other is not None and not _alike(first, other):
                raise ValueError(_difference(told, members[0], first, each, other))
    return dict(members[0].facts) if members else {}


def _told(one: Member, name: str) -> Any:
    return next((state[name] for state in one.facts.values() if state.get(name) is not None), None)


def _alike(first: Any, other: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        return first.keys() == other.keys() and all(_alike(first[key], other[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(first) == len(other) and all(map(_alike, first, other))
    if isinstance(first, float) and isinstance(other, (int, float)):
        return abs(first - other) <= 1e-5 * max(1.0, abs(first))
    return bool(first == other)


def _difference(told: str, one: Member, first: Any, another: Member, other: Any) -> str:
    if told == "class_names":
        shared = min(len(first), len(other))
        place = next((i for i in range(shared) if first[i] != other[i]), shared)
        numbers = f"class {place} is {_at(other, place)!r} to {another.name} and {_at(first, place)!r} to {one.name}"
        return f"Members know other classes or another order: {numbers}; train all on the same class folders."
    seen = f"{another.name} expects {told} {_short(other)}, and {one.name} {_short(first)}"
    return f"{seen}: an ensemble gives all members the same inputs; train them with the same {told}."


def _at(names: Sequence[Any], place: int) -> Any:
    return names[place] if place < len(names) else None


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

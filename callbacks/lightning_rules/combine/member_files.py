"""Members as checkpoints on the disk: one at a time is in memory, as a network that can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_rules.combine.averaging import Average
from lightning_rules.combine.ensemble_file import join_checkpoints, write_checkpoint
from lightning_rules.combine.member import Member, check_members, facts_of, member
from lightning_rules.combine.reading import Reading
from lightning_rules.combine.soup import same_architecture
from lightning_rules.combine.stored_module import build, description, load_module, read_checkpoint
from lightning_rules.repository.kept_runs import checkpoint_file
from lightning_rules.untouched import untouched


class MemberFiles:
    """Checkpoints whose networks are to answer together.

    Args:
        names: Their paths, or git tags or names of kept runs; at least two.
        owner: The module of the run. Checkpoints of this very run go into it, one after the other; others are made by
            the class they name, else by the owner's.
        own: Whether they are of this run.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: One is damaged, or not the one that was kept; or they cannot answer together; see
            :func:`member.check_members`.
    """

    def __init__(self, names: Sequence[str], owner: Any, own: bool) -> None:
        self.names = list(names)
        self.paths = [str(checkpoint_file(name)) for name in names]
        self.owner = owner
        self.own = own
        known = [replace(self._known(path, place), name=names[place]) for place, path in enumerate(self.paths)]
        self.facts = check_members(known)
        self.descriptions = [one.description for one in known]

    def _known(self, path: str, place: int) -> Member:
        """What there is to know of a member; its network is not kept."""
        if not self.own:
            return replace(member(path, f"member {place}", self._class_of(path)), module=None)
        checkpoint = read_checkpoint(path)
        return Member(path, None, None, description(type(self.owner), checkpoint), facts_of(checkpoint))

    def _class_of(self, path: str) -> type | None:
        named = read_checkpoint(path).get("hyper_parameters", {})
        return None if "_class_path" in named else type(self.owner)

    @contextmanager
    def loaded(self, place: int) -> Iterator[Any]:
        """A member's network, on the run's device, while the block runs."""
        if self.own:
            with self.with_weights(read_checkpoint(self.paths[place])["state_dict"]) as module:
                yield module
        else:
            yield load_module(self.paths[place], self._class_of(self.paths[place])).to(self.owner.device)

    @contextmanager
    def with_weights(self, state: Mapping[str, Tensor]) -> Iterator[Any]:
        """The first member's network with other weights, while the block runs."""
        if self.own:
            with untouched(self.owner):
                self.owner.load_state_dict(state, strict=getattr(self.owner, "strict_loading", True))
                yield self.owner
        else:
            module = load_module(self.paths[0], self._class_of(self.paths[0])).to(self.owner.device)
            module.load_state_dict(state)
            yield module

    def states(self) -> list[Mapping[str, Tensor]]:
        """The members' weights, which stay on the disk until they are used."""
        return [read_checkpoint(path)["state_dict"] for path in self.paths]

    @property
    def alike(self) -> bool:
        """Whether all are of one architecture, with other weights: their mean is a network too."""
        return same_architecture(self.states())

    def save_ensemble(self, path: Path, reading: Reading, average: Average, weights: Tensor) -> None:
        """Write the ensemble to one file; members of weight 0 are left out.

        Raises:
            ValueError: The members cannot be made again from their hyperparameters.
            OSError: The file cannot be written.
        """
        chosen = [place for place, weight in enumerate(weights.tolist()) if weight > 0]
        chosen = chosen if len(chosen) > 1 else list(range(len(weights)))
        checkpoints = [read_checkpoint(self.paths[place]) for place in chosen]
        described = [one for place in chosen if (one := self.descriptions[place]) is not None]
        if self.own:
            _refuse_other(build(type(self.owner), described[0], self.paths[0]), self.owner)
        join_checkpoints(checkpoints, described, reading, average, weights[chosen], self.facts, path)

    def save_soup(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Write a soup as a checkpoint of the members' class.

        Raises:
            OSError: The file cannot be written.
        """
        first = read_checkpoint(self.paths[0])
        kept = {name: value for name, value in first.items() if name.startswith(("hyper_parameters", "hparams"))}
        write_checkpoint({**kept, **self.facts, "state_dict": state}, path)


def _refuse_other(again: Any, owner: Any) -> None:
    """Refuse hyperparameters that make another network than the one that was trained."""
    if not same_architecture([again.state_dict(), owner.state_dict()]):
        raise ValueError(
            f"{type(owner).__name__} made again from its hyperparameters has other layers than the one that was "
            "trained: call `self.save_hyperparameters()` first in its `__init__`, with all arguments."
        )


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of a module's weights on the host."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

"""The rule recurrent-init."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_rules.finding import Finding, Severity
from lightning_rules.fresh_weights import is_as_drawn, is_plain, named_layers, seed_of
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.shards import refuse_shards

NAME = "recurrent-init"
KINDS = (nn.RNNBase, nn.RNNCellBase)
CONNECTIONS = 15  # incoming connections of a unit that are not zero: Martens (2010), Sutskever et al. (2013)
FORGET = 1.0  # the total bias of a forget gate: Gers et al. (2000), Jozefowicz et al. (2015)


@dataclass(frozen=True)
class LayerSeen:
    """What one rank knows of one recurrent layer.

    Attributes:
        name: Its path in the module.
        kind: Its class.
        seed: What the new weights are drawn from.
        refusal: Why its recurrent weights are left alone; empty where they are to be set.
        forget: Whether it has forget gates whose bias is to be set.
    """

    name: str
    kind: str
    seed: int = 0
    refusal: str = ""
    forget: bool = False


class RecurrentInit(Rule):
    """Recurrent weights start orthogonal gate by gate, and LSTM forget gates start open.

    Why: A signal that passes the recurrent weights once a time step grows or dies by their spectral radius to the
        power of the sequence's length; torch's default, uniform in ±1/√(hidden size), starts near a radius of 0.58
        and forgets within a few steps. A forget gate that starts half closed halves the memory at each step.

    What it does: Before the first step, sets the hidden-to-hidden weights of each fresh ``nn.RNN``, ``nn.LSTM``,
        ``nn.GRU`` and of the cells, of every layer and direction. ``"orthogonal"`` draws an orthogonal matrix for each
        gate (with ``proj_size``, one with orthonormal columns, and a projection with orthonormal rows); ``"sparse"``
        draws 15 incoming connections a unit from a normal distribution and scales each gate's matrix to
        ``spectral_radius`` (with ``proj_size``, the product with the projection). The forget gates' biases become 1 in
        total: torch adds two biases, one is set to 1 and the other to 0. Input weights and other biases stay.

    Fires when: It never alarms. It says what it set, or why it left a layer alone: its weights are not as torch draws
        them (they were loaded, trained, or set by the author), they are frozen or computed from others, or the run is
        resumed. A forget-gate bias that the author set is left alone too.

    Under DDP: The weights are drawn from a generator seeded by rank 0's own initial weights: the same on all ranks and
        in one process, and the global generators stay where they were. Sharded strategies (FSDP, DeepSpeed): does not
        apply.

    Cost: One decomposition of each gate's matrix before the first step; nothing afterwards.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RecurrentInit()], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 8.4, 10.8 and 10.10.2. Orthogonal:
        Saxe et al. (2014). Sparse: Sutskever et al. (2013). Forget gates: Gers et al. (2000), Jozefowicz et al. (2015).

    Args:
        method: ``"orthogonal"``, or ``"sparse"`` with a given spectral radius.
        spectral_radius: The largest absolute eigenvalue of each gate's matrix under ``"sparse"``, above 0.
        layers: Names of recurrent layers, as in ``named_modules()``, that are set whatever they hold; None: all that
            are as torch draws them.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: An argument is out of range, or (when the fit starts) ``layers`` names no recurrent layer.
    """

    name = NAME
    source = 'Goodfellow, Bengio and Courville (2016), "Deep Learning", sections 8.4, 10.8 and 10.10.2'
    kind = "enforce"

    def __init__(
        self,
        method: Literal["orthogonal", "sparse"] = "orthogonal",
        spectral_radius: float = 1.2,
        layers: list[str] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        if method not in ("orthogonal", "sparse"):
            raise ValueError(f"Expected `method` to be 'orthogonal' or 'sparse', but got {method!r}.")
        if not 0 < spectral_radius < float("inf"):
            raise ValueError(f"Expected `spectral_radius` to be above 0, but got {spectral_radius}; 1.2 is usual.")
        self.method = method
        self.spectral_radius = spectral_radius
        self.layers = layers

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the layers, then set those that are fresh."""
        named = named_layers(pl_module, self.layers, KINDS)
        plans: list[LayerSeen] = []

        def judge(ranks: Sequence[list[LayerSeen]]) -> list[Finding]:
            plans.extend(ranks[0])
            return [self._told(plan) for plan in plans]

        self.observe(trainer, lambda: see_layers(trainer, named, self.layers is not None), judge)
        for plan in plans:
            if not plan.refusal:
                generator = torch.Generator().manual_seed(plan.seed)
                radius = self.spectral_radius if self.method == "sparse" else None
                set_recurrent(named[plan.name], radius, generator)
            if plan.forget:
                set_forget_bias(named[plan.name])

    def _told(self, plan: LayerSeen) -> Finding:
        how = "orthogonal" if self.method == "orthogonal" else f"sparse with spectral radius {self.spectral_radius:g}"
        forget = "the forget gates' bias to 1" if plan.forget else ""
        where = f"`{plan.name}` ({plan.kind})"
        if plan.refusal:
            message = f"The recurrent weights of {where} were left alone: {plan.refusal}"
            message += f" Set {forget}." if forget else ""
        else:
            message = f"Set the recurrent weights of {where} gate by gate to {how}" + (
                f", {forget}." if forget else "."
            )
        evidence = {"recurrent_weights_set": not plan.refusal, "forget_bias_set": plan.forget}
        return Finding(NAME, Severity.INFO, message, evidence=evidence)


def see_layers(trainer: Any, named: dict[str, Any], asked: bool) -> list[LayerSeen]:
    """Look at each recurrent layer.

    Raises:
        NotApplicable: The run is resumed or sharded, or there is no recurrent layer.
    """
    if trainer.global_step > 0 or trainer.ckpt_path:
        raise NotApplicable("the run is resumed, and its recurrent weights go on from where they were.")
    refuse_shards(trainer)
    if not named:
        raise NotApplicable("the module has no recurrent layer of torch (RNN, LSTM, GRU or their cells).")
    return [see_layer(name, layer, asked) for name, layer in named.items()]


def see_layer(name: str, layer: Any, asked: bool) -> LayerSeen:
    """Look at one layer; ``asked``: the user named it, so that its values do not matter."""
    kind = type(layer).__name__
    bound = layer.hidden_size**-0.5
    weights = [key for key in layer._parameters if key.startswith("weight_")]
    forget = _forget_biases(layer)
    fresh_bias = asked or is_as_drawn([part for pair in forget for part in pair], bound) if forget else False
    if len(weights) < 2 or is_parametrized(layer) or not is_plain(layer, weights):
        return LayerSeen(name, kind, refusal="they are frozen or computed from other parameters.")
    if not asked and not is_as_drawn([getattr(layer, key) for key in weights], bound):
        return LayerSeen(name, kind, refusal="they are not as torch draws them (loaded, trained or set on purpose).")
    return LayerSeen(name, kind, seed_of(getattr(layer, weights[1])), forget=fresh_bias)


def _forget_biases(layer: Any) -> list[tuple[Tensor, Tensor]]:
    """The forget gates' part of each pair of biases of an LSTM; torch orders the gates input, forget, cell, output."""
    own = layer._parameters
    if not isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        return []
    pairs = [(key, key.replace("bias_ih", "bias_hh")) for key in own if key.startswith("bias_ih")]
    gate = slice(layer.hidden_size, 2 * layer.hidden_size)
    return [(own[first][gate], own[second][gate]) for first, second in pairs if is_plain(layer, (first, second))]


@torch.no_grad()
def set_forget_bias(layer: Any) -> None:
    """Open the forget gates of every layer and direction: 1 in total."""
    for first, second in _forget_biases(layer):
        first.fill_(FORGET)
        second.zero_()


@torch.no_grad()
def set_recurrent(layer: Any, radius: float | None, generator: torch.Generator) -> None:
    """Draw the recurrent weights anew, gate by gate.

    Args:
        layer: A recurrent layer or cell of torch.
        radius: The spectral radius of sparse matrices; None for orthogonal ones.
        generator: On the host.
    """
    for recurrent, projection in _matrices(layer):
        loop = projection.float().cpu() if projection is not None else None  # [state, hidden]
        if projection is not None and radius is None:
            nn.init.orthogonal_(loop := torch.empty(projection.shape), generator=generator)
            projection.copy_(loop)
        gates = recurrent.shape[0] // layer.hidden_size
        blocks = [_block(recurrent.shape[1], layer.hidden_size, loop, radius, generator) for _ in range(gates)]
        recurrent.copy_(torch.cat(blocks))


def _matrices(layer: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Each hidden-to-hidden weight ``[gates × hidden, state]``, with its projection ``[state, hidden]`` if any."""
    own = layer._parameters
    for key in own:
        if key.startswith("weight_hh"):
            yield own[key], own.get(key.replace("weight_hh", "weight_hr"))


def _block(state: int, hidden: int, loop: Tensor | None, radius: float | None, generator: torch.Generator) -> Tensor:
    """One gate's matrix ``[hidden, state]``; ``loop`` leads from the hidden units back to the state."""
    if radius is None:
        return nn.init.orthogonal_(torch.empty(hidden, state), generator=generator)
    # Not nn.init.sparse_: it draws the places of the zeros from the global generator, whatever it is given (2.15).
    places = torch.rand(hidden, state, generator=generator).argsort(1)[:, :CONNECTIONS]
    block = torch.zeros(hidden, state).scatter_(1, places, torch.randn(places.shape, generator=generator))
    cycle = block if loop is None else loop @ block
    largest = float(torch.linalg.eigvals(cycle).abs().max())
    return block * (radius / largest) if largest > 0 else block

"""The rule freeze-by-size."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.data import DataLoader, SubsetRandomSampler

from lightning_rules.finding import Finding, Severity
from lightning_rules.fresh_weights import is_as_drawn
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.shards import refuse_shards
from lightning_rules.untouched import untouched

NAME = "freeze-by-size"
LAST = 3  # one in so many stages is trained on data of medium size


@dataclass(frozen=True)
class Seen:
    """What one rank knows before the fit.

    Attributes:
        examples: How many training examples there are.
        stages: Names of the pretrained parameters, stage by stage from the input on, the head left out.
        source: Where the stages come from, in words.
    """

    examples: int
    stages: list[list[str]]
    source: str


class FreezeBySize(Rule):
    """Few examples train the head of a pretrained network only, more train its last stages, many train all of it.

    Why: A few hundred examples cannot tell which of a million pretrained weights to move, and moving them all forgets
        what pretraining taught; with many examples, frozen layers are a waste of what the data could teach.

    What it does: Counts the training examples before the optimiser is made, and freezes all but the head up to
        ``small`` examples, all but the head and the last third of the stages (rounded down, at least one) below
        ``large``, and nothing from there on. Stages are timm's own (``group_matcher``) and the head is what its
        ``get_classifier`` returns; in other networks the children of the module stand for stages, the last one for the
        head. Modules beside a timm network belong to the head. Batch norms of frozen layers are frozen with them: their
        weights, and before each batch their statistics, whoever called ``train()``; Lightning's
        ``BackboneFinetuning(train_bn=False)`` (2.6.6) goes on training both. What you froze yourself stays frozen.

    Fires when: It never alarms. It says what it froze and by which threshold, or why it left the network alone: it is
        not pretrained (all norms and biases are as they were made), its stages or the number of examples are unknown,
        or the run is resumed: then what the checkpoint says is frozen. The texts name no thresholds; 1,000 and 10,000
        are ours, for images. Where the data is far from what the network was pretrained on, train all: ``large=0``.

    Under DDP: Layers are frozen before the network is wrapped, by the largest count of all ranks, and so alike on all.
        Sharded strategies (FSDP, DeepSpeed): does not apply.

    Cost: The training loader is made once more; nothing is read from it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FreezeBySize(small=500)], logger=False)

    Source: Amidi and Amidi (2018), "Stanford CS230 cheat sheet: tips and tricks", transfer learning; Hui (2018), "How
        to start a deep learning project"; Zhang Hao (2017), "Deep learning basics".

    Args:
        small: Up to so many examples only the head is trained; at least 0.
        large: From so many examples on, everything is trained; at least 0. Where it is not above ``small``, it wins.
        examples: The number of training examples; None: counted from the training loader.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: A number is negative.
    """

    name = NAME
    source = 'Amidi and Amidi (2018), "Stanford CS230 cheat sheet: tips and tricks", transfer learning'
    kind = "enforce"

    def __init__(
        self,
        small: int = 1_000,
        large: int = 10_000,
        examples: int | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        for name, value in (("small", small), ("large", large), ("examples", examples)):
            if value is not None and value < 0:
                raise ValueError(f"Expected `{name}` to be a number of examples, at least 0, but got {value}.")
        self.small, self.large, self.examples = small, large, examples
        self._frozen: list[str] = []
        self._still: list[nn.Module] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Decide and freeze, before the optimiser is made and DDP wraps the network."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._frozen = []
        frozen: list[str] = []

        def judge(ranks: Sequence[Seen]) -> list[Finding]:
            examples = max(seen.examples for seen in ranks)
            frozen.extend(to_freeze(examples, ranks[0].stages, self.small, self.large))
            return [tell(examples, ranks[0], len(frozen), self.small, self.large)]

        self.observe(trainer, lambda: see(trainer, pl_module, self.examples), judge)
        self._freeze(pl_module, frozen)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Freeze what was frozen when the checkpoint was saved, whatever the data is now."""
        saved = checkpoint.get("callbacks", {}).get(self.state_key)
        if saved and trainer.training:
            self._freeze(pl_module, saved["frozen"])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the statistics of frozen batch norms."""
        for norm in self._still:
            if norm.training:
                norm.eval()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the frozen batch norms."""
        self._still = still_norms(pl_module, set(self._frozen))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the network."""
        self._still = []

    def _freeze(self, pl_module: Any, names: list[str]) -> None:
        parameters = dict(pl_module.named_parameters())
        self._frozen = [name for name in names if name in parameters]
        for name in self._frozen:
            parameters[name].requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Findings, and the names of the frozen parameters."""
        return {**super().state_dict(), "frozen": list(self._frozen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._frozen = list(state_dict["frozen"])


def see(trainer: Any, pl_module: Any, examples: int | None) -> Seen:
    """Count the examples and find the stages.

    Raises:
        NotApplicable: The run is resumed or sharded, the network is not pretrained, or one of both is unknown.
    """
    if trainer.ckpt_path:
        raise NotApplicable("the run is resumed, and trains what it trained before.")
    refuse_shards(trainer)
    stages, source = stages_of(pl_module)
    names = {name for stage in stages for name in stage}
    if not names:
        raise NotApplicable("the module has no stages before its head yet (layers made in configure_model come later).")
    if not is_pretrained(pl_module, names):
        raise NotApplicable("the network is not pretrained: its norms and biases are as they were made.")
    return Seen(count_examples(trainer) if examples is None else examples, stages, source)


def stages_of(module: nn.Module) -> tuple[list[list[str]], str]:
    """The parameters before the head, stage by stage from the input on, and who says so."""
    for name, part in module.named_modules():
        group: Any = getattr(sys.modules.get("timm.models"), "group_parameters", None)
        matcher: Any = getattr(part, "group_matcher", None)
        classifier: Any = getattr(part, "get_classifier", None)
        if group is not None and callable(matcher) and callable(classifier):
            prefix = f"{name}." if name else ""
            groups = group(part, matcher(coarse=True))
            head = {id(parameter) for layer in _layers(classifier()) for parameter in layer.parameters()}
            own = dict(part.named_parameters())
            kept = [[prefix + key for key in groups[index] if id(own[key]) not in head] for index in sorted(groups)]
            return [stage for stage in kept if stage], "timm's stages"
    return _children(module), "the children of the module"


def _layers(classifier: Any) -> list[nn.Module]:
    """The head as timm returns it: a layer, several, or None."""
    parts = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    return [part for part in parts if isinstance(part, nn.Module)]


def _children(module: nn.Module, prefix: str = "") -> list[list[str]]:
    """The parameters of each child but the last, below modules that hold one child only."""
    with_parameters = [(n, child) for n, child in module.named_children() if any(True for _ in child.parameters())]
    if len(with_parameters) == 1:
        name, child = with_parameters[0]
        return _children(child, f"{prefix}{name}.")
    return [[f"{prefix}{n}.{key}" for key, _ in child.named_parameters()] for n, child in with_parameters[:-1]]


def is_pretrained(module: nn.Module, names: set[str]) -> bool:
    """Whether some norm or bias among these parameters is not as it was made: constant, or drawn by torch."""
    for path, part in module.named_modules():
        own = [p for key, p in part.named_parameters(recurse=False) if (f"{path}.{key}" if path else key) in names]
        vectors = [parameter.detach() for parameter in own if parameter.dim() <= 1]
        if all(bool((vector == vector.flatten()[:1]).all()) for vector in vectors):
            continue
        if not _is_as_made(part):
            return True
    return False


def _is_as_made(part: Any) -> bool:
    """Whether a linear, convolutional or recurrent layer holds what torch drew."""
    if isinstance(part, nn.RNNBase):
        return is_as_drawn(part.parameters(recurse=False), part.hidden_size**-0.5)
    if isinstance(part, (nn.Linear, _ConvNd)):
        return is_as_drawn([part.weight], part.weight[0].numel() ** -0.5)
    return False


def count_examples(trainer: Any) -> int:
    """The number of training examples that the run's loaders hold.

    Raises:
        NotApplicable: There is no loader yet, or its length is unknown.
    """
    way_out = "tell the number in `examples`."
    try:
        with untouched():
            loaders = trainer.fit_loop._data_source.dataloader()
        return _count(loaders)
    except Exception as error:
        raise NotApplicable(f"the training examples cannot be counted ({type(error).__name__}); {way_out}") from error


def _count(loaders: Any) -> int:
    if isinstance(loaders, DataLoader):
        subset = isinstance(loaders.sampler, SubsetRandomSampler)
        return len(loaders.sampler) if subset else len(loaders.dataset)  # type: ignore[arg-type]
    parts = loaders.values() if isinstance(loaders, dict) else getattr(loaders, "flattened", loaders)
    if not all(isinstance(part, (DataLoader, dict, list, tuple)) for part in parts):
        raise TypeError("no DataLoader")
    return sum(_count(part) for part in parts)


def to_freeze(examples: int, stages: Sequence[Sequence[str]], small: int, large: int) -> list[str]:
    """The names of the parameters to freeze; pure."""
    if examples >= large:
        return []
    trained = 0 if examples <= small else max(1, len(stages) // LAST)
    return [name for stage in stages[: len(stages) - trained] for name in stage]


def tell(examples: int, seen: Seen, frozen: int, small: int, large: int) -> Finding:
    """What was frozen, and by which threshold; pure."""
    total = len(seen.stages)
    still = next(count for count in range(total + 1) if sum(map(len, seen.stages[:count])) == frozen)
    if examples >= large:
        message = f"Trains all layers: {examples} training examples are {large} or more."
    elif examples <= small:
        message = f"Trains the head only: {examples} training examples are {small} or fewer."
    else:
        message = (
            f"Trains the head and the last {total - still} of {total} stages ({seen.source}): {examples} training "
            f"examples are more than {small} and fewer than {large}."
        )
    evidence = {"examples": examples, "frozen_parameters": frozen, "stages": total, "frozen_stages": still}
    return Finding(NAME, Severity.INFO, message, evidence=evidence)


def still_norms(module: nn.Module, frozen: set[str]) -> list[nn.Module]:
    """Layers with running statistics whose parameters, or whose neighbours' where they have none, are frozen."""
    parts = dict(module.named_modules())
    norms = {path: part for path, part in parts.items() if isinstance(getattr(part, "running_mean", None), Tensor)}
    found = []
    for path, norm in norms.items():
        while path and not any(True for _ in parts[path].parameters()):
            path = path.rpartition(".")[0]
        names = [f"{path}.{key}" if path else key for key, _ in parts[path].named_parameters()]
        if names and frozen.issuperset(names):
            found.append(norm)
    return found

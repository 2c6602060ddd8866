"""The rule weight-decay-groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_rules.finding import Finding, Severity
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.shards import refuse_shards

NAME = "weight-decay-groups"
# What torch's schedulers (and timm's) hold once for each parameter group.
PER_GROUP = (
    *("base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums"),
    *("base_values", "warmup_steps"),
)


@dataclass(frozen=True)
class Split:
    """What was done to one optimiser.

    Attributes:
        optimizer: Its class.
        spared: How many parameters lost their decay.
        decayed: How many keep it.
        groups: How many groups it has now.
        added: How many of these are new.
        reason: Why it was left alone; empty where it was split.
    """

    optimizer: str
    spared: int = 0
    decayed: int = 0
    groups: int = 0
    added: int = 0
    reason: str = ""


class WeightDecayGroups(Rule):
    """Weight decay pulls at weights only, not at biases and norms.

    Why: Decay limits what a layer can make of its inputs. A bias or the scale of a norm adds next to nothing to the
        variance of the fit, and pulling it to zero makes the network underfit.

    What it does: Before the fit, and before the optimiser has any state, takes biases, the parameters of norms, all
        others with at most one dimension, and those that a module lists in its method ``no_weight_decay()`` (as timm's
        do) out of each parameter group with decay, into a new group with all options of the old one and a weight
        decay of 0. The old groups keep their place. Learning-rate schedules that were made already follow: what they
        hold for each group (base rates, lambdas, least rates) is repeated for the new one. Groups that hold only
        weights, or have no decay, stay as they are; where a group holds nothing else, its decay becomes 0 in place.

    Fires when: It never alarms. It says how many parameters it took out, or why it left an optimiser alone: its groups
        are split already, it has no decay, or it is resumed from a checkpoint whose groups are not split.

    Under DDP: Every rank splits alike, by the names and shapes of the parameters. Sharded strategies (FSDP, DeepSpeed):
        does not apply.

    Cost: One pass over the parameters before the fit.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[WeightDecayGroups()], logger=False)

    Source: Goodfellow, Bengio and Courville (2016), "Deep Learning", section 7.1; for norms: Jia et al. (2018), "Highly
        Scalable Deep Learning Training System with Mixed-Precision: Training ImageNet in Four Minutes".

    Args:
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Goodfellow, Bengio and Courville (2016), "Deep Learning", section 7.1'
    kind = "enforce"

    def __init__(self, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        self._saved_groups: list[list[int]] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget an earlier fit."""
        super().setup(trainer, pl_module, stage)
        self._saved_groups = None

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Learn how the groups of a resumed run were split; their state has to fit again."""
        saved = checkpoint.get("optimizer_states") or []
        self._saved_groups = [[len(group["params"]) for group in state["param_groups"]] for state in saved]

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Split the groups: optimisers are made, and their state is not yet read from a checkpoint."""
        self.observe(trainer, lambda: self._split_all(trainer, pl_module), lambda ranks: list(map(_told, ranks[0])))

    def _split_all(self, trainer: Any, pl_module: Any) -> list[Split]:
        refuse_shards(trainer)
        spared = spared_parameters(pl_module)
        schedulers = [part for config in trainer.lr_scheduler_configs for part in _parts(config.scheduler)]
        splits = []
        for index, optimizer in enumerate(trainer.optimizers):
            sizes = [len(group["params"]) for group in optimizer.param_groups]
            if self._saved_groups and self._saved_groups[index : index + 1] == [sizes]:
                reason = "the run is resumed from a checkpoint with these groups, to which its state belongs"
                splits.append(Split(type(optimizer).__name__, reason=reason))
                continue
            follow = [scheduler for scheduler in schedulers if getattr(scheduler, "optimizer", None) is optimizer]
            splits.append(split(optimizer, spared, follow))
        if not splits:
            raise NotApplicable("the run has no optimiser.")
        return splits


def spared_parameters(module: nn.Module) -> set[Tensor]:
    """The parameters that weight decay should not pull at."""
    spared: set[Tensor] = set()
    for part in module.modules():
        method: Any = getattr(part, "no_weight_decay", None)
        listed = set(method()) if callable(method) else set()
        spared |= {parameter for name, parameter in part.named_parameters() if name in listed}
        norm = "Norm" in type(part).__name__
        for name, parameter in part.named_parameters(recurse=False):
            if norm or parameter.dim() <= 1 or name == "bias":
                spared.add(parameter)
    return spared


def split(optimizer: Optimizer, spared: set[Tensor], schedulers: list[Any]) -> Split:
    """Split the groups of one optimiser in place, and let its schedulers follow.

    Args:
        optimizer: Any optimiser with ``weight_decay`` in its groups.
        spared: The parameters to take out.
        schedulers: All schedulers of this optimiser, nested ones included.
    """
    name = type(optimizer).__name__
    groups = list(optimizer.param_groups)
    decaying = [index for index, group in enumerate(groups) if group.get("weight_decay")]
    if not decaying:
        return Split(name, reason="it has no weight decay")
    out = {index: [parameter in spared for parameter in groups[index]["params"]] for index in decaying}
    if not any(map(any, out.values())):
        return Split(name, reason="its groups are split already")
    for index, marks in out.items():
        if all(marks):
            groups[index]["weight_decay"] = 0.0
        elif any(marks):
            _add_group(optimizer, groups[index], marks)
            for scheduler in schedulers:
                _repeat(scheduler, index, len(optimizer.param_groups))
    decayed = sum(len(group["params"]) for group in optimizer.param_groups if group.get("weight_decay"))
    total = len(optimizer.param_groups)
    return Split(name, sum(map(sum, out.values())), decayed, total, total - len(groups))


def _add_group(optimizer: Optimizer, group: dict[str, Any], marks: list[bool]) -> None:
    """Move the marked parameters of a group to a new one without decay."""
    members = list(zip(group["params"], marks, strict=True))
    group["params"][:] = [parameter for parameter, out in members if not out]
    moved: list[Any] = [parameter for parameter, out in members if out]
    names = group.get("param_names")
    if names is not None:
        named = list(zip(names, marks, strict=True))
        names[:] = [name for name, out in named if not out]
        moved = list(zip((name for name, out in named if out), moved, strict=True))
    options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    optimizer.add_param_group({**options, "params": moved, "weight_decay": 0.0})


def _repeat(scheduler: Any, index: int, groups: int) -> None:
    """Let a scheduler treat the group that was added last as it treats the group it came from."""
    for name in PER_GROUP:
        values = vars(scheduler).get(name)
        if isinstance(values, list) and len(values) == groups - 1:
            values.append(values[index])


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those inside it (SequentialLR, ChainedScheduler)."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)


def _told(done: Split) -> Finding:
    if done.reason:
        return Finding(NAME, Severity.INFO, f"The groups of {done.optimizer} were left alone: {done.reason}.")
    message = (
        f"Took {done.spared} biases, norms and other parameters without width out of the weight decay of "
        f"{done.optimizer}; {done.decayed} weights keep it, in {done.groups} groups instead of "
        f"{done.groups - done.added}."
    )
    evidence = {"spared": done.spared, "decayed": done.decayed, "groups": done.groups}
    return Finding(NAME, Severity.INFO, message, evidence=evidence)

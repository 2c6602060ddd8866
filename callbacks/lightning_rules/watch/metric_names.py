"""What a logged metric's name says: whether it is training's or validation's, its partner, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lightning_rules.watch.metric_direction import direction

TRAINING = ("train", "training", "trn", "fit")
VALIDATION = ("val", "valid", "validation", "eval", "dev")
_WORD = re.compile(r"[a-z]+\d*|\d+")


def words(name: str) -> list[str]:
    """The lower-case words of a name: ``"val/top1_Acc"`` is ``["val", "top1", "acc"]``."""
    return _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def is_validation(name: str) -> bool:
    """Whether a name says that the metric is of validation."""
    return any(word in VALIDATION for word in words(name))


def lower_is_better(name: str) -> bool | None:
    """True for losses and errors, False for accuracies and their like, None where the name does not say."""
    known = direction(name)
    return None if known is None else known[0] == "min"


def pairs(names: Iterable[str]) -> dict[str, str]:
    """Names of validation metrics, and for each that of the training metric that differs by nothing else.

    Of ``train_loss_step``, ``train_loss_epoch`` and ``train_loss`` the mean over the epoch is taken.
    """
    listed = list(names)
    of_training = {}
    for name in sorted(listed, key=lambda one: words(one)[-1:] == ["epoch"]):  # these come last, and win
        said = words(name)
        if any(word in TRAINING for word in said) and said[-1] != "step":
            of_training[_bare(said)] = name
    partners = {name: of_training.get(_bare(words(name))) for name in listed if is_validation(name)}
    return {name: partner for name, partner in partners.items() if partner is not None}


def _bare(said: list[str]) -> tuple[str, ...]:
    return tuple(word for word in said if word not in (*TRAINING, *VALIDATION, "epoch"))

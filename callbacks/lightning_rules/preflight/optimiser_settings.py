"""An aspect of the model's audit: hyperparameters of optimisers beyond reason.

Only what is gross is an alarm: settings that papers of good repute use never are. How far a learning rate is right for
the network at hand is measured by the rule step-size.

Sources: Goodfellow, Bengio and Courville (2016), "Deep Learning", section 8.3.2 (momentum 0.5, 0.9, 0.99); Kingma and
Ba (2015), "Adam", section 2 (betas 0.9 and 0.999, steps of about the learning rate); Loshchilov and Hutter (2019),
"Decoupled Weight Decay Regularization", section 2; Szegedy et al. (2016), "Rethinking the Inception Architecture",
section 8 (epsilon of 1, so that a large epsilon alone is no alarm).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_rules.audit import Part
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity
from lightning_rules.preflight.model_seen import ModelSeen
from lightning_rules.preflight.settings_seen import Group, Settings, settings_of

NAME = "optimiser-settings"
HIGH_RATE, LOW_RATE = 1.0, 1e-8  # of Adam and its like: a step of 1 for every weight; nothing in a million steps
FORGETS = 0.02  # of the weights that decay takes away a step: nothing older than 50 steps is left
COUPLED = 0.3  # of a weight that Adam with plain L2 adds to the gradient before it divides it by its own size
SWAPPED = 0.95  # first beta from which one above the second is no choice but a slip
SLOW = 0.995  # first beta or momentum: a step is an average over 200
JUMPY = 0.5  # second beta: the scale follows the last two gradients
DAMPED = 100.0  # times the largest gradient: an epsilon that makes Adam stand still
CUT = 1e-3  # of the gradient's norm: what clipping leaves


def measure(seen: ModelSeen, deadline: Deadline) -> Settings:
    """Read the settings, and how large the first step's gradients are."""
    return settings_of(seen)


def judge(ranks: Sequence[Settings]) -> list[Finding]:
    """Findings on the first rank's settings; pure. All ranks have the same."""
    settings = ranks[0]
    groups = [group for group in settings.groups if group.trained]
    found = [finding for group in groups for judged in JUDGED for finding in judged(group)]
    found += [
        *_stands_still(groups),
        *_climbs(settings),
        *_clipping(settings),
        *_sparse(settings),
        *_decayed_vectors(groups),
    ]
    return list({(finding.severity, finding.message): finding for finding in found}.values()) or _all_well(groups)


def _rate(group: Group) -> Iterator[Finding]:
    if group.adam_like and group.lr > HIGH_RATE:
        yield _alarm(
            group,
            f"a learning rate of {group.lr:.3g} moves every weight by about as much at each step.",
            "Lower it: 1e-3 is its default, and 3e-4 a good start.",
        )
    if group.adam_like and 0 < group.lr < LOW_RATE and not group.scheduled:
        yield _alarm(
            group,
            f"a learning rate of {group.lr:.3g} moves no weight by more than {1e6 * group.lr:.2g} in a million steps.",
            "Raise it: 1e-3 is its default, and 1e-5 usual in fine-tuning.",
        )


def _momentum(group: Group) -> Iterator[Finding]:
    name, value = ("beta1", group.betas[0]) if group.betas and group.adam_like else ("momentum", group.momentum)
    if value >= 1.0:
        yield _alarm(
            group,
            f"{name} is {value:.4g}: the velocity grows without end.",
            "Set it below 1: 0.9 is usual.",
            Severity.ERROR,
        )
    elif value > SLOW:
        yield _alarm(
            group,
            f"{name} is {value:.4g}: each step is an average over {1 / (1 - value):.0f} gradients.",
            "Lower it: 0.9 is usual, 0.99 the highest in common use.",
        )


def _betas(group: Group) -> Iterator[Finding]:
    if not group.adam_like or len(group.betas) != 2:
        return
    first, second = group.betas
    if first > second and first >= SWAPPED:
        yield _alarm(
            group,
            f"betas are ({first:.4g}, {second:.4g}): the first is above the second.",
            "They seem swapped: (0.9, 0.999) is the default.",
        )
    elif second < JUMPY:
        yield _alarm(
            group,
            f"beta2 is {second:.4g}: the scale of a step follows its last gradients alone.",
            "Raise it: 0.999 is the default, 0.95 the lowest in common use.",
        )


def _epsilon(group: Group) -> Iterator[Finding]:
    if not group.adam_like or group.eps < 1e-4 or not group.peak:
        return
    message = (
        f"epsilon is {group.eps:.3g}, {group.eps / group.peak:.2g} times the largest gradient of the first step "
        f"({group.peak:.2g})"
    )
    if group.eps >= DAMPED * group.peak:
        yield _alarm(
            group, f"{message}: its steps are smaller than the rate by as much.", "Lower it: 1e-8 is the default."
        )
    elif group.eps >= group.peak:
        yield Finding(NAME, Severity.INFO, f"{group.optimizer}: {message}: it works like plain momentum.")


def _decay(group: Group) -> Iterator[Finding]:
    if group.weight_decay <= 0:
        return
    if group.adam_like and not group.decoupled and group.weight_decay > COUPLED:
        yield _alarm(
            group,
            f"weight_decay of {group.weight_decay:.3g} is added to the gradient, and outweighs it.",
            "Lower it (1e-4 is usual), or use AdamW, whose decay bypasses the gradient.",
        )
        return
    shrinks = group.lr * group.weight_decay / max(1 - group.momentum, 1e-3)
    if shrinks > FORGETS and (group.decoupled or not group.betas):
        yield _alarm(
            group,
            f"weight_decay of {group.weight_decay:.3g} at a rate of {group.lr:.3g} takes {shrinks:.1%} of each "
            f"weight a step, so that nothing learned more than {1 / shrinks:.0f} steps ago is left.",
            "Lower it: 1e-4 is usual for SGD, 0.01 to 0.1 for AdamW.",
        )


JUDGED = (_rate, _momentum, _betas, _epsilon, _decay)


def _stands_still(groups: Sequence[Group]) -> Iterator[Finding]:
    still = [group for group in groups if group.lr == 0 and not group.scheduled]
    if still and len(still) == len(groups):
        yield _alarm(
            still[0], "the learning rate is 0, and no scheduler raises it.", "Set a learning rate.", Severity.ERROR
        )
    elif still:
        yield Finding(NAME, Severity.INFO, f"{len(still)} of {len(groups)} parameter groups have a learning rate of 0.")


def _climbs(settings: Settings) -> Iterator[Finding]:
    up = [group for group in settings.groups if group.maximize and group.trained]
    if up and settings.minimised:
        yield _alarm(
            up[0],
            "maximize=True makes the loss that training_step returns as large as it can be.",
            "Take maximize=True out.",
            Severity.ERROR,
        )
    elif up:
        yield Finding(NAME, Severity.INFO, f"{up[0].optimizer}: it maximises what training_step returns.")


def _clipping(settings: Settings) -> Iterator[Finding]:
    if not settings.clip or not settings.gradient or settings.clip >= CUT * settings.gradient:
        return
    what = "norm" if settings.clip_by == "norm" else "largest value"
    message = (
        f"A gradient_clip_val of {settings.clip:.3g} leaves {settings.clip / settings.gradient:.1e} of the first "
        f"gradient, "
    )
    message += f"whose {what} is {settings.gradient:.3g}: every step is cut to next to nothing"
    rescaled = all(group.adam_like for group in settings.groups)
    if rescaled:
        yield Finding(NAME, Severity.INFO, f"{message}; Adam makes up for it.")
    else:
        yield Finding(NAME, Severity.WARNING, f"{message}.", "Raise it to the usual norm of the gradient: 1 is common.")


def _sparse(settings: Settings) -> Iterator[Finding]:
    low = [group for group in settings.groups if group.adam_like or group.optimizer == "SparseAdam"]
    low = [group for group in low if len(group.betas) == 2 and group.betas[1] < 0.99]
    if settings.sparse and low:
        message = f"{low[0].optimizer}: beta2 is {low[0].betas[1]:.4g}, while embeddings have sparse gradients."
        yield Finding(NAME, Severity.INFO, message, "With rarely updated rows beta2 should be near 1.")


def _decayed_vectors(groups: Sequence[Group]) -> Iterator[Finding]:
    count = sum(group.vectors for group in groups if group.weight_decay > 0)
    if count:
        message = f"Weight decay acts on {count} vectors too (biases, scales of norms)."
        yield Finding(NAME, Severity.INFO, message, "WeightDecayGroups leaves them out.")


def _alarm(group: Group, message: str, advice: str, severity: Severity = Severity.WARNING) -> Finding:
    evidence = {"lr": group.lr, "weight_decay": group.weight_decay, "momentum": group.momentum, "eps": group.eps}
    return Finding(NAME, severity, f"{group.optimizer}: {message}", advice, evidence)


def _all_well(groups: Sequence[Group]) -> list[Finding]:
    names = ", ".join(dict.fromkeys(group.optimizer for group in groups))
    return [Finding(NAME, Severity.OK, f"Nothing set for {names} is beyond reason.")] if groups else []


PART = Part((NAME,), measure, judge)

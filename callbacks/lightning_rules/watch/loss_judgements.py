"""What the curve of the training loss says: pure functions from its history to findings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median

from lightning_rules.finding import Finding, Severity
from lightning_rules.watch.loss_curve import Curve, correlation_of_neighbours, deviation, epoch_of_jump
from lightning_rules.watch.loss_history import LossHistory
from lightning_rules.watch.prior_loss import PriorLoss

ENOUGH = 64  # losses before a curve is judged at all,
PLAN_SHARE = 2 / 3  # of the planned batches, and something should have been learned; of a long plan,
LONG = 500  # so many batches are enough,
LONG_SHARE = 0.2  # or this share of them,
LONGEST = 2000  # but never more than so many
HARDLY = 0.001  # of the prior's loss: less than that is no advantage over it
STILL = 0.01  # of the loss: it has not moved by less
SURE = 2.0  # standard errors
CLEAR = 5.0
ABOVE = 1.5  # times the start and the prior's loss, for a whole third of the run: it diverges
FAR_ABOVE = 3.0
WITHOUT_BOUND = 100.0  # times the first losses in size, faster and faster
EXPLODED = 1e4  # times the first losses, whatever kind of loss it is
RELAPSE = 0.5  # of what had been gained is lost again
SCALER_LOOKS = 20  # losses that are not finite in a row; a GradScaler needs 16 to find its scale
OFTEN = 0.02  # of all losses
ALTERNATES = -0.6  # correlation of a loss with the one before
SWINGS = 0.5  # standard deviation over the level
GROWS = 1.5


@dataclass(frozen=True)
class LossesSeen:
    """The losses of a run, or of one rank, and what they are measured by.

    Attributes:
        history: The losses so far.
        prior: The loss of the best constant output; None where that is no yardstick.
        planned: How many batches the run was to have; infinite where nobody said.
        epoch_batches: How many batches an epoch has.
        automatic: Whether the returned loss is what is minimised: automatic optimisation.
        scaled: Whether a GradScaler skips steps.
        ended: Whether this is the end of the fit.
    """

    history: LossHistory
    prior: PriorLoss | None = None
    planned: float = math.inf
    epoch_batches: float = math.inf
    automatic: bool = True
    scaled: bool = False
    ended: bool = False


def judge(seen: LossesSeen) -> list[Finding]:
    """All findings on one curve of losses."""
    history = seen.history
    broken = judge_not_finite(seen)
    if len(history.means) < ENOUGH // 2 or history.losses < ENOUGH:
        return broken or ([_too_few(history)] if seen.ended else [])
    curve = Curve.of(history)
    found = [judge_constant(seen), judge_divergence(seen, curve) or judge_relapse(seen, curve)]
    alarms = [finding for finding in found if finding is not None]
    if not alarms and not broken:
        alarms = [finding for finding in (judge_progress(seen, curve), judge_swings(seen)) if finding is not None]
    return broken + (alarms or ([] if broken else [judge_fall(seen, curve)])) + judge_spikes(history)


def _too_few(history: LossHistory) -> Finding:
    message = f"The run had {history.losses} losses; {ENOUGH} are needed to tell progress from noise."
    return Finding("loss-decreases", Severity.INFO, message)


def judge_not_finite(seen: LossesSeen) -> list[Finding]:
    """Whether losses were NaN or infinite, since when, and what came before."""
    history = seen.history
    count, at, row = history.not_finite, history.not_finite_at, history.in_a_row
    if not count:
        return []
    evidence = {"not_finite": count, "first_at_batch": at, "in_a_row": row, "batches": history.batches}
    lost = row >= SCALER_LOOKS if seen.scaled else row >= 2 or (row == 1 and seen.ended)
    if lost:
        first = "the very first batch on" if at == 0 else f"batch {at} on (counted from 0)"
        since = (
            f"from {first}" if row == history.batches - at else f"first at batch {at}, and in the last {row} batches"
        )
        message = f"The training loss is not finite {since}; {_said_before(history)}."
        return [Finding("non-finite-loss", Severity.ERROR, message, _advice_not_finite(history), evidence)]
    if row:
        return []  # the next look tells whether it recovers
    often = count > max(2, OFTEN * history.batches) and not seen.scaled
    message = f"{count} of {history.batches} losses were not finite, the first at batch {at}; training went on."
    advice = "Find what these batches have in common: an empty target, a logarithm of zero, a division by zero."
    return [Finding("non-finite-loss", Severity.WARNING if often else Severity.INFO, message, advice, evidence)]


def _rose_before(history: LossHistory) -> bool:
    """Whether losses grew before the first that was not finite."""
    before = history.before
    if len(before) < 2:
        return False
    latest = fmean(before[-max(1, len(before) // 4) :])
    return latest > 2 * max(median(before[: max(1, len(before) // 2)]), 0.0) or latest > 3 * abs(fmean(history.first))


def _said_before(history: LossHistory) -> str:
    if not history.before:
        return "no loss before it was finite"
    what = "losses rose up to it, from" if _rose_before(history) else "losses before it were as usual, from"
    return f"{what} {history.before[0]:.3g} to {history.before[-1]:.3g}"


def _advice_not_finite(history: LossHistory) -> str:
    if _rose_before(history):
        return "Lower the learning rate tenfold or warm it up, and clip gradients: training diverged."
    if not history.before:
        return "Look for NaN in the inputs, a logarithm of zero or a division by zero on the way to the loss."
    return (
        "Look at that batch and the one before for NaN or empty targets, and for a logarithm, a root or a division at "
        "zero: the gradient of a root is infinite there even where the loss is finite."
    )


def judge_constant(seen: LossesSeen) -> Finding | None:
    """Whether every loss of the run is one and the same number."""
    history = seen.history
    values = {*history.first, *history.recent, *history.means}
    if len(values) > 1 or not any(values):
        return None
    message = f"The training loss has been exactly {history.first[0]:.6g} at each of {history.losses} batches."
    advice = "Look for a clamp, a rounding, a detach or a factor of zero between the network and the returned loss."
    evidence = {"loss": history.first[0], "batches": history.losses}
    return Finding("no-progress", Severity.ERROR, message, advice, evidence)


def judge_divergence(seen: LossesSeen, curve: Curve) -> Finding | None:
    """Whether the loss has left its start upwards for good, or falls without bound."""
    history, late = seen.history, curve.thirds[2]
    size = max(abs(value) for value in history.first)
    evidence = {"start": curve.start, "last_third": late, "batches": history.losses}
    said = f"from {curve.start:.3g} at the start to {late:.3g} over the last third of {history.losses} batches"
    slower = "Lower the learning rate tenfold, or warm it up, and clip gradients."
    if late < 0 and -min(history.recent) > WITHOUT_BOUND * size and curve.accelerates:
        message = f"The training loss falls without bound, {said}, faster and faster."
        advice = "Check the loss's sign: a loss worth minimising has a floor, and this one has none."
        return Finding("diverging-loss", Severity.ERROR, message, advice, evidence)
    if late > EXPLODED * size and seen.automatic:
        message = f"The training loss has exploded, {said}."
        return Finding("diverging-loss", Severity.ERROR, message, slower, evidence)
    if seen.prior is None or history.losses < min(seen.planned, 2 * ENOUGH):
        return None
    ceiling = max(curve.start, seen.prior.mean)
    if late <= ABOVE * ceiling or late - ceiling < CLEAR * curve.error or median(history.recent) <= ABOVE * ceiling:
        return None
    message = f"The training loss has risen, {said}; the prior of the targets alone reaches {seen.prior.mean:.3g}."
    severity = Severity.ERROR if late > FAR_ABOVE * ceiling and curve.rises else Severity.WARNING
    return Finding("diverging-loss", severity, message, slower, {**evidence, "prior_loss": seen.prior.mean})


def judge_relapse(seen: LossesSeen, curve: Curve) -> Finding | None:
    """Whether the loss had fallen, and has risen again and stayed up."""
    history, prior = seen.history, seen.prior
    if prior is None:
        return None
    quarter = max(1, len(history.means) // 4)
    early = history.means[:-quarter]
    eighth = max(1, len(early) // 6)
    levels = [fmean(early[start : start + eighth]) for start in range(0, len(early) - eighth + 1, eighth)]
    best = min(levels)
    now, lowest_now = fmean(history.means[-quarter:]), min(history.means[-quarter:])
    reference = min(prior.mean, max(curve.start, prior.mean))
    lost = (now - best) / max(reference - best, 1e-12)
    everything = lost >= 1  # not even the prior is left of what was learned
    recent = history.recent[-history.losses // 4 :] if everything else history.recent
    lasting = median(recent) - best > RELAPSE * (reference - best) and lowest_now > best
    if history.losses < (ENOUGH if everything else 2 * ENOUGH) or best > (0.8 if everything else 0.7) * prior.mean:
        return None
    if lost < RELAPSE or now - best < CLEAR * curve.error or not lasting:
        return None
    message = (
        f"The training loss had fallen to {best:.3g} and has gone up to {now:.3g} over the last quarter of "
        f"{history.losses} batches; the prior of the targets alone reaches {prior.mean:.3g}"
    )
    advice = "Lower the learning rate or let it decay, clip gradients, and take the best checkpoint, not the last."
    epoch = epoch_of_jump(history.means, history.block, seen.epoch_batches, RELAPSE * (now - best))
    if epoch is not None:
        message += f". It jumped at once when epoch {epoch} began (counted from 0)"
        advice = (
            "Look at what changes between epochs (a loader that is reloaded, a hook): inputs shuffled and their labels "
            "left behind in the old order, weights or an optimiser reset."
        )
    evidence = {"best": best, "now": now, "prior": prior.mean}
    return Finding("diverging-loss", Severity.WARNING, f"{message}.", advice, evidence)


def judge_progress(seen: LossesSeen, curve: Curve) -> Finding | None:
    """Whether anything has been learned: against the prior of the targets, and against the noise of the run."""
    history, prior = seen.history, seen.prior
    if prior is None or history.losses < _enough_to_learn(seen.planned):
        return None
    late = curve.thirds[2]
    worth = max(HARDLY * prior.mean, 0.5 * curve.error) - prior.error
    if prior.mean - late > worth or curve.falls or curve.thirds[1] - late > SURE * 2**0.5 * curve.error:
        return None
    noise = SURE * math.hypot(curve.error, prior.error)
    how, advice = _standstill(seen, curve, prior, noise)
    message = (
        f"{how}: {late:.4g} over the last third of {history.losses} batches, {curve.start:.4g} at the start, where "
        f"knowing only the prior of the targets gives {prior.mean:.4g}."
    )
    evidence = {"start": curve.start, "last_third": late, "noise": curve.error, "prior_loss": prior.mean}
    return Finding("no-progress", Severity.WARNING, message, advice, evidence)


def _enough_to_learn(planned: float) -> float:
    return max(ENOUGH, min(PLAN_SHARE * planned, max(LONG, LONG_SHARE * planned), LONGEST))


def _standstill(seen: LossesSeen, curve: Curve, prior: PriorLoss, noise: float) -> tuple[str, str]:
    """In which way nothing is learned, and what to do about it."""
    history, late = seen.history, curve.thirds[2]
    if max(*history.means, history.highest_spike) > ABOVE * max(curve.start, prior.mean):
        how = "The training loss jumped up and then made no progress"
        return how, "Lower the learning rate tenfold and more, or warm it up; normalise the inputs; clip gradients."
    if late > prior.mean + noise and abs(late - curve.start) < max(noise, STILL * late):
        how = "The training loss has not moved from where it started"
        return how, (
            "Raise the learning rate, and see whether the optimiser has the parameters, gradients reach them, and the "
            "schedule, the clipping or the loss's scale do not make its steps too small."
        )
    how = "The training loss shows that nothing has been learned from the inputs"
    return how, (
        "See whether the network can overfit one batch; then whether inputs reach the output, targets belong to their "
        "inputs, batches are shuffled, weights differ at the start, and the learning rate is in range."
    )


def judge_swings(seen: LossesSeen) -> Finding | None:
    """Whether the loss jumps up and down from step to step, ever farther, at a level that does not fall."""
    recent = seen.history.recent
    if len(recent) < ENOUGH or 1 < seen.epoch_batches <= 4 or not seen.automatic:
        return None
    half = len(recent) // 2
    old, new = recent[:half], recent[half:]
    correlation = correlation_of_neighbours(new)
    level, swing, swung = fmean(new), deviation(new), deviation(old)
    gross = correlation < ALTERNATES and swing > SWINGS * abs(level) and swing > GROWS * swung
    if not gross or level < fmean(old):
        return None
    message = (
        f"The training loss jumps up and down from step to step: it swings by {swing:.3g} around {level:.3g}, "
        f"where it swung by {swung:.3g} before, and does not fall."
    )
    advice = "Lower the learning rate: it is at the edge where steps overshoot."
    evidence = {"swing": swing, "level": level, "correlation": correlation}
    return Finding("oscillating-loss", Severity.WARNING, message, advice, evidence)


def judge_spikes(history: LossHistory) -> list[Finding]:
    """Whether single losses stood far out; told for a person's eye."""
    if history.spikes < 3:
        return []
    message = (
        f"{history.spikes} of {history.losses} training losses stood far above their neighbours, the highest of them "
        f"({history.highest_spike:.3g}) at batch {history.highest_spike_at}."
    )
    advice = "Look at these batches; gradient clipping keeps one such step from undoing others."
    evidence = {"spikes": history.spikes, "highest": history.highest_spike, "batch": history.highest_spike_at}
    return [Finding("loss-spikes", Severity.INFO, message, advice, evidence)]


def judge_fall(seen: LossesSeen, curve: Curve) -> Finding:
    """What holds."""
    late = curve.thirds[2]
    evidence = {"start": curve.start, "last_third": late, "noise": curve.error}
    fell = curve.start - late
    if fell > SURE * curve.error:
        message = f"The training loss fell from {curve.start:.3g} to {late:.3g}."
        return Finding("loss-decreases", Severity.OK, message, "", evidence)
    message = f"The training loss went from {curve.start:.3g} to {late:.3g}, with a noise of {curve.error:.2g}."
    return Finding("loss-decreases", Severity.INFO, message, "", evidence)

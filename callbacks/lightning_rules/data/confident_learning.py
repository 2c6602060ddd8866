"""Single labels that a probe contradicts with confidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rules.data.label_signal import NAME, SURE
from lightning_rules.data.probe_targets import Labels
from lightning_rules.data.quick_probe import Probed
from lightning_rules.deadline import Deadline
from lightning_rules.finding import Finding, Severity

KNOWS = 0.5  # gain of a probe whose contradiction is worth a look
NEARLY = 0.8  # of the best probe's gain: probes that know so much are asked too
LISTED = 9
TOLD = 5
IMPORT = 3.0  # seconds that importing cleanlab may take
TEMPERATURES = torch.logspace(-1, 2, 25)


@dataclass(frozen=True)
class Suspect:
    """One label that looks wrong.

    Attributes:
        index: The example's place in the data set.
        given: Its label.
        suggested: The label that it looks like.
        confidence: The probe's probability of the given label.
    """

    index: int
    given: str
    suggested: str
    confidence: float


@dataclass(frozen=True)
class Suspects:
    """All labels that look wrong.

    Attributes:
        examples: How many were looked at.
        count: How many look wrong.
        gain: How much the probe knows.
        listed: The most suspect ones, worst first.
        missing: Why none could be named, as a sentence; else empty.
    """

    examples: int
    count: int
    gain: float
    listed: list[Suspect]
    missing: str = ""


def suspects_among(probes: list[Probed], labels: Labels, indices: list[int], deadline: Deadline) -> Suspects | None:
    """Find them by confident learning.

    Args:
        probes: Of the training split; those that know most are asked together.
        labels: Of both splits.
        indices: Where in the data set the training examples stand.
        deadline: How long it may take.

    Returns:
        None where the probe knows too little to say.
    """
    probed = max(probes, key=lambda one: one.gain)
    if probed.gain < KNOWS or probed.z < SURE:
        return None
    given = labels.values[0]
    if deadline.left < IMPORT:
        return Suspects(len(given), 0, probed.gain, [], "There was no time left to look at single labels.")
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return Suspects(len(given), 0, probed.gain, [], MISSING)
    present, dense = torch.unique(given, return_inverse=True)
    asked = [one for one in probes if one.gain >= NEARLY * probed.gain]
    chances = torch.stack([probabilities(one.scores[:, present], dense) for one in asked]).mean(0)
    found: np.ndarray = find_label_issues(
        dense.numpy(), chances.double().numpy(), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    names = [labels.names[place] for place in present.tolist()]
    listed = [
        Suspect(
            indices[int(labels.rows[0][place])],
            names[int(dense[place])],
            names[int(chances[place].argmax())],
            float(chances[place, dense[place]]),
        )
        for place in found.tolist()[:LISTED]
    ]
    return Suspects(len(given), len(found), probed.gain, listed)


MISSING = "Single labels are not looked at: cleanlab is missing; pip install 'lightning-rules[check]'."


def probabilities(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores as probabilities, by the temperature and priors under which the labels are likeliest.

    Guo, Pleiss, Sun, Weinberger (2017), "On Calibration of Modern Neural Networks", section 4.2.
    """
    prior = (torch.bincount(labels, minlength=scores.shape[1]).float() / len(labels)).clamp(min=1e-9).log()
    logits = [scores * temperature + prior for temperature in TEMPERATURES]
    best = min(logits, key=lambda one: float(F.cross_entropy(one, labels)))
    chances: Tensor = best.softmax(1)
    return chances


def judge_suspects(seen: Suspects) -> Iterator[Finding]:
    """A list for a person's eye; never an alarm. Pure."""
    evidence: dict[str, float | int | str | bool | None] = {
        "suspects": seen.count,
        "examples": seen.examples,
        "probe_gain": seen.gain,
    }
    if seen.missing:
        yield Finding(NAME, Severity.INFO, seen.missing)
    elif not seen.count:
        yield Finding(NAME, Severity.OK, f"None of {seen.examples:,} training labels looks wrong.", evidence=evidence)
    else:
        told = "; ".join(f"{s.index} is labelled {s.given} and looks like {s.suggested}" for s in seen.listed[:TOLD])
        message = (
            f"{seen.count:,} of {seen.examples:,} training labels look wrong to a quick probe, which may err: {told}."
        )
        evidence |= {"indices": " ".join(str(suspect.index) for suspect in seen.listed)}
        yield Finding(NAME, Severity.INFO, message, "Look at these examples beside their labels.", evidence)

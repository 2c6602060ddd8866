"""What stands where in the page of a run: a plan without drawings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_rules.exhibit import Exhibit, Section
from lightning_rules.finding import Finding, Severity
from lightning_rules.report.course import exhibits_of
from lightning_rules.report.document import FINISHED, Document
from lightning_rules.report.draw_score import told
from lightning_rules.report.score import Score, differ

SKIPPED = ("Does not apply: ", "Ignored")  # how the messages of rules that were not judged begin
SIGNS = {Severity.ERROR: "✖", Severity.WARNING: "▲", Severity.INFO: "●", Severity.OK: "✓"}
FINDINGS, LISTED = 200, 300  # at most
TITLES = {
    Section.DATA: "Data",
    Section.INITIALISATION: "Initialisation",
    Section.LEARNING_RATE: "Learning rate",
    Section.CURVES: "Curves",
    Section.LAYERS: "Gradients, updates and activations",
    Section.PREDICTIONS: "Predictions",
    Section.ERRORS: "Errors",
    Section.CALIBRATION: "Calibration and confidence",
    Section.BIAS_VARIANCE: "Bias and variance",
    Section.ENSEMBLE: "Ensemble",
    Section.CROSS_VALIDATION: "Cross-validation",
    Section.DATA_NEEDED: "How much data",
    Section.SEARCH: "Search",
}


@dataclass(eq=False)
class Placed:
    """An exhibit with its place in the page, and what rules say about it for a person's eye."""

    exhibit: Exhibit
    anchor: str
    said: list[Finding] = field(default_factory=list)


@dataclass
class Told:
    """A finding with what is shown beside it."""

    finding: Finding
    anchor: str
    exhibits: list[Placed] = field(default_factory=list)

    @property
    def level(self) -> str:
        """The severity as a word."""
        return str(self.finding.severity)

    @property
    def sign(self) -> str:
        """The severity as a sign, for those to whom colours say nothing."""
        return SIGNS[self.finding.severity]


@dataclass
class Part:
    """A section: what is shown in it, and what belongs there and is shown beside a finding above."""

    title: str
    anchor: str
    exhibits: list[Placed] = field(default_factory=list)
    elsewhere: list[Placed] = field(default_factory=list)


@dataclass
class Contents:
    """All that the page holds, in its order."""

    findings: list[Told]
    more_findings: int
    parts: list[Part]
    noted: list[Finding]
    held: list[Finding]
    skipped: list[Finding]

    def leave_out_half(self) -> None:
        """Of the findings, the less grave ones: of a page that would be too large."""
        kept = len(self.findings) // 2
        self.more_findings += len(self.findings) - kept
        gone = {placed.anchor for one in self.findings[kept:] for placed in one.exhibits}
        self.findings = self.findings[:kept]
        for part in self.parts:
            part.elsewhere = [one for one in part.elsewhere if one.anchor not in gone]


def contents_of(document: Document) -> Contents:
    """Place findings and exhibits: each exhibit once, beside the worst finding that it shows, else in its section."""
    made = [*document.exhibits, *exhibits_of(document)]
    exhibits = [Placed(one, f"figure-{place}-{_slug(one.name)}") for place, one in enumerate(made)]
    infos = [one for one in document.findings if one.severity is Severity.INFO]
    skipped = [one for one in infos if one.message.startswith(SKIPPED)]
    infos = [one for one in infos if not one.message.startswith(SKIPPED)]
    shown = {rule for one in made for rule in one.rules}
    speaking = [one for one in infos if one.advice]
    alarms = [one for one in document.findings if one.severity >= Severity.WARNING]
    alarms.sort(key=lambda one: (-one.severity, one.step))
    findings = [Told(one, f"finding-{place}") for place, one in enumerate([*alarms, *speaking][:FINDINGS])]
    left = list(exhibits)
    for finding in findings:
        finding.exhibits = [one for one in left if finding.finding.rule in one.exhibit.rules]
        left = [one for one in left if one not in finding.exhibits]
    for one in infos:
        if not one.advice and one.rule in shown:
            about = next(placed for placed in exhibits if one.rule in placed.exhibit.rules)
            about.said.append(one)
    return Contents(
        findings=findings,
        more_findings=max(0, len(alarms) + len(speaking) - FINDINGS),
        parts=_parts(exhibits, left),
        noted=[one for one in infos if not one.advice and one.rule not in shown][:LISTED],
        held=[one for one in document.findings if one.severity is Severity.OK][:LISTED],
        skipped=skipped[:LISTED],
    )


def _parts(exhibits: Sequence[Placed], left: Sequence[Placed]) -> list[Part]:
    parts = []
    for section in Section:
        own = [one for one in exhibits if one.exhibit.section is section]
        if own:
            here = [one for one in own if one in left]
            gone = [one for one in own if one not in left]
            parts.append(Part(TITLES[section], _slug(section), here, gone))
    return parts


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "x"


def state_of(document: Document) -> str:
    """How far the run has come, in words."""
    when = document.updated.replace("T", " ").replace("+00:00", " UTC")
    progress = document.progress
    epoch, epochs, step = progress.get("epoch"), progress.get("epochs"), progress.get("step")
    parts = []
    if epoch is not None:
        parts.append(f"epoch {epoch:,}" + (f" of {epochs:,}" if epochs else ""))
    if step is not None:
        parts.append(f"step {step:,}" + (f" of {progress['steps']:,}" if progress.get("steps") else ""))
    far = f" ({', '.join(parts)})" if parts else ""
    if document.is_unfinished:
        return f"Unfinished, as of {when}{far}: it goes on, or was killed." if when else f"Unfinished{far}."
    if document.state == FINISHED:
        return f"Finished{' at ' + when if when else ''}{far}."
    return f"Ended early{' at ' + when if when else ''}{far}."


def score_lines(score: Score) -> list[tuple[str, str, str]]:
    """What was reached and what it is held against: name, value, remark."""
    sure = ""
    if score.low is not None and score.high is not None:
        ends = f"{told(score.low, score.is_share)} to {told(score.high, score.is_share)}"
        sure = f"95% interval {ends}" + (f", from {score.examples:,} examples" if score.examples else "")
    lines = [("This run", told(score.value, score.is_share), "; ".join(filter(None, [sure, f"step {score.step:,}"])))]
    if score.known is not None:
        lines.append(("Best known", told(score.known, score.is_share), ""))
    if score.previous is not None:
        lines.append(("Previous run", told(score.previous, score.is_share), _against_previous(score, score.previous)))
    if score.majority is not None:
        remark = "what always answering the commonest class would get"
        lines.append(("Commonest class", told(score.majority, score.is_share), remark))
    return lines


def _against_previous(score: Score, previous: float) -> str:
    name = f"{score.previous_run}: " if score.previous_run else ""
    other = Score(score.name, score.mode, previous, 0, score.examples)
    is_real = differ(score, other)
    better = (score.value > previous) == (score.mode == "max")
    if score.value == previous:
        return f"{name}the same"
    word = "better" if better else "worse"
    if is_real is None:
        return f"{name}this run is {word}; whether by more than chance cannot be told"
    return f"{name}this run is {word}" + (", by more than chance" if is_real else ", but that could be chance")

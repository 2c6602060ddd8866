"""What a comparison comes to, in one line, and its numbers in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_rules.report.comparison import NAME, Comparison, Group, Run, is_real
from lightning_rules.report.score import is_share
from lightning_rules.report.style import shortened
from lightning_rules.report.verdict import Verdict

FINE = 2_000  # examples, from which on shares are told to a hundredth of a percent
NAMED = 3  # runs that are named


def verdict_on(comparison: Comparison, headline: str = "") -> Verdict:
    """Which run or configuration is the best, and whether the next is worse by more than chance.

    Args:
        comparison: Runs side by side.
        headline: What came of a procedure of several runs, which is said in place of that.
    """
    scored = [one for one in comparison.runs if one.score is not None]
    if len(scored) < 2:
        return Verdict(
            "unknown", headline or "The runs have logged no metric in common by which they could be compared."
        )
    replicated = [one for one in comparison.groups if one.spread is not None and one.spread.count > 1]
    if len(comparison.groups) == 1:
        real, line = None, _of_one_group(comparison, replicated[0], scored)
    elif len(replicated) > 1:
        real, line = is_real(replicated[1].chance), _of_groups(comparison, replicated)
    else:
        real, line = is_real(scored[1].chance), _of_runs(comparison, scored)
    first = replicated[0].runs if len(replicated) > 1 or len(comparison.groups) == 1 else [0]
    line, real = (headline, None) if headline else (line, real)
    doubted = [comparison.runs[place].name for place in first if comparison.runs[place].verdict.level == "error"]
    if doubted:
        return Verdict("error", f"{line} But by its own report {_names(doubted)} is not to be trusted.")
    return Verdict("ok" if real else "unknown", line)


def _of_one_group(comparison: Comparison, group: Group, scored: Sequence[Run]) -> str:
    tell, ends = teller(comparison), [one.score.value for one in scored if one.score]
    return (
        f"{_metric(comparison)}: {_mean(comparison, group)} on average over {len(scored)} runs of one configuration, "
        f"from {tell(min(ends))} to {tell(max(ends))}."
    )


def _of_groups(comparison: Comparison, groups: Sequence[Group]) -> str:
    first, second = groups[:2]
    best, next_best = [f"{_mean(comparison, one)} over {len(one.runs)}" for one in (first, second)]
    found = _chance(is_real(second.chance))
    line = f"{_metric(comparison)}: {first.name} is best with {best} runs, then {second.name} with {next_best}; {found}"
    left = len(comparison.groups) - len(groups)
    single = f" {_several(left, 'configuration')} with fewer than two scores {'is' if left == 1 else 'are'} left out."
    return line + (single if left else "")


def _of_runs(comparison: Comparison, scored: Sequence[Run]) -> str:
    tell = teller(comparison)
    (best, first), (second, other) = [(tell(one.score.value), one.name) for one in scored[:2] if one.score]
    if scored[0].score and scored[1].score and scored[0].score.value == scored[1].score.value:
        equal = [one.name for one in scored if one.score and one.score.value == scored[0].score.value]
        line = f"{_metric(comparison)}: {_names(equal)} are equally good with {best}."
    else:
        found = _chance(is_real(scored[1].chance))
        line = f"{_metric(comparison)}: {first} is best with {best}, then {other} with {second}; {found}"
    rest = scored[2:]
    worse = sum(bool(is_real(one.chance)) for one in rest)
    if not rest or all(one.chance is None for one in rest):
        return line
    others = (
        "the other run is"
        if len(rest) == 1
        else f"of the other {len(rest):,} runs {worse:,} {'is' if worse == 1 else 'are'}"
    )
    if len(rest) == 1 and not worse:
        return f"{line} The other run could be as good too."
    return f"{line} {others[0].upper()}{others[1:]} worse by more than chance."


def _metric(comparison: Comparison) -> str:
    return shortened(comparison.metric, NAME)


def _chance(real: bool | None) -> str:
    if real is None:
        return "whether that is more than chance cannot be told from one run each."
    return f"that is {'more than chance' if real else 'no more than chance may do'}."


def _mean(comparison: Comparison, group: Group) -> str:
    if group.spread is None:
        return "none"
    return f"{teller(comparison)(group.spread.mean)} ± {scale(comparison)(group.spread.deviation)}"


def _names(names: Sequence[str]) -> str:
    shown = [*names[:NAMED], *([f"{len(names) - NAMED:,} more"] if len(names) > NAMED else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _several(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def teller(comparison: Comparison) -> Callable[[float], str]:
    """How scores are told: shares in percent, with a digit more where there are many examples."""
    scores = [one.score for one in comparison.runs if one.score]
    digits = 2 if max((one.examples or 0 for one in scores), default=0) >= FINE else 1
    shares = is_share(comparison.metric) and all(one.is_share for one in scores)
    return lambda value: (f"{value:.{digits}%}" if shares else f"{value:.4g}").replace("-", "−")


def scale(comparison: Comparison) -> Callable[[float], str]:
    """How differences and deviations are told, without their sign: shares in percentage points."""
    scores = [one.score for one in comparison.runs if one.score]
    shares = is_share(comparison.metric) and all(one.is_share for one in scores)
    digits = 2 if max((one.examples or 0 for one in scores), default=0) >= FINE else 1
    return lambda value: f"{100 * abs(value):.{digits}f} points" if shares else f"{abs(value):.3g}"


def told_chance(chance: float | None) -> str:
    """A difference to the best in words."""
    if chance is None:
        return "chance not known"
    p = "p < 0.001" if chance < 0.001 else f"p = {chance:.2g}"
    return f"{'more than chance' if is_real(chance) else 'could be chance'} ({p})"

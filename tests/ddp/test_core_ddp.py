"""Two ranks find and do what one process finds and does at the same global batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rules import recommended

Results = dict[str, Any]
NAMES = {name for rule in recommended() for name in (rule.name, *rule.aspects)}


@pytest.fixture(scope="module")
def results(results: Any, ran: Path) -> Any:
    """Those, and the file that rank 0 has written."""
    results[1]["file"] = (ran / "two/map_style/rules/findings.jsonl").read_text()
    return results


def test_ranks_agree(results: Any) -> None:
    _, first, second = results
    for scenario in (first.keys() & second.keys()) - {"trace"}:  # running statistics of batch norm are local
        assert first[scenario] == second[scenario], scenario


@pytest.mark.parametrize("scenario", ["bias_from_column", "bias_from_shards", "bias_without_column"])
def test_same_bias_as_in_one_process(results: Any, scenario: str) -> None:
    one, first, _ = results
    assert first[scenario]["bias"] == pytest.approx(one[scenario]["bias"], abs=1e-6)
    assert first[scenario]["bias"][3] - first[scenario]["bias"][0] == pytest.approx(1.946, abs=0.02)  # ln(70% / 10%)


def test_the_weighted_sampler_counts_inside_lightnings_wrapper(results: Any) -> None:
    one, first, _ = results
    assert first["bias_with_weighted_sampler"]["bias"] == pytest.approx([-1.386] * 4, abs=0.01)  # ln(1 / 4)
    assert one["bias_with_weighted_sampler"]["bias"] == pytest.approx([-1.386] * 4, abs=0.01)
    assert "weighed by the sampler" in first["bias_with_weighted_sampler"]["said"][0][2]


def test_same_judgement_as_in_one_process(results: Any) -> None:
    one, first, _ = results
    ((severity, rule, _, evidence),) = [said for said in one["map_style"]["said"] if said[1] == "loss-at-init"]
    ((severity_, rule_, _, evidence_),) = [said for said in first["map_style"]["said"] if said[1] == "loss-at-init"]
    assert (severity, rule) == (severity_, rule_) == ("ok", "loss-at-init")
    assert evidence["examples"] == evidence_["examples"] == 128
    assert evidence_["prior_loss"] == pytest.approx(evidence["prior_loss"], rel=0.2)


def test_no_trace_on_any_rank(results: Any) -> None:
    for run in results:
        assert run["trace"]["with"] == run["trace"]["without"]


def test_a_probe_that_fails_on_one_rank_stops_no_run(results: Any) -> None:
    _, first, second = results
    for run in (first, second):
        assert run["probe_fails_on_rank_1"]["steps"] == 20
        said = {rule: message for _, rule, message, _ in run["probe_fails_on_rank_1"]["said"]}
        assert said.keys() <= NAMES
        assert all("KeyError" in said[rule] for rule in ("last-layer-bias-init", "loss-at-init"))


def test_nothing_is_an_alarm(results: Any) -> None:
    for run in results:
        assert {severity for severity, *_ in run["map_style"]["said"]} == {"ok", "info"}


def test_an_error_raises_on_all_ranks(results: Any) -> None:
    _, first, second = results
    assert first["error_raises_everywhere"]["raised"] == "always-wrong: Rank 1 is wrong."
    assert second["error_raises_everywhere"]["raised"] == "always-wrong: Rank 1 is wrong."


def test_findings_are_written_once(results: Any) -> None:
    _, first, _ = results
    rules = [json.loads(line)["rule"] for line in first["file"].splitlines()]
    assert set(rules) <= NAMES
    found = [tuple(said[:3]) for said in first["map_style"]["said"]]
    assert len(rules) == len(found), "once, and not once a rank"

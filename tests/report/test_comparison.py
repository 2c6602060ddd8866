"""Runs side by side: what differs, who repeats whom, and whether a difference means anything."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_ind

from lightning_rules.finding import Finding, Severity
from lightning_rules.report.chance import holm, spread_of, welch
from lightning_rules.report.comparison import Comparison, compared, distinct, short_names
from lightning_rules.report.comparison_words import verdict_on
from lightning_rules.report.document import FINISHED, Document
from lightning_rules.report.score import Score, differ, probability
from lightning_rules.report.series import Series
from lightning_rules.report.settings import (
    UNSET,
    brief,
    configuration_of,
    makes_configuration,
    settings_of,
    short_keys,
)

CONFIG = """
seed_everything: {seed}
model: {{lr: {rate}, sizes: [1, 2]}}
trainer:
  callbacks:
  - class_path: lightning_rules.A
  - class_path: B
    init_args: {{dirpath: kept/{seed}}}
"""


def score(value: float, examples: int | None = 200, name: str = "val/accuracy") -> Score:
    return Score(name, "max" if "accuracy" in name else "min", value, 5, examples)


def run(
    name: str, rate: float, value: float | None, seed: int = 1, metric: str = "val/accuracy", examples: int | None = 200
) -> Document:
    record = {"config": CONFIG.format(rate=rate, seed=seed), "seed": seed}
    found = None if value is None else score(value, examples, metric)
    return Document(run=name, state=FINISHED, record=record, score=found)


def line(*documents: Document) -> str:
    return verdict_on(compared(documents)).line


def test_the_best_stands_first_and_keys_follow_the_runs() -> None:
    found = compared([run("a", 0.1, 0.5), run("b", 0.2, None), run("a", 0.2, 0.9)], ["1", "2", "3"])
    assert [one.name for one in found.runs] == ["a (2)", "a", "b"]
    assert [one.href for one in found.runs] == ["3", "1", "2"]
    assert [(row.name, row.values) for row in found.settings] == [("model.lr", ("0.2", "0.1", "0.2"))]
    assert found.drawn == ()
    low = compared([run("a", 0.1, 0.5, metric="val/loss"), run("b", 0.2, 0.4, metric="val/loss")])
    assert [one.name for one in low.runs] == ["b", "a"]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([(0.9, 200), (0.89, 200)], "a is best with 90.0%, then b with 89.0%; that is no more than chance may do."),
        ([(0.5, 200), (0.9, 200)], "b is best with 90.0%, then a with 50.0%; that is more than chance."),
        ([(0.9, 200), (0.9, 200)], "a and b are equally good with 90.0%."),
        ([(0.9, None), (0.5, None)], "whether that is more than chance cannot be told from one run each."),
        ([(0.9, 200), (None, 200)], "no metric in common"),
        ([(0.9, 5000), (0.8996, 5000)], "a is best with 90.00%, then b with 89.96%"),
        ([(0.9, 200), (0.89, 200), (0.5, 200)], "no more than chance may do. The other run is worse by more than"),
        ([(0.9, 200), (0.89, 200), (0.88, 200)], "The other run could be as good too."),
        ([(0.9, 200), (0.89, 200), (0.88, 200), (0.1, 200)], "Of the other 2 runs 1 is worse by more than chance."),
    ],
)
def test_the_verdict_on_single_runs(runs: list[tuple[float | None, int | None]], words: str) -> None:
    documents = [run("abcd"[at], at, value, examples=examples) for at, (value, examples) in enumerate(runs)]
    assert words in line(*documents)


def test_a_metric_that_is_no_share_is_told_as_a_number() -> None:
    said = line(run("a", 1, 0.2, metric="val/loss"), run("b", 2, 0.45678, metric="val/loss"))
    assert said.startswith("val/loss: a is best with 0.2, then b with 0.4568; whether")


def test_who_is_not_to_be_trusted_is_named() -> None:
    best = run("a", 0.1, 0.9)
    best.findings = [Finding("no-leak", Severity.ERROR, "leaks")]
    verdict = verdict_on(compared([best, run("b", 0.2, 0.5)]))
    assert verdict.level == "error"
    assert verdict.line.endswith("that is more than chance. But by its own report a is not to be trusted.")
    assert verdict_on(compared([run("a", 0.1, 0.95), run("b", 0.2, 0.5)])).level == "ok"


def test_a_run_that_is_judged_by_another_metric_is_compared_by_what_it_has_logged() -> None:
    other = run("c", 0.3, 0.1, metric="val/loss")
    other.metrics = {"val/accuracy": Series([3, 6, 9], [0.5, None, 0.8], 1, 3)}  # type: ignore[list-item]  # as in JSON
    found = compared([run("a", 0.1, 0.9), run("b", 0.2, 0.7), other])
    assert [(one.name, one.score and one.score.value) for one in found.runs] == [("a", 0.9), ("c", 0.8), ("b", 0.7)]
    assert found.runs[1].score == Score("val/accuracy", "max", 0.8, 9)
    broken = run("d", 0.4, math.nan)
    assert compared([broken, run("a", 0.1, 0.9)]).runs[1].score is None


def repeated(*values: tuple[float, float]) -> Comparison:
    return compared([run(f"r{at}", rate, value, seed=at) for at, (rate, value) in enumerate(values)])


def test_runs_that_differ_by_seeds_and_folders_alone_repeat_a_configuration() -> None:
    found = repeated((0.1, 0.90), (0.1, 0.92), (0.2, 0.80), (0.1, 0.94), (0.2, 0.84), (0.3, 0.99))
    single, best, other = found.groups
    assert (single.name, single.runs, single.chance) == ("lr=0.3", (0,), None)
    assert (best.name, best.spread and best.spread.count) == ("lr=0.1", 3)
    assert best.spread is not None
    assert best.spread.mean == pytest.approx(0.92)
    assert best.spread.deviation == pytest.approx(0.02)
    assert best.spread.interval == pytest.approx((0.92 - 0.04968, 0.92 + 0.04968), abs=1e-5)
    expected = ttest_ind([0.90, 0.92, 0.94], [0.80, 0.84], equal_var=False).pvalue
    assert other.chance == pytest.approx(expected)
    assert [row.name for row in found.settings] == ["model.lr"]
    assert [row.name for row in found.drawn] == ["seed_everything", "trainer.callbacks.B.init_args.dirpath"]
    assert verdict_on(found).line == (
        "val/accuracy: lr=0.1 is best with 92.0% ± 2.0 points over 3 runs, then lr=0.2 with 82.0% ± 2.8 points over "
        "2; that is no more than chance may do. 1 configuration with fewer than two scores is left out."
    )
    third = repeated((0.1, 0.90), (0.1, 0.92), (0.1, 0.94), (0.2, 0.80), (0.2, 0.84), (0.3, 0.82), (0.3, 0.86))
    assert third.groups[2].chance == pytest.approx(2 * expected), "corrected for two comparisons"
    sure = repeated(*((0.1, 0.9 + at / 1000) for at in range(4)), *((0.2, 0.8 + at / 1000) for at in range(4)))
    assert verdict_on(sure).level == "ok"
    assert "over 4; that is more than chance." in verdict_on(sure).line


def test_one_configuration_is_told_by_its_mean() -> None:
    assert verdict_on(repeated((0.1, 0.9), (0.1, 0.92), (0.1, 0.94))).line == (
        "val/accuracy: 92.0% ± 2.0 points on average over 3 runs of one configuration, from 90.0% to 94.0%."
    )
    assert repeated((0.1, 0.9), (0.2, 0.92)).groups == ()


def test_runs_of_which_nothing_is_known_repeat_nothing() -> None:
    documents = [Document(run=name, score=score(0.9)) for name in "ab"]
    assert compared(documents).groups == ()


def test_repetitions_with_other_code_say_so() -> None:
    documents = [run(name, 0.1, 0.9, seed) for seed, name in enumerate("abc")]
    for commit, one in zip("xxy", documents, strict=True):
        one.record["code"] = {"commit": commit}
    assert compared(documents).groups[0].remark == "2 versions of the code"
    assert compared(documents[:2]).groups[0].remark == ""


@pytest.mark.parametrize("option", ["fold", "held_out"])
def test_folds_are_known(option: str) -> None:
    documents = [run(str(fold), 0.1, 0.9 + fold / 100) for fold in range(3)]
    for fold, one in enumerate(documents):
        one.record["config"] += f"{option}: {fold + 1}/3@42\n"
    found = compared(documents)
    assert found.is_folds
    assert len(found.groups) == 1
    assert not repeated((0.1, 0.9), (0.1, 0.8)).is_folds


def test_chances() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert welch(spread_of([0.9]), spread_of([0.1, 0.2])) is None
    assert welch(spread_of([0.9, 0.9]), spread_of([0.8, 0.8])) is None, "nothing scatters"
    one, other = score(0.9), score(0.8)
    assert probability(one, other) == pytest.approx(0.00511, abs=1e-4)  # z = 0.1 / sqrt(0.85 * 0.15 * 2 / 200) = 2.80
    assert differ(one, other)
    assert not differ(one, score(0.88))
    assert probability(score(1.0), score(1.0)) == 1.0
    assert probability(one, score(0.8, None)) is None


def test_the_runs_are_corrected_for_their_number() -> None:
    two = compared([run("a", 1, 0.9), run("b", 2, 0.83)])
    many = compared([run("a", 1, 0.9), *(run(f"b{at}", at + 2, 0.83) for at in range(5))])
    assert two.runs[1].chance is not None
    assert two.runs[1].chance < 0.05
    assert [one.chance for one in many.runs[1:]] == [pytest.approx(5 * two.runs[1].chance)] * 5
    assert many.runs[0].chance is None


def test_settings_are_flat() -> None:
    assert settings_of(CONFIG.format(rate=0.1, seed=1)) == {
        "seed_everything": "1",
        "model.lr": "0.1",
        "model.sizes": "[1, 2]",
        "trainer.callbacks.A.class_path": "lightning_rules.A",
        "trainer.callbacks.B.class_path": "B",
        "trainer.callbacks.B.init_args.dirpath": "kept/1",
    }
    subset = settings_of("subset: 40@7\n")
    assert subset == {"subset": "40", "subset.seed": "7"}
    assert makes_configuration("subset")
    assert not makes_configuration("subset.seed")
    twice = settings_of("a:\n- {class_path: x.C, n: 1}\n- {class_path: x.C, n: 2}\n- [3, {b: 4}]\n")
    assert {key: value for key, value in twice.items() if "class_path" not in key} == {
        "a.C.n": "1", "a.C-2.n": "2", "a.2.0": "3", "a.2.1.b": "4",
    }  # fmt: skip


@pytest.mark.parametrize("odd", [None, 3, "a: [", "text", "&a [*a]", "!!python/object/apply:os.system ['true']", "- 1"])
def test_what_is_no_configuration_has_no_settings(odd: object) -> None:
    found = settings_of(odd)
    assert found == {} or found == {"": "[1]"}


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("model.init_args.lr", True),
        ("seed_everything", False),
        ("fold", False),
        ("held_out", False),
        ("subset", True),
        ("bootstrap", False),
        ("data.init_args.fold", False),
        ("data.init_args.split_seed", False),
        ("data.init_args.folder", True),
        ("model.init_args.ckpt_path", True),
        ("ckpt_path", False),
        ("trainer.logger.init_args.name", False),
        ("trainer.default_root_dir", False),
        ("trainer.callbacks.FitRecord.init_args.path", False),
        ("trainer.callbacks.ModelCheckpoint.init_args.monitor", True),
        ("trainer.profile", True),
        ("trainer.callbacks.B.class_path", True),
        ("data.init_args.scaffold", True),
    ],
)
def test_what_makes_a_configuration(key: str, counts: bool) -> None:
    assert makes_configuration(key) is counts
    assert (configuration_of({key: "1"}) is not None) is counts


def test_a_key_that_one_run_lacks() -> None:
    first, second = run("a", 0.1, 0.9), Document(run="b", record={"config": "seed_everything: 1\n"})
    found = compared([first, second])
    assert {row.name: row.values for row in found.settings}["model.lr"] == ("0.1", UNSET)
    assert found.drawn[0].name == "trainer.callbacks.B.init_args.dirpath"


def test_names() -> None:
    assert distinct(["x", "y", "x", "x"]) == ("x", "y", "x (2)", "x (3)")
    assert len(set(distinct(["x", "x (2)", "x"]))) == 3
    assert short_names(["e/m_0/version_0", "e/m_1/version_0"]) == ["m_0", "m_1"]
    assert short_names(["d/v0", "d/v1", "e/v0"]) == ["d/v0", "d/v1", "e/v0"]
    assert short_names(["a", "a/b"]) == ["a", "a/b"]
    assert short_keys(["m.init_args.lr", "d.size", "t.size"]) == ["lr", "d.size", "t.size"]


def test_one_run_is_not_enough() -> None:
    with pytest.raises(ValueError, match="Expected two runs or more to compare, but got 1"):
        compared([run("a", 0.1, 0.9)])


def test_settings_are_told_in_few_digits_unless_they_would_look_alike() -> None:
    values = ["0.00070828497359", "7.96572906919e-07", "-12.3456789", "0.1", "123456789012", "2026-11-22", UNSET]
    assert brief(values) == ["0.0007083", "7.966e-07", "-12.35", "0.1", "123456789012", "2026-11-22", UNSET]
    assert brief(["0.123456789", "0.123456788"]) == ["0.123456789", "0.123456788"]
    assert brief(["0.123456789", "0.123456789"]) == ["0.1235", "0.1235"]

"""The base of all rules: measure, gather, judge, record; and what it promises to a run."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_rules import Finding, LossAtInit, Rule, Severity
from lightning_rules.finding import Finding as FindingAgain
from lightning_rules.record import print_findings, read_findings, silence, worst_first, write_findings
from lightning_rules.rule import NotApplicable


class Says(Rule):
    """Says what it is told at the start of training."""

    name, source, kind = "says", "a test (2026)", "check"

    def __init__(self, measure: Any = lambda: None, judge: Any = lambda ranks: [], on_error: Any = "warn") -> None:
        super().__init__(on_error)
        self.measure, self.judge = measure, judge

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.observe(trainer, self.measure, self.judge)


def found(severity: Severity, message: str = "Something.", **more: Any) -> Any:
    return lambda ranks: [Finding("says", severity, message, **more)]


def fit(rules: Any, **options: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=2, callbacks=rules, **{**quiet, **options})
    trainer.fit(BoringModel())
    return trainer


pytestmark = pytest.mark.filterwarnings("ignore")


def test_finding_round_trip_through_json() -> None:
    finding = Finding("says", Severity.WARNING, "Seen.", "Do.", {"a": float("nan"), "b": 2, "c": torch.tensor(3.0)}, 7)
    line = finding.to_json()
    assert json.loads(line)["severity"] == "warning"
    assert json.loads(line)["evidence"] == {"a": "nan", "b": 2, "c": 3.0}
    plain = Finding("says", Severity.WARNING, "Seen.", "Do.", {"b": 2}, 7)
    assert FindingAgain.from_dict(json.loads(plain.to_json())) == plain


def test_severities_are_ordered() -> None:
    assert Severity.OK < Severity.INFO < Severity.WARNING < Severity.ERROR
    assert [str(severity) for severity in Severity] == ["ok", "info", "warning", "error"]


def test_what_is_found_carries_the_step_and_is_judged_from_all_ranks() -> None:
    rule = Says(lambda: 41, lambda ranks: [Finding("says", Severity.OK, f"Saw {ranks}.")])
    fit([rule])
    assert rule.findings == [Finding("says", Severity.OK, "Saw [41].", step=0)]


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: (_ for _ in ()).throw(NotApplicable("the moon is full.")), "Does not apply: the moon is full."),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: {}["missing"], "KeyError: 'missing'"),
    ],
)
def test_a_measurement_that_fails_never_stops_the_run(measure: Any, message: str) -> None:
    rule = Says(measure)
    trainer = fit([rule])
    assert trainer.global_step == 2
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert message in finding.message


def test_a_judgement_that_fails_never_stops_the_run() -> None:
    rule = Says(judge=lambda ranks: 1 / 0)
    assert fit([rule]).global_step == 2
    assert "ZeroDivisionError" in rule.findings[0].message


def test_the_same_is_said_once() -> None:
    class Twice(Says):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.observe(trainer, self.measure, self.judge)

    rule = Twice(judge=found(Severity.INFO))
    fit([rule])
    assert len(rule.findings) == 1


def test_error_raises_when_asked_to() -> None:
    with pytest.raises(RuntimeError, match=r"says: Wrong\. Mend it\."):
        fit([Says(judge=found(Severity.ERROR, "Wrong.", advice="Mend it."), on_error="raise")])
    assert fit([Says(judge=found(Severity.ERROR))]).global_step == 2
    assert fit([Says(judge=found(Severity.WARNING), on_error="raise")]).global_step == 2


def test_wrong_option() -> None:
    with pytest.raises(ValueError, match="Expected `on_error` to be 'warn' or 'raise', but got 'explode'"):
        LossAtInit(on_error="explode")  # type: ignore[arg-type]


def test_a_single_callback_that_is_no_list() -> None:
    rule = Says(judge=found(Severity.OK))
    fit(rule)
    assert len(rule.findings) == 1


def test_a_copied_or_reused_rule_starts_afresh() -> None:
    rule = Says(judge=found(Severity.INFO))
    twin = copy.deepcopy(rule)
    fit([rule])
    assert twin.findings == []
    fit([rule])
    fit([twin])
    assert len(rule.findings) == len(twin.findings) == 1


def test_two_of_a_class_with_different_options_share_a_trainer() -> None:
    rules = [LossAtInit(), LossAtInit(on_error="raise")]
    fit(rules)
    assert all(rule.findings for rule in rules)


def test_findings_survive_a_resume(tmp_path: Path) -> None:
    rule = Says(judge=found(Severity.WARNING, "Early."))
    trainer = fit([rule])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
    assert any("says" in str(value) for value in state.values())
    again = Says(rule.measure, rule.judge)
    again.judge = found(Severity.INFO, "Late.")
    assert again.state_key != rule.state_key, "callables differ; the state is moved by hand below"
    again.load_state_dict(rule.state_dict())
    assert again.findings == rule.findings


def test_file_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = [
        Says(judge=found(Severity.INFO, "For the eye: [bold]brackets[/bold] in a class name.")),
        Says(judge=found(Severity.WARNING, "Probably worse.", advice="Do better."), on_error="raise"),
    ]
    trainer = fit(rules, default_root_dir=tmp_path)
    written = read_findings(Path(trainer.log_dir) / "rules" / "findings.jsonl")
    assert written == [rules[0].findings[0], rules[1].findings[0]]
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("lightning-rules") == 1
    assert "[bold]brackets[/bold] in a class name." in printed, "no markup from outside"
    assert printed.index("Probably worse.") < printed.index("For the eye"), "worst first"
    assert "→ Do better." in printed
    assert "1 warning, 1 info" in printed


def test_the_table_is_printed_when_the_run_fails(capsys: pytest.CaptureFixture[str]) -> None:
    class Fails(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise KeyError("later")

    with pytest.raises(KeyError):
        fit([Says(judge=found(Severity.WARNING, "Seen before.")), Fails()])
    assert capsys.readouterr().out.count("Seen before.") == 1


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    rule = Says(judge=found(Severity.INFO))
    fit([rule], fast_dev_run=True, default_root_dir=tmp_path, logger=None)
    assert rule.findings
    assert not list(tmp_path.rglob("findings.jsonl"))


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("a file stands where a folder should")
    log = logging.getLogger("lightning_rules")
    log.propagate = True
    trainer = fit([Says(judge=found(Severity.INFO))], default_root_dir=tmp_path / "file" / "below")
    assert trainer.global_step == 2
    assert "The findings could not be written to" in caplog.text


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "findings.jsonl"
    write_findings([Finding("says", Severity.OK, "Old.")], str(path))

    def full(self: Path, *args: Any, **options: Any) -> int:
        with open(self, "w") as file:
            file.write('{"half')
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        write_findings([Finding("says", Severity.OK, "New.")], str(path))
    monkeypatch.undo()
    assert [finding.message for finding in read_findings(path)] == ["Old."]
    assert [file.name for file in tmp_path.iterdir()] == ["findings.jsonl"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    path.write_text(Finding("says", Severity.OK, "Fine.").to_json() + "\n{broken\n")
    with pytest.raises(ValueError, match=r"Line 2 of .*findings\.jsonl is not a finding: '\{broken'"):
        read_findings(path)


class Acts(Says):
    """Acts, and says so."""

    name, kind = "acts", "enforce"


@pytest.mark.parametrize(
    ("rule", "heard"),
    [
        (Acts(judge=found(Severity.INFO, "Set it.")), True),
        (Acts(judge=found(Severity.OK, "Set already.")), False),
        (Acts(lambda: (_ for _ in ()).throw(NotApplicable("there is nothing to set."))), False),
        (Says(judge=found(Severity.INFO, "For the eye.")), False),
        (Says(judge=found(Severity.WARNING, "Probably worse.")), True),
    ],
)
def test_what_was_done_and_alarms_are_announced_at_once(
    rule: Rule, heard: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("lightning_rules")
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.INFO, logger="lightning_rules"):
        fit([rule])
    (finding,) = rule.findings
    assert (finding.message in caplog.text) is heard


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with silence():
        print_findings([Finding("says", Severity.ERROR, "Loud.")])
    assert capsys.readouterr().out == ""
    print_findings([Finding("says", Severity.ERROR, "Loud.")])
    assert "Loud." in capsys.readouterr().out


class Shows(Says):
    """Shows all findings on a page."""

    tells_all = True


@pytest.mark.parametrize("has_page", [True, False])
def test_where_a_page_tells_all_the_terminal_counts_what_asks_nothing_of_a_person(
    has_page: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "Fine.": Finding("holds", Severity.OK, "Fine."),
        "Eye.": Finding("told", Severity.INFO, "Eye."),
        "Get more.": Finding("few", Severity.INFO, "Few.", "Get more."),
        "Slow.": Finding("alarms", Severity.WARNING, "Slow."),
        "Set.": Finding(Acts.name, Severity.INFO, "Set."),
        "Nothing to set.": Finding(Acts.name, Severity.INFO, "Does not apply: Nothing to set."),
    }
    fit([Says(judge=lambda ranks: list(told.values())), Acts(), *([Shows()] if has_page else [])])
    printed = " ".join(capsys.readouterr().out.split())
    shown = {words for words in told if words in printed}
    assert shown == ({"Get more.", "Slow.", "Set."} if has_page else set(told))
    assert "1 warning, 4 info, 1 ok" in printed


def test_worst_first_keeps_the_order_of_equals() -> None:
    findings = [Finding(str(i), severity, "") for i, severity in enumerate([Severity.OK, Severity.ERROR, Severity.OK])]
    assert [finding.rule for finding in worst_first(findings)] == ["1", "0", "2"]

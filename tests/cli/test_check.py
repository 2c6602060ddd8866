"""`check`: what a person at the command line gets before a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Capture = pytest.CaptureFixture[str]
HEALTHY = ("check", "--model=Separable", "--data=Many", "--trainer.max_epochs=4", "--trainer.accelerator=cpu")
WRONG = ("check", "--model=Negated", *HEALTHY[2:])

pytestmark = pytest.mark.filterwarnings("ignore")


def status(command: Command, *arguments: str) -> int:
    try:
        command(*arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def reported(command: Command, capsys: Capture, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and what `--json` printed: one object and nothing else."""
    code = status(command, *arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_a_healthy_run_is_status_0_and_a_table(command: Command, capsys: Capture) -> None:
    assert status(command, *HEALTHY) == 0
    printed = capsys.readouterr().out
    assert "severity" in printed
    assert "loss-at-init" in printed
    assert " checks in " in printed
    assert not [path for path in Path.cwd().rglob("*") if path.suffix == ".ckpt"], "nothing was trained"


def test_an_error_is_status_1_and_names_the_fix(command: Command, capsys: Capture) -> None:
    code, report = reported(command, capsys, *WRONG)
    assert code == 1
    assert not report["ok"]
    (error,) = [f for f in report["findings"] if f["rule"] == "loss-at-init"]
    assert error["severity"] == "error"
    assert "the negative of cross_entropy" in error["message"]
    assert error["advice"]


def test_only_these(command: Command, capsys: Capture) -> None:
    code, report = reported(command, capsys, *WRONG, "--only", "gradient-clipping", "--only=seed-everything")
    assert code == 0
    assert {finding["rule"] for finding in report["findings"]} == {"gradient-clipping", "seed-everything"}


def test_skipped_with_a_reason(command: Command, capsys: Capture) -> None:
    skipped = ("--skip", "loss-at-init=it is a bound", "--skip=gradient-clipping=not now")
    _, report = reported(command, capsys, *WRONG, *skipped)
    said = {finding["rule"]: finding["message"] for finding in report["findings"]}
    assert said["loss-at-init"] == "Ignored: it is a bound."
    assert said["gradient-clipping"] == "Ignored: not now."


def test_what_the_settings_ignore_is_ignored(command: Command, capsys: Capture) -> None:
    _, report = reported(command, capsys, *WRONG, '--ignore_rules={"loss-at-init": "on purpose"}')
    said = {finding["rule"]: finding["message"] for finding in report["findings"]}
    assert said["loss-at-init"] == "Ignored: on purpose."


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--skip=loss-at-init", "--skip loss-at-init gives no reason: write --skip 'loss-at-init=why it is left out'."),
        ("--skip=loss=because", "Cannot ignore the rule 'loss': the rules here are seed-everything, "),
        ("--only=loss", "There is no rule 'loss' to check: the rules are seed-everything, "),
    ],
)
def test_wrong_names(error: Callable[..., str], option: str, sentence: str) -> None:
    assert sentence in error(*HEALTHY, option)


def test_rules_of_the_config_take_the_place_of_ours(command: Command, capsys: Capture) -> None:
    """The config's own limit is what is reported; what saves and tags does not run."""
    callbacks = [{"class_path": "lightning_rules.GradientClipping", "init_args": {"method": "max-norm"}}]
    callbacks.append({"class_path": "lightning_rules.GitTagCheckpoint"})
    _, report = reported(command, capsys, *HEALTHY, f"--trainer.callbacks={json.dumps(callbacks)}")
    said = [finding["message"] for finding in report["findings"] if finding["rule"] == "gradient-clipping"]
    assert len(said) == 1
    assert "Does not apply" not in said[0]
    assert "git-tag-checkpoint" not in {finding["rule"] for finding in report["findings"]}

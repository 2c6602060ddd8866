"""What CONTRIBUTING.md, pre-commit and the workflow tell people and machines to run exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rules.catalogue import FAMILIES, SECTIONS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
TOOLS = {"pre-commit", "python", "ruff", "mypy"}
# Written by the steps of the text themselves.
MADE = {"callbacks/lightning_rules/watch/weight_spread.py", "tests/watch/test_weight_spread.py"}
PRE_COMMIT = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
HOOKS = PRE_COMMIT["repos"][0]["hooks"]


def fenced() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


COMMANDS = [*fenced(), *re.findall(r"`(make [a-z]+)`", TEXT)]


def test_commands_are_found() -> None:
    assert {"make test", "make lint", "make bench"} <= set(COMMANDS)
    assert sum("scripts/" in command for command in COMMANDS) == 2


@pytest.mark.parametrize("command", sorted(set(COMMANDS) | {hook["entry"] for hook in HOOKS}))
def test_command_exists(command: str) -> None:
    program, *arguments = command.split()
    if program == "make":
        assert set(arguments) <= TARGETS
        return
    assert program.removeprefix(".venv/bin/") in TOOLS
    assert (Path(sys.executable).parent / Path(program).name).is_file()
    for argument in arguments:
        assert "/" not in argument or (ROOT / argument).exists(), argument


def test_paths_in_the_text_exist() -> None:
    paths = set(re.findall(r"`([\w./-]+/[\w./-]+|[\w-]+\.(?:txt|md|toml))`", TEXT))
    assert "callbacks/lightning_rules/recommended.py" in paths
    assert {path for path in paths - MADE if not (ROOT / path).exists()} == set()


def test_text_names_families_and_sections_in_their_order() -> None:
    assert ", ".join(f"`{family}`" for family in FAMILIES) in " ".join(TEXT.split())
    assert ", ".join(f"*{name}*" for name in SECTIONS) in " ".join(TEXT.split())


def test_there_are_five_steps() -> None:
    steps = re.findall(r"^(\d)\. \*\*", TEXT.partition("five steps")[2], flags=re.MULTILINE)
    assert steps == ["1", "2", "3", "4", "5"]


def test_example_of_new_rule_is_one_it_takes() -> None:
    (command,) = [command for command in COMMANDS if "new_rule.py" in command]
    _, _, family, name, flag, kind = command.split()
    assert family in FAMILIES
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert (flag, kind) == ("--kind", "check")


def test_pre_commit_takes_its_configuration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_runs_what_ci_runs_with_least_permissions() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert workflow["permissions"] == {"contents": "read"}
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in script
    assert "export LIGHTNING_RULES_BROWSER=required" in script


def test_licence_is_the_standard_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "Copyright [yyyy] [name of copyright owner]" in text
    assert text.rstrip().endswith("limitations under the License.")

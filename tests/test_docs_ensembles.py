"""The commands of docs/ensembles.md run as they stand, one after the other; only shorter."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_recipe.cli import main
from lightning_rules import Ensemble

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "ensembles.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(command: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["python", "scripts/train.py"]
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *words[2:], *more])
    main()


@pytest.mark.slow(seconds=40)
def test_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", "configs")
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    subcommands = [shlex.split(command)[2] for command in commands]
    assert subcommands == ["ensemble", "ensemble", "test", "predict", "distill", "validate", "test"]
    short = (
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=3",
        "--trainer.enable_progress_bar=false",
        "--rules=none",
    )
    for command, subcommand in zip(commands, subcommands, strict=True):
        if subcommand == "validate":
            Path("cascade.yaml").write_text(blocks("yaml")[0])
            stages = yaml.safe_load(blocks("yaml")[0])["model"]["init_args"]["stages"]
            shutil.copy(next(Path("logs/digits-seeds/member_0").rglob("best*.ckpt")), stages[0])
        more = {"ensemble": ("--members=3", *short), "distill": short}.get(subcommand, ())
        run(command, monkeypatch, *more)
    printed = capsys.readouterr().out
    assert len(list(Path("logs/digits-seeds").glob("member_*.json"))) == 3
    assert Path("logs/digits-seeds/ensemble.ckpt").is_file()
    assert "3 models together, 179 test answers" in printed
    assert "Student - teacher" in printed
    assert "The cascade: accuracy" in printed
    assert Path("logs/version_0/cascade/cascade.png").is_file()


def test_the_python_block_runs() -> None:
    (block,) = blocks("python")
    names: dict[str, Any] = {}
    exec(block, names)
    (rule,) = [one for one in names["trainer"].callbacks if isinstance(one, Ensemble)]
    assert rule.members == "top-k"

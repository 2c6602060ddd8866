"""The commands of docs/many-runs.md and docs/scaling.md run as they stand, one after the other; only shorter."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_recipe.cli import main, settings_of
from lightning_recipe.runs.search.space import read_space

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("many-runs", "scaling")}
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--rules=none"]
FEWER = {
    "crossval": ["--folds=2", *SHORT],
    "search": ["--trials=2", *SHORT],
    "learning-curve": ["--sizes=3", "--repeats=1", *SHORT],
    "fit": SHORT,
    "refit": ["--rules=none", "--trainer.limit_train_batches=3"],
}
Capture = pytest.CaptureFixture[str]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(page, "sh") for line in block.splitlines()]


@pytest.fixture(autouse=True)
def project(tmp_path: Path) -> None:
    """A folder that looks like this repository."""
    shutil.copytree(ROOT / "configs", "configs")
    Path("scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "train.py", "scripts")


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the words stood in a shell, with less to train."""
    assert words[:2] == ["python", "scripts/train.py"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *words[2:], *FEWER[words[2]], *quiet])
    main()


@pytest.mark.slow(seconds=40)
def test_many_runs(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    given = commands("many-runs")
    names = ["crossval", "crossval", "search", "search", "fit", "learning-curve", "refit", "refit"]
    assert [words[2] for words in given] == names
    said = []
    for words in given:
        run(words, monkeypatch)
        said.append(capsys.readouterr().out)
    assert re.search(r"^Against digits_rnn-crossval +[+-]\d+\.\d\d points in test/accuracy", said[1], re.MULTILINE)
    assert "model.init_args.lr: {log10: [" in said[2]
    assert Path("logs/digits_rnn-search/best.yaml").is_file()
    assert Path("logs/digits_rnn/version_0/checkpoints").is_dir()
    assert "more training examples" in said[5] or "no answer" in said[5] or "Law" in said[5]
    assert all("none: all validation examples were trained on" in text for text in said[6:])


def test_the_space_is_one_that_can_be_searched() -> None:
    (block,) = blocks("many-runs", "yaml")
    Path("space.yaml").write_text(block)
    found = read_space(Path("space.yaml"), settings_of(["fit", "--config", "configs/digits_rnn.yaml"]))
    assert [one.name for one in found] == list(yaml.safe_load(block))


@pytest.mark.slow(seconds=40)
def test_scaling(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    given = commands("scaling")
    on_two = [words for words in given if "ddp" in words]
    assert [words[0] for words in on_two] == ["python", "torchrun"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = [
        subprocess.Popen(
            [*words, *SHORT, f"--trainer.logger.init_args.name={words[0]}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in on_two
    ]
    printed = []
    for words in given:
        if words not in on_two:
            run(words, monkeypatch)
            printed.append((words[2], capsys.readouterr().out))
    for process in started:
        text, _ = process.communicate()
        assert process.returncode == 0, text
        assert re.search(r"^Training .*, 1 epoch, 3 steps, 2 processes$", text, re.MULTILINE)
    assert [name for name, _ in printed] == ["crossval"] * 3 + ["search"] * 4
    texts = [text for _, text in printed]
    assert "fit --config logs/shared/repeat_1_fold_2.yaml" in texts[1]
    assert "#SBATCH --array=0-1" in texts[2]
    assert Path("study.db").is_file()
    assert "search --config configs/digits_rnn.yaml" in texts[5]
    assert yaml.safe_load(texts[6])["parameters"]["model.init_args.lr"]["distribution"] == "log_uniform_values"

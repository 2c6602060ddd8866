"""What a generated project consists of, for each combination of answers."""

from __future__ import annotations

import itertools
import random
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMON = {
    *(".github/workflows/ci.yml", ".gitignore", "LICENSE", "Makefile", "README.md"),
    *("configs/base.yaml", "configs/baseline.yaml", "configs/overfit.yaml", "configs/regularise.yaml"),
    *("constraints.txt", "pyproject.toml", "scripts/train.py"),
    *("src/PACKAGE/__init__.py", "src/PACKAGE/callbacks/__init__.py", "src/PACKAGE/callbacks/blank_inputs.py"),
    *("src/PACKAGE/data/__init__.py", "src/PACKAGE/models/__init__.py"),
    *("tests/conftest.py", "tests/test_blank_inputs.py", "tests/test_configs.py", "tests/test_training.py"),
}
OWNED = {
    ("image-classification", "digits"): {"models/image_classifier.py", "data/digits.py"},
    ("image-classification", "image-folder"): {"models/image_classifier.py", "data/image_folder.py"},
    ("sequence-classification", "digits"): {"models/sequence_classifier.py", "data/digits.py"},
}
CHOICES: dict[str, list[Any]] = {
    "kind": list(OWNED),
    "backbone": [0, 1],  # which of the two below
    "pretrained": [False, True],
    "logger": ["csv", "tensorboard", "wandb"],
    "licence": ["Apache-2.0", "MIT", "BSD-3-Clause", "Proprietary"],
    "package": ["a", "package_with_a_name_of_the_40_characters"],
    "author": ["Ada Lovelace", "Zoë O'Neill & Søren, 東京"],
}
BACKBONES = {
    "image-classification": ["test_resnet.r160_in1k", "convnext_tiny"],
    "sequence-classification": ["lstm", "gru"],
}


def fits(row: dict[str, Any]) -> bool:
    return not (row["kind"][0] == "sequence-classification" and row["pretrained"])


def pairs_of(row: dict[str, Any]) -> set[tuple[Any, ...]]:
    return set(itertools.combinations(row.items(), 2))


def all_pairs() -> list[dict[str, Any]]:
    """Choose rows, greedily, until each possible pair of choices stands in one."""
    rows = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
    rows = [row for row in rows if fits(row)]
    random.Random(0).shuffle(rows)
    missing = set().union(*map(pairs_of, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs_of(row) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


def answers_of(row: dict[str, Any]) -> dict[str, Any]:
    task, data = row["kind"]
    rest = {name: row[name] for name in ("pretrained", "logger", "licence", "package", "author")}
    return {"task": task, "data": data, "backbone": BACKBONES[task][row["backbone"]], **rest}


def files_of(project: Path) -> set[str]:
    files = (path for path in project.rglob("*") if path.is_file())
    return {path.relative_to(project).as_posix() for path in files if ".git" not in path.relative_to(project).parts}


@pytest.mark.parametrize("row", all_pairs(), ids=lambda row: "-".join(map(str, answers_of(row).values())))
def test_every_pair_of_choices(row: dict[str, Any], make_project: Callable[..., Path], run: Callable[..., str]) -> None:
    project = make_project(**answers_of(row))
    package = row["package"]
    owned = {f"src/{package}/{name}" for name in OWNED[row["kind"]]}
    assert files_of(project) == {name.replace("PACKAGE", package) for name in COMMON} | owned
    for name in files_of(project):
        check_text(name, (project / name).read_text(encoding="utf-8"))
    for name in OWNED[row["kind"]]:
        check_owned(name, project, package)
    check_settings(row, project)
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=project)
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=project)


def check_text(name: str, text: str) -> None:
    """No trace of the template; what has a syntax keeps it."""
    left = text.replace("${{ matrix.python }}", "") if name == ".github/workflows/ci.yml" else text
    # An f-string or a dict may close two braces at once; what opens a tag of the template never stands in them.
    assert not re.search(r"\{\{|\{%|\{#|%\}|cookiecutter\.", left), name
    assert not re.search(r"[ \t]$", text, re.MULTILINE), f"{name} has trailing blanks"
    if name != "LICENSE":
        assert "\n\n\n\n" not in text, name
    assert text.endswith("\n"), name
    assert not text.endswith("\n\n"), name
    if name.endswith(".py"):
        compile(text, name, "exec")
    elif name.endswith((".yml", ".yaml")):
        assert isinstance(yaml.safe_load(text), dict), name


def check_owned(name: str, project: Path, package: str) -> None:
    """The project's own code is the code tested in src/, under another name."""
    made = (project / "src" / package / name).read_text(encoding="utf-8")
    module = name.removesuffix(".py").replace("/", ".")
    assert f"lightning_recipe.{module}" not in made
    source = (ROOT / "src" / "lightning_recipe" / name).read_text(encoding="utf-8")
    assert made == source.replace(f"lightning_recipe.{module}", f"{package}.{module}")


def check_settings(row: dict[str, Any], project: Path) -> None:
    """The answers arrive where they are meant to."""
    answers = answers_of(row)
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["authors"] == [{"name": row["author"]}]
    assert metadata["license"] == row["licence"].replace("Proprietary", "LicenseRef-Proprietary")
    extra = "train" if row["logger"] == "csv" else f"train,{row['logger']}"
    (requirement,) = metadata["dependencies"]
    assert requirement.startswith(f"lightning-rules[{extra}] @ ")
    licence = (project / "LICENSE").read_text(encoding="utf-8")
    marks = {"Apache-2.0": "Apache License", "MIT": "MIT License", "BSD-3-Clause": "BSD 3", "Proprietary": "All rights"}
    assert [name for name, mark in marks.items() if mark in licence] == [row["licence"]]

    base = yaml.safe_load((project / "configs" / "base.yaml").read_text(encoding="utf-8"))
    model, data = base["model"]["init_args"], base["data"]["init_args"]
    if answers["task"] == "sequence-classification":
        assert model["cell"] == answers["backbone"]
        assert data["form"] == "rows"
    else:
        assert model["backbone"] == answers["backbone"]
        assert model["pretrained"] is row["pretrained"]
        assert model["image_size"] == data["image_size"]
        assert data.get("normalise_for") == (
            answers["backbone"] if row["pretrained"] and answers["data"] == "image-folder" else None
        )
    loggers = base["trainer"]["logger"]
    paths = [logger["class_path"] for logger in (loggers if isinstance(loggers, list) else [loggers])]
    assert paths[-1].lower().endswith(f".{row['logger']}logger")


def test_all_pairs_are_pairs() -> None:
    rows = all_pairs()
    assert len(rows) < 30
    seen = set().union(*map(pairs_of, rows))
    for (one, these), (other, those) in itertools.combinations(CHOICES.items(), 2):
        for pair in itertools.product(these, those):
            never = {one, other} == {"kind", "pretrained"} and pair == (("sequence-classification", "digits"), True)
            assert (((one, pair[0]), (other, pair[1])) in seen) is not never


def test_only_the_modules_a_project_owns_are_renamed(filters: Callable[[str], dict[str, Any]]) -> None:
    rename = filters("source")["rename_owned"]
    text = """
from lightning_recipe.cli import main
from lightning_recipe.data.digits import DigitsDataModule
from lightning_recipe.data.digits_of_others import Nothing
from lightning_recipe.models.backbone import create_backbone
"class_path: lightning_recipe.models.ImageClassifier"
lightning_recipe.models.image_classifier.ImageClassifier, my_lightning_recipe.data.digits
"""
    assert (
        rename(text, "mine")
        == """
from lightning_recipe.cli import main
from mine.data.digits import DigitsDataModule
from lightning_recipe.data.digits_of_others import Nothing
from lightning_recipe.models.backbone import create_backbone
"class_path: mine.models.ImageClassifier"
mine.models.image_classifier.ImageClassifier, my_lightning_recipe.data.digits
"""
    )


def test_a_template_that_lacks_a_file_leaves_nothing(
    repository: Path, command_line: Callable[..., str], tmp_path: Path
) -> None:
    (repository / "src/lightning_recipe/data/digits.py").unlink()
    (tmp_path / "made").mkdir()
    task = "task=sequence-classification"
    said = command_line("--no-input", "--output-dir", tmp_path / "made", repository, task, status=1)
    assert "lacks the file src/lightning_recipe/data/digits.py" in said
    assert list((tmp_path / "made").iterdir()) == []

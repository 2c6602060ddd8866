"""Answers that cannot work are refused in one go, each in one sentence, before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.exceptions import FailedHookException

BAD = {
    "an empty name": (
        {"project_name": " ", "project_slug": "mine", "author": "A"},
        "The name of the project is ' '",
    ),
    "braces in the name": (
        {"project_name": "{x}", "project_slug": "x", "author": "A"},
        "without quotation marks, backslashes",
    ),
    "a quoted author": ({"author": 'Joe "x"'}, """The author is 'Joe "x"'"""),
    "an author on two lines": ({"author": "Joe\nDoe"}, "expected one line"),
    "a slug with spaces": (
        {"project_slug": "my project", "package": "mine"},
        "The project slug is 'my project'",
    ),
    "a slug that is a path": (
        {"project_slug": "some/where", "package": "mine"},
        "The project slug is 'some/where'",
    ),
    "a slug outside": ({"project_slug": "../where", "package": "mine"}, "The project slug is '../where'"),
    "no slug": ({"project_slug": "", "package": "mine"}, "The project slug is ''"),
    "a slug that ends in a hyphen": (
        {"project_slug": "mine-", "package": "mine"},
        "not ending with a hyphen, like 'my-project'",
    ),
    "the slug of a dependency": (
        {"project_slug": "lightning-rules", "package": "mine"},
        "choose another, like 'lightning-rules-",
    ),
    "a package with a hyphen": ({"package": "my-project"}, "The package is 'my-project'; expected"),
    "a package like a number": ({"package": "3d"}, "beginning with a letter, like 'my_project'"),
    "a keyword": ({"package": "lambda"}, "'lambda' is a keyword of Python, which it would hide"),
    "a soft keyword": ({"package": "match"}, "'match' is a keyword of Python"),
    "the standard library": (
        {"package": "statistics"},
        "'statistics' is a module of Python's standard library",
    ),
    "a library it depends on": ({"package": "torch"}, "'torch' is a library the project depends on"),
    "a dependency of another name": ({"package": "sklearn"}, "'sklearn' is a library the project depends on"),
    "an installed module": ({"package": "isympy"}, "'isympy' is a module that is installed here"),
    "a folder of the project": ({"package": "tests"}, "'tests' is a folder of the project itself"),
    "an unknown backbone": ({"backbone": "resnet_18"}, "close to it: resnet18"),
    "an unknown tag": ({"backbone": "resnet18.none"}, "The backbone 'resnet18.none' is no model of timm"),
    "no weights": ({"backbone": "resnet18d_none"}, "is no model of timm"),
    "an untrained backbone": (
        {"backbone": "vit_giant_patch14_224", "pretrained": True, "data": "image-folder"},
        "timm has no pretrained weights for 'vit_giant_patch14_224'",
    ),
    "digits of twelve": ({"num_classes": "12"}, "The number of classes is 12, but the digits have 10"),
    "one class": ({"num_classes": "1", "data": "image-folder"}, "a whole number from 2 to"),
    "classes in words": ({"num_classes": "ten"}, "The number of classes is 'ten'; expected a whole number"),
    "a negative count": ({"num_classes": "-3"}, "The number of classes is '-3'"),
    "no pixels": ({"image_size": "0"}, "The image size is '0'; expected a whole number from 8"),
    "half a pixel": ({"image_size": "32.5"}, "The image size is '32.5'"),
    "too many pixels": ({"image_size": "50000"}, "The image size is '50000'"),
    "sequences of images": (
        {"task": "sequence-classification", "data": "image-folder"},
        "Sequence classification starts from the digits, read row by row, not from 'image-folder'",
    ),
    "sequences of large images": (
        {"task": "sequence-classification", "image_size": "32"},
        "The image size is 32, but a sequence is a digit's 8 rows of 8 pixels; answer 8.",
    ),
    "pretrained sequences": (
        {"task": "sequence-classification", "pretrained": True},
        "There are no pretrained weights for sequence classification",
    ),
    "sequences through a convnet": (
        {"task": "sequence-classification", "backbone": "resnet18"},
        "The backbone is 'resnet18'; expected 'lstm' or 'gru'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_leaves_nothing(case: str, make_project: Callable[..., Path], tmp_path: Path) -> None:
    answers, sentence = BAD[case]
    with pytest.raises(FailedHookException) as refusal:
        make_project(**answers)
    problems = str(refusal.value).splitlines()
    assert problems[0] == "No project was made:"
    assert len(problems) == 2, problems
    assert sentence in problems[1]
    assert problems[1].endswith(".")
    assert list((tmp_path / "made").iterdir()) == []
    assert not (tmp_path / "where").exists()


def test_all_problems_at_once_and_no_traceback(command_line: Callable[..., str], tmp_path: Path) -> None:
    answers = [
        "project_slug=a b",
        "package=class",
        "task=sequence-classification",
        "num_classes=x",
        "backbone=rnn",
    ]
    said = command_line("--no-input", Path(__file__).parents[2], *answers, cwd=tmp_path, status=1)
    assert len(said.splitlines()) == 5, said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["cookiecutter.yaml"]


def test_an_existing_folder_is_left_alone(command_line: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "my-project").mkdir()
    said = command_line("--no-input", Path(__file__).parents[2], "task=sequence-classification", cwd=tmp_path, status=1)
    assert 'my-project" directory already exists' in said
    assert list((tmp_path / "my-project").iterdir()) == []


def test_a_bad_replay_file_leaves_nothing(
    make_project: Callable[..., Path], command_line: Callable[..., str], tmp_path: Path
) -> None:
    make_project()
    replay = next((tmp_path / "replay_dir").iterdir())
    replay.write_text(replay.read_text().replace('"package": "my_project"', '"package": "torch"'))
    (tmp_path / "again").mkdir()
    template = Path(__file__).parents[2]
    said = command_line("--replay-file", replay, "--output-dir", tmp_path / "again", template, status=1)
    assert "'torch' is a library the project depends on" in said
    assert list((tmp_path / "again").iterdir()) == []


def test_without_timm_the_name_alone_is_checked(
    filters: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answers = {"task": "image-classification", "backbone": "resnet_18", "pretrained": False}
    assert list(filters("answers")["_backbone"](answers)) == []
    assert list(filters("answers")["_backbone"]({**answers, "backbone": "Res Net"})) == [
        "The backbone is 'Res Net'; expected a model of timm, like 'resnet18'."
    ]
    said = filters("dependency")["notes"]({**answers, "logger": "csv"})
    assert "The backbone 'resnet_18' was not checked: timm is not installed here." in said


def test_the_project_itself_may_be_installed(
    filters: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when `cruft update` runs in the project's environment."""
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"isympy": ["My-Project"]})
    check = filters("answers")["_package"]
    assert list(check({"package": "isympy", "project_slug": "my-project"})) == []
    assert len(list(check({"package": "isympy", "project_slug": "other"}))) == 1

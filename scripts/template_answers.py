"""The answers to cookiecutter's questions: what is usual, and whether they make a project that works.

Runs in the Python that runs cookiecutter, which may hold neither timm nor Lightning.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException

ROOT = Path(__file__).resolve().parents[1]
CELLS = ("lstm", "gru")
OWN_FOLDERS = {"configs", "data", "logs", "scripts", "src", "tests"}
# Import names of what a project needs, where they are not the names of distributions in constraints.txt.
IMPORT_NAMES = {"sklearn", "PIL", "yaml", "git", "dateutil", "lightning_rules", "lightning_recipe"}


def usual(answers: Mapping[str, Any], question: str) -> str:
    """The default answer that goes with the task and the data chosen before."""
    if answers["task"] == "sequence-classification":
        return {"backbone": "lstm", "num_classes": "10", "image_size": "8"}[question]
    if answers["data"] == "digits":
        return {"backbone": "test_resnet", "num_classes": "10", "image_size": "32"}[question]
    return {"backbone": "resnet18", "num_classes": "2", "image_size": "224"}[question]


def check_answers(answers: Mapping[str, Any]) -> str:
    """Return "yes", or raise before anything is written.

    Raises:
        FailedHookException: Some answers cannot work; all are named, each with what to answer instead.
    """
    checks = (_texts, _slug, _package, _counts, _combination, _backbone)
    problems = [problem for check in checks for problem in check(answers)]
    if problems:
        raise FailedHookException("No project was made:\n- " + "\n- ".join(problems))
    return "yes"


def _texts(answers: Mapping[str, Any]) -> Iterator[str]:
    for question, words, longest in (("project_name", "name of the project", 60), ("author", "author", 80)):
        text = answers[question]
        if not text.strip() or len(text) > longest or not text.isprintable() or set(text) & set('"\\`{}<>'):
            yield (
                f"The {words} is {text!r}; expected one line of 1 to {longest} characters without quotation marks, "
                "backslashes, backticks, braces or angle brackets."
            )


def _slug(answers: Mapping[str, Any]) -> Iterator[str]:
    slug = answers["project_slug"]
    if not re.fullmatch(r"[a-z]([a-z0-9_-]{0,48}[a-z0-9])?", slug):
        yield (
            f"The project slug is {slug!r}; expected up to 50 lower-case letters, digits, hyphens and "
            "underscores, beginning with a letter and not ending with a hyphen, like 'my-project'."
        )
    elif _import_name(slug) in _required():
        yield (
            f"The project slug {slug!r} is the name of a library the project depends on, and pip keeps one "
            f"of a name; choose another, like '{slug}-project'."
        )


def _package(answers: Mapping[str, Any]) -> Iterator[str]:
    package, slug = answers["package"], answers["project_slug"]
    taken = ""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", package):
        yield (
            f"The package is {package!r}; expected up to 40 lower-case letters, digits and underscores, "
            "beginning with a letter, like 'my_project'."
        )
    elif keyword.iskeyword(package) or keyword.issoftkeyword(package):
        taken = "a keyword of Python"
    elif package in sys.stdlib_module_names:
        taken = "a module of Python's standard library"
    elif package in OWN_FOLDERS:
        taken = "a folder of the project itself"
    elif package in _required():
        taken = "a library the project depends on"
    elif _installed(package, slug):
        taken = "a module that is installed here"
    if taken:
        another = f"{package}_project"
        yield f"The package {package!r} is {taken}, which it would hide; choose another, like {another!r}."


def _required() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return IMPORT_NAMES | {_import_name(line.split("==")[0]) for line in lines if "==" in line}


def _import_name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "_", distribution).lower()


def _installed(package: str, slug: str) -> bool:
    """Whether another module has this name; the project itself may be here when `cruft update` runs."""
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:  # no module, or a mere folder on sys.path
        return False
    owners = importlib.metadata.packages_distributions().get(package, [])
    return _import_name(slug) not in map(_import_name, owners)


def _counts(answers: Mapping[str, Any]) -> Iterator[str]:
    ranges = {"num_classes": ("number of classes", 2, 100_000), "image_size": ("image size", 8, 4096)}
    for question, (words, low, high) in ranges.items():
        answer = str(answers[question])
        if not (answer.isascii() and answer.isdigit() and low <= int(answer) <= high):
            yield f"The {words} is {answer!r}; expected a whole number from {low} to {high}."
        elif question == "num_classes" and answers["data"] == "digits" and int(answer) != 10:
            yield f"The number of classes is {answer}, but the digits have 10; answer 10 or take images."


def _combination(answers: Mapping[str, Any]) -> Iterator[str]:
    if answers["task"] != "sequence-classification":
        return
    if answers["data"] != "digits":
        yield (
            f"Sequence classification starts from the digits, read row by row, not from {answers['data']!r}; "
            "choose the data 'digits' or the task 'image-classification'."
        )
    if str(answers["image_size"]) != "8":
        size = answers["image_size"]
        yield f"The image size is {size}, but a sequence is a digit's 8 rows of 8 pixels; answer 8."
    if _true(answers["pretrained"]):
        yield "There are no pretrained weights for sequence classification; answer no to pretrained."


def _backbone(answers: Mapping[str, Any]) -> Iterator[str]:
    backbone = answers["backbone"]
    if answers["task"] == "sequence-classification":
        if backbone not in CELLS:
            yield f"The backbone is {backbone!r}; expected 'lstm' or 'gru' for sequence classification."
    elif importlib.util.find_spec("timm") is None:
        if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", backbone):
            yield f"The backbone is {backbone!r}; expected a model of timm, like 'resnet18'."
    else:
        yield from _timm_backbone(backbone, _true(answers["pretrained"]))


def _timm_backbone(backbone: str, pretrained: bool) -> Iterator[str]:
    import timm

    names = timm.list_models(include_tags=False) + timm.list_pretrained()
    if backbone not in names:
        close = ", ".join(difflib.get_close_matches(backbone, names, n=4, cutoff=0.4) or ["resnet18"])
        yield f"The backbone {backbone!r} is no model of timm {timm.__version__}; close to it: {close}."
    elif pretrained and not timm.is_model_pretrained(backbone):
        yield f"timm has no pretrained weights for {backbone!r}; answer no to pretrained, or choose another."


def _true(answer: Any) -> bool:
    return str(answer) == "True"


FILTERS = {"usual": usual, "check_answers": check_answers}

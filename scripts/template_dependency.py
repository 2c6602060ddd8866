"""Where a generated project gets lightning-rules from: the commit of this repository it was made from."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
START = Path.cwd()  # while cookiecutter renders files, another folder is the current one


def requirement(answers: Mapping[str, Any]) -> str:
    """The requirement of lightning-rules, with the extras that the answers need.

    In the order of preference: the commit from a remote that holds it; the commit from this folder; the zip
    file cookiecutter was given; this folder as it is.
    """
    logger = answers["logger"]
    extras = "train" if logger == "csv" else f"train,{logger}"
    return f"lightning-rules[{extras}] {_origin(str(answers.get('_template', '')))}"


def notes(answers: Mapping[str, Any]) -> list[str]:
    """What the person who made the project should know about its dependency and backbone, a sentence each."""
    said = []
    where = requirement(answers).partition("] ")[2].removeprefix("@ ")
    if "file://" in where:
        said.append(f"It depends on lightning-rules from this machine ({where}): others cannot install it.")
    if _git("status", "--porcelain", "--untracked-files=no"):
        said.append(f"The template in {ROOT} has changes that are not committed: its dependency lacks them.")
    if answers["task"] == "image-classification" and importlib.util.find_spec("timm") is None:
        said.append(f"The backbone {answers['backbone']!r} was not checked: timm is not installed here.")
    return said


def _origin(template: str) -> str:
    commit = _git("rev-parse", "HEAD")
    if commit:
        return f"@ git+{_remote_with(commit) or ROOT.as_uri()}@{commit}"
    if template.lower().endswith(".zip"):
        if "://" in template:
            return f"@ {public_url(template)}"
        if (START / template).is_file():
            return f"@ {(START / template).resolve().as_uri()}"
        version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        return f"=={version}"
    return f"@ {ROOT.as_uri()}"


def _remote_with(commit: str) -> str:
    """The address of a remote with a branch that holds the commit; origin first; empty if there is none."""
    for remote in sorted(_git("remote").split(), key=lambda name: name != "origin"):
        url = public_url(_git("remote", "get-url", remote))
        if url and _git("branch", "--remotes", "--contains", commit, "--list", f"{remote}/*"):
            return url
    return ""


def public_url(url: str) -> str:
    """The address of a git remote or a file as pip reads it, without credentials.

    `git@host:owner/name.git` becomes `ssh://git@host/owner/name.git`; a folder becomes `file:///...`, or an
    empty text if it is not there any more.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.scheme == "ssh":
        user, at, host = parts.netloc.rpartition("@")
        return parts._replace(netloc=user.partition(":")[0] + at + host).geturl()
    if "://" in url:
        return url
    scp = re.fullmatch(r"((?:[^@/:]+@)?[^@/:]{2,}):/?(.+)", url)
    if scp:
        return f"ssh://{scp[1]}/{scp[2]}"
    folder = (ROOT / url).resolve()
    return folder.as_uri() if url and folder.exists() else ""


def _git(*arguments: str) -> str:
    """What git says about this repository; empty if it is none of its own, or without git."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


FILTERS = {"requirement": requirement, "template_notes": notes}

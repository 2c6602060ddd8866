"""A generated project depends on the commit it was made from, wherever the template came from."""

from __future__ import annotations

import runpy
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ANSWERS = {"task": "sequence-classification", "backbone": "lstm", "logger": "csv"}


@pytest.fixture
def dependency(repository: Path) -> Callable[[str], dict[str, Any]]:
    """Load the script from the repository under test, so that this repository is the template."""
    return lambda: runpy.run_path(str(repository / "scripts" / "template_dependency.py"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://example.org/owner/name.git", "https://example.org/owner/name.git"),
        ("https://joe:secret@example.org/owner/name", "https://example.org/owner/name"),
        ("https://token@example.org:8443/name", "https://example.org:8443/name"),
        ("http://joe:p@ss@example.org/name", "http://example.org/name"),
        ("git@example.org:owner/name.git", "ssh://git@example.org/owner/name.git"),
        ("example.org:/srv/name.git", "ssh://example.org/srv/name.git"),
        ("ssh://git:secret@example.org:2222/name.git", "ssh://git@example.org:2222/name.git"),
        ("ssh://example.org/name.git", "ssh://example.org/name.git"),
        ("file:///srv/name.git", "file:///srv/name.git"),
        ("/nowhere/at/all", ""),
        ("", ""),
    ],
)
def test_addresses_for_pip_without_credentials(
    given: str, expected: str, filters: Callable[[str], dict[str, Any]]
) -> None:
    assert filters("dependency")["public_url"](given) == expected


def test_a_folder_becomes_an_address(filters: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    assert filters("dependency")["public_url"](str(folder)) == f"file://{tmp_path}/with%20a%20space"


def test_the_extra_of_the_logger(filters: Callable[[str], dict[str, Any]]) -> None:
    requirement = filters("dependency")["requirement"]
    assert requirement(ANSWERS).startswith("lightning-rules[train] @ ")
    assert requirement({**ANSWERS, "logger": "wandb"}).startswith("lightning-rules[train,wandb] @ ")


def test_a_commit_that_is_on_a_remote(
    repository: Path, dependency: Callable[[], dict[str, Any]], run: Callable[..., str], tmp_path: Path
) -> None:
    commit = run("git", "rev-parse", "HEAD", cwd=repository).strip()
    from_here = f"lightning-rules[train] @ git+file://{repository}@{commit}"
    assert dependency()["requirement"](ANSWERS) == from_here

    bare = tmp_path / "bare.git"
    run("git", "clone", "--bare", repository, bare)
    run("git", "remote", "add", "fork", "https://joe:secret@example.org/rules.git", cwd=repository)
    run("git", "remote", "add", "origin", bare, cwd=repository)
    assert dependency()["requirement"](ANSWERS) == from_here  # no remote is known to hold the commit

    run("git", "fetch", "origin", cwd=repository)
    assert dependency()["requirement"](ANSWERS) == f"lightning-rules[train] @ git+file://{bare}@{commit}"

    run("git", "remote", "set-url", "origin", "git@example.org:owner/rules.git", cwd=repository)
    address = "git+ssh://git@example.org/owner/rules.git"
    assert dependency()["requirement"](ANSWERS) == f"lightning-rules[train] @ {address}@{commit}"
    assert dependency()["notes"](ANSWERS) == []

    git = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org")
    run(*git, "commit", "--allow-empty", "--message", "Not pushed", cwd=repository)
    commit = run("git", "rev-parse", "HEAD", cwd=repository).strip()
    assert dependency()["requirement"](ANSWERS) == f"lightning-rules[train] @ git+file://{repository}@{commit}"


def test_what_others_could_not_install_is_said(repository: Path, dependency: Callable[[], dict[str, Any]]) -> None:
    (repository / "README.md").write_text("changed")
    local, dirty = dependency()["notes"](ANSWERS)
    assert "others cannot install it" in local
    assert "changes that are not committed" in dirty


def test_without_git(
    repository: Path,
    dependency: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(repository / ".git")
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    requirement = dependency()["requirement"]
    assert requirement(ANSWERS) == f"lightning-rules[train] @ file://{repository}"
    web = {**ANSWERS, "_template": "https://joe:secret@example.org/rules.zip"}
    assert requirement(web) == "lightning-rules[train] @ https://example.org/rules.zip"
    (tmp_path / "rules.zip").touch()
    assert requirement({**ANSWERS, "_template": "rules.zip"}) == f"lightning-rules[train] @ file://{tmp_path}/rules.zip"
    assert requirement({**ANSWERS, "_template": "short:rules.zip"}) == f"lightning-rules[train] =={version}"


def test_a_repository_around_the_template_is_not_its_own(
    repository: Path, dependency: Callable[[], dict[str, Any]], run: Callable[..., str], tmp_path: Path
) -> None:
    shutil.rmtree(repository / ".git")
    run("git", "init", cwd=tmp_path)
    assert dependency()["requirement"](ANSWERS) == f"lightning-rules[train] @ file://{repository}"

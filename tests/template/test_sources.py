"""Projects made with the command line, from wherever a template can come, again and again, and their first commit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The backbone of this task is checked without timm, whose import takes seconds.
QUICK = ("--no-input", "task=sequence-classification")


def dependency_of(project: Path) -> str:
    lines = (project / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (line,) = (line.strip(' ",') for line in lines if line.startswith('    "lightning-rules['))
    return line


def content_of(project: Path) -> dict[str, str]:
    """All files but git's, without the one line that says where the template came from."""
    files = (path for path in project.rglob("*") if path.is_file() and ".git" not in path.parts)
    texts = {path.relative_to(project).as_posix(): path.read_text(encoding="utf-8") for path in files}
    texts["pyproject.toml"] = texts["pyproject.toml"].replace(dependency_of(project), "")
    return texts


@pytest.fixture
def commit(repository: Path, run: Callable[..., str]) -> str:
    """The commit under test."""
    return run("git", "rev-parse", "HEAD", cwd=repository).strip()


@pytest.fixture
def bare(repository: Path, run: Callable[..., str], tmp_path: Path) -> Path:
    """A bare repository, as a server holds it."""
    run("git", "clone", "--bare", repository, tmp_path / "served.git")
    return tmp_path / "served.git"


def test_all_sources_make_the_same_project(
    repository: Path,
    commit: str,
    bare: Path,
    user_config: Path,
    command_line: Callable[..., str],
    run: Callable[..., str],
    tmp_path: Path,
) -> None:
    with user_config.open("a") as file:
        file.write(f"abbreviations:\n  here: file://{tmp_path}/{{}}.git\n")
    archive = tmp_path / "rules.zip"
    run("git", "archive", "--format=zip", "--prefix=rules/", f"--output={archive}", "HEAD", cwd=repository)

    pinned = {
        str(repository): f"git+file://{repository}@{commit}",
        f"file://{bare}": f"git+file://{bare}@{commit}",
        "here:served": f"git+file://{bare}@{commit}",
        "rules.zip": f"file://{archive}",
    }
    contents = []
    for number, (source, address) in enumerate(pinned.items()):
        command_line("--output-dir", tmp_path / str(number), source, *QUICK, cwd=tmp_path)
        project = tmp_path / str(number) / "my-project"
        assert dependency_of(project) == f"lightning-rules[train] @ {address}"
        contents.append(content_of(project))
    assert all(content == contents[0] for content in contents)


def test_in_a_clone_of_the_template_and_twice_alike(
    repository: Path, command_line: Callable[..., str], run: Callable[..., str]
) -> None:
    """`cookiecutter .`, as the README says."""
    said = command_line(".", *QUICK, cwd=repository)
    project = repository / "my-project"
    assert "Next: cd my-project" in said
    tree = run("git", "rev-parse", "HEAD^{tree}", cwd=project)
    assert run("git", "status", "--porcelain", cwd=project) == ""
    assert run("git", "rev-list", "--count", "main", cwd=project) == "1\n"
    shutil.rmtree(project)
    command_line(".", *QUICK, cwd=repository)
    assert run("git", "rev-parse", "HEAD^{tree}", cwd=project) == tree


def test_replay(repository: Path, command_line: Callable[..., str], tmp_path: Path) -> None:
    answers = ("project_name=Played Again", "backbone=gru", "licence=MIT", "logger=wandb")
    command_line("--output-dir", tmp_path / "first", repository, *QUICK, *answers)
    command_line("--output-dir", tmp_path / "second", "--replay", repository)
    assert content_of(tmp_path / "first/played-again") == content_of(tmp_path / "second/played-again")


def test_cruft_creates_checks_and_updates(repository: Path, run: Callable[..., str], tmp_path: Path) -> None:
    cruft = (sys.executable, "-P", "-m", "cruft")
    answers = json.dumps({"task": "sequence-classification"})
    run(*cruft, "create", repository, "--no-input", "--extra-context", answers, cwd=tmp_path)
    project = tmp_path / "my-project"
    before = dependency_of(project)
    assert not (project / ".git").exists()  # cruft's own file is not there yet when the hook runs
    run(*cruft, "check", cwd=project)
    run(*cruft, "diff", "--exit-code", cwd=project)

    git = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org")
    run("git", "init", cwd=project)
    run("git", "add", "--all", cwd=project)
    run(*git, "commit", "--message", "Begin", cwd=project)
    with (repository / "src/lightning_recipe/models/sequence_classifier.py").open("a") as file:
        file.write("\nNEWS = True\n")
    with (repository / "scripts/template_source.py").open("a") as file:
        file.write('\nFILTERS["loud"] = str.upper\n')
    with (repository / "{{cookiecutter.project_slug}}/README.md").open("a") as file:
        file.write("\n{{ 'by a new filter' | loud }}\n")
    run(*git, "commit", "--all", "--message", "News", cwd=repository)
    run(*cruft, "check", cwd=project, status=1)
    run(*cruft, "update", "--skip-apply-ask", cwd=project)
    run(*cruft, "check", cwd=project)
    assert "NEWS = True" in (project / "src/my_project/models/sequence_classifier.py").read_text()
    assert "BY A NEW FILTER" in (project / "README.md").read_text()
    commit = run("git", "rev-parse", "HEAD", cwd=repository).strip()
    assert dependency_of(project) == before[: -len(commit)] + commit


def test_first_commit_by_somebody_git_knows(
    repository: Path, command_line: Callable[..., str], run: Callable[..., str], tmp_path: Path
) -> None:
    settings = ("--global", "user.name", "Known"), ("--global", "user.email", "known@example.org")
    for setting in settings:
        run("git", "config", *setting)
    command_line(repository, *QUICK, cwd=tmp_path)
    said = run("git", "log", "--format=%an <%ae>", cwd=tmp_path / "my-project")
    assert said == "Known <known@example.org>\n"


def test_first_commit_by_somebody_git_does_not_know(
    repository: Path,
    command_line: Callable[..., str],
    run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("git", "config", "--global", "user.useConfigOnly", "true")
    run("git", "config", "--global", "commit.gpgSign", "true")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))  # as in a hook of another repository
    said = command_line(repository, *QUICK, "author=Zoë O'Neill", cwd=tmp_path)
    monkeypatch.delenv("GIT_DIR")
    assert "no commit of its own" not in said
    assert run("git", "log", "--format=%an", cwd=tmp_path / "my-project") == "Zoë O'Neill\n"
    assert run("git", "rev-list", "--count", "HEAD", cwd=repository) == "1\n"


def test_inside_another_repository(
    repository: Path, command_line: Callable[..., str], run: Callable[..., str], tmp_path: Path
) -> None:
    run("git", "init", tmp_path / "other")
    said = command_line("--output-dir", tmp_path / "other" / "sub", repository, *QUICK)
    assert f"no commit of its own, because it is inside the repository {tmp_path / 'other'}." in said
    assert not (tmp_path / "other/sub/my-project/.git").exists()


def test_without_git(
    repository: Path, command_line: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = command_line(repository, *QUICK, cwd=tmp_path)
    assert "my-project has no commit of its own, because git is not installed." in said
    assert (tmp_path / "my-project" / "README.md").is_file()
    assert dependency_of(tmp_path / "my-project") == f"lightning-rules[train] @ file://{repository}"

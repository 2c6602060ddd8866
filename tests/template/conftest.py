"""Shared by the template's tests: a scratch cookiecutter configuration, and projects made in this process."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _settings_of_nobody(user_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run git and cookiecutter without anyone's settings; pip and uv keep theirs."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("COOKIECUTTER_CONFIG", str(user_config))
    for name in [name for name in os.environ if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def user_config(tmp_path: Path) -> Path:
    """A user's configuration of cookiecutter that keeps everything below tmp_path."""
    path = tmp_path / "cookiecutter.yaml"
    lines = [f"{key}: {tmp_path / key}\n" for key in ("cookiecutters_dir", "replay_dir")]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def make_project(tmp_path: Path, user_config: Path) -> Callable[..., Path]:
    """Make a project from the working tree; answers as keyword arguments."""

    def make(output: Path = tmp_path / "made", **answers: Any) -> Path:
        output.mkdir(exist_ok=True)
        return Path(
            cookiecutter(
                str(ROOT),
                no_input=True,
                extra_context=answers,
                output_dir=str(output),
                config_file=str(user_config),
            )
        )

    return make


@pytest.fixture
def filters() -> Callable[[str], dict[str, Callable[..., Any]]]:
    """The names that one of the extension's scripts defines."""
    return lambda name: runpy.run_path(str(ROOT / "scripts" / f"template_{name}.py"))


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a command; return what it printed; fail with all of that if its status is not the one expected."""

    def run(*command: str | Path, cwd: Path | None = None, status: int = 0) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    return run


@pytest.fixture
def command_line(run: Callable[..., str], user_config: Path) -> Callable[..., str]:
    """Run `cookiecutter`; arguments as on the command line."""
    command = [sys.executable, "-P", "-m", "cookiecutter", "--config-file", str(user_config)]
    return lambda *arguments, **options: run(*command, *arguments, **options)


@pytest.fixture
def repository(tmp_path: Path, run: Callable[..., str]) -> Path:
    """A git repository of its own, whose one commit is the working tree as it stands."""
    folder = tmp_path / "lightning-rules"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    commit_all(run, folder)
    return folder


def commit_all(run: Callable[..., str], folder: Path) -> None:
    """Make a folder a repository on the branch main, and commit all that is in it."""
    git = ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org")
    run(*git, "-c", "init.defaultBranch=main", "init", cwd=folder)
    run(*git, "add", "--all", cwd=folder)
    run(*git, "commit", "--message", "The working tree", cwd=folder)

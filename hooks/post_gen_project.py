"""Gives the new project a git repository with one commit, and says what comes next.

Runs in the new project's folder. A git that is missing or fails is said, and spoils nothing.
"""

import json
import os
import subprocess
from pathlib import Path

SLUG = "{{ cookiecutter.project_slug }}"
AUTHOR = "{{ cookiecutter.author }}"
NOTES = json.loads(r"""{{ cookiecutter | template_notes | tojson }}""")
MADE_BY_CRUFT = "{{ cookiecutter._commit | default('') }}" != ""
ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}


def git(*arguments: str) -> str:
    """Run git in the new project, whatever repository the caller's environment points at."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    command = ["git", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def enclosing_repository() -> Path | None:
    try:
        return Path(git("rev-parse", "--show-toplevel"))
    except subprocess.CalledProcessError:
        return None


def first_commit() -> str:
    """Commit all files and return "", or the reason why not."""
    if MADE_BY_CRUFT:
        return "cruft adds a file of its own first"
    around = enclosing_repository()
    # The README's way makes a project inside a clone of the template: that one is no home for it.
    if around is not None and not (around / "lightning_rules_template.py").exists():
        return f"it is inside the repository {around}"
    git("-c", "init.defaultBranch=main", "init")
    git("add", "--all")
    git(*identity(), "commit", "--no-verify", "--no-gpg-sign", "--message", "Project made by lightning-rules")
    return ""


def identity() -> list[str]:
    """The author as git's options, where git knows nobody."""
    try:
        git("var", "GIT_COMMITTER_IDENT")
    except subprocess.CalledProcessError:
        return ["-c", f"user.name={AUTHOR}", "-c", "user.email="]
    return []


def main() -> None:
    try:
        reason = first_commit()
    except FileNotFoundError:
        reason = "git is not installed"
    except subprocess.CalledProcessError as error:
        reason = f"git said: {error.stderr.strip()}"
    for note in NOTES:
        print(f"Note: {note}")
    if reason:
        print(f"Note: {SLUG} has no commit of its own, because {reason}.")
    print(f"Made {SLUG}. Next: cd {SLUG}, then make test and make train (each sets up .venv by itself).")


main()

"""What tying checkpoints to their code costs in a large repository: a snapshot at the start, a tag a checkpoint.

    python benchmarks/git_tagging.py            print a table
    python benchmarks/git_tagging.py --record   also write it to benchmarks/RESULTS.md

The repository is made in a temporary folder. Before each snapshot twenty tracked files change and two new ones appear.
The message of a tag is as in earnest: configuration, versions of all installed packages, metrics. `git status` and
`git stash create` (tracked files only) are there for comparison; the index is refreshed first, as it is after any
`git status` of the user's.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from results import origin, record

from lightning_rules.repository.repository import Repository
from lightning_rules.repository.tags import tag_message, tag_name
from lightning_rules.reproduce.environment import versions

HEADING = "Snapshots and tags of git"
CONFIG = Path(__file__).parents[1] / "configs" / "digits.yaml"
A_FOLDER = 100  # files
TARGET = 1.0  # seconds a tag


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Benchmark", "-c", "user.email=benchmark@localhost")
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_repository(root: Path, files: int) -> None:
    """A commit of many small files, all different, in folders of a hundred."""
    for number in range(files):
        folder = root / f"package_{number // A_FOLDER:04d}"
        if number % A_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"module_{number:05d}.py").write_text(f"value = {number}\n" * 40)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "all files")
    git(root, "status")


def make_dirty(root: Path, turn: int) -> None:
    """Twenty tracked files change, two new ones appear."""
    for number in range(20):
        (root / f"package_{number % 10:04d}" / f"module_{(number % 10) * A_FOLDER + number:05d}.py").write_text(
            f"{turn}"
        )
    for number in range(2):
        (root / f"new_{turn}_{number}.py").write_text(f"new = {turn}\n")


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def a_record(run: str, commit: str) -> dict[str, object]:
    """As much as the record of a run holds."""
    code = {"commit": commit, "snapshot": commit, "branch": "main", "dirty": True, "left_out": []}
    more = {"config": CONFIG.read_text(encoding="utf-8"), "versions": versions(), "metrics": {"val/accuracy": 0.98}}
    checkpoint = {"path": f"/somewhere/{run}/best.ckpt", "sha256": "0" * 64, "bytes": 123_456_789}
    return {"format": 1, "id": uuid.uuid4().hex, "run": run, "code": code, **more, "step": 0, "checkpoint": checkpoint}


def measure(root: Path, rounds: int, tags: int) -> dict[str, list[float]]:
    """Seconds of each operation, of all its turns."""
    taken: dict[str, list[float]] = {name: [] for name in ("status", "stash", "find", "snapshot")}
    repository = Repository.find(root)
    commit = ""
    for turn in range(rounds):
        make_dirty(root, turn)
        taken["status"].append(seconds(lambda: git(root, "--no-optional-locks", "status", "--porcelain")))
        taken["stash"].append(seconds(lambda: git(root, "stash", "create")))
        start = time.perf_counter()
        commit = repository.snapshot("a run").commit
        taken["snapshot"].append(time.perf_counter() - start)
        taken["find"].append(seconds(lambda: Repository.find(root)))
    assert commit != repository.commit
    taken |= {"tag": [], "tags": [], "delete": []}
    records = [a_record(f"digits/version_{number // 100}", commit) for number in range(tags)]
    names = []
    for step, full in enumerate(records):
        start = time.perf_counter()  # as a callback does it: find the repository, name, message and tag
        name = tag_name(full, step, "val/accuracy", 0.98)
        names.append(Repository.find(root).tag(name, commit, tag_message(full)))
        taken["tag"].append(time.perf_counter() - start)
    for _ in range(rounds):
        taken["tags"].append(seconds(lambda: repository.tags("runs")))
    assert len(repository.tags("runs")) == tags
    for name, full in list(zip(names, records, strict=True))[: 10 * rounds]:
        taken["delete"].append(seconds(lambda name=name, full=full: repository.delete_tag(name, str(full["id"]))))
    taken["worktree"] = [seconds(lambda: repository.add_worktree(root.with_name("restored"), commit))]
    return taken


def report(files: int, rounds: int, tags: int) -> str:
    """Measure, and lay the figures out as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        make_repository(root, files)
        taken = measure(root, rounds, tags)
        git_version = git(root, "--version").removeprefix("git version ")
    rows = {
        "`git status`": "status",
        "`git stash create` (tracked files only)": "stash",
        "`Repository.find`": "find",
        "`Repository.snapshot`, once a run": "snapshot",
        "find, name, message and `Repository.tag`, once a kept checkpoint": "tag",
        "`Repository.delete_tag`": "delete",
        f"`Repository.tags`, {tags:,} tags with their messages": "tags",
        "`Repository.add_worktree`, all files": "worktree",
    }
    slowest = max(taken["tag"])
    lines = [
        f"{origin('torch')}, git {git_version}; {files:,} files, 22 of them changed or new; wall-clock seconds.",
        "",
        "| what | turns | median s | largest s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for what, key in rows.items():
        lines.append(f"| {what} | {len(taken[key])} | {statistics.median(taken[key]):.3f} | {max(taken[key]):.3f} |")
    verdict = "holds" if slowest < TARGET else "is missed"
    lines += [
        "",
        f"The target, a tag in less than {TARGET:g} s, {verdict}: the slowest of {tags:,} took {slowest:.3f} s.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000, help="tracked files (default: 50000)")
    parser.add_argument("--rounds", type=int, default=5, help="snapshots (default: 5)")
    parser.add_argument("--tags", type=int, default=1_000, help="tags (default: 1000)")
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    text = report(options.files, options.rounds, options.tags)
    print(text)
    if options.record:
        record(HEADING, text)


if __name__ == "__main__":
    main()

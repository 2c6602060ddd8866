"""Snapshots, tags and working trees, in real repositories of every kind; and that nothing else is touched."""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_rules.repository import working_tree
from lightning_rules.repository.git import Git
from lightning_rules.repository.repository import GitError, NoRepository, Repository, Tag

GitCall = Callable[..., str]
ODD_NAMES = ["a b", "new\nline", 'quo"te', "ünï", ":(top)magic", "*", "-rf", "back\\slash", "tab\t", "\udcff-bytes"]


def files_of(git: GitCall, root: Path, commit: str) -> set[str]:
    return set(git(root, "ls-tree", "-r", "-z", "--name-only", commit).split("\0")) - {""}


def traces(git: GitCall, root: Path) -> dict[str, object]:
    """All that a snapshot and a tag may not change; objects and tags of runs are what they are there to make."""
    refs = git(root, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    mine = ("objects", "refs/tags/runs")
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    kept = [
        path for path in files if not path.relative_to(root).as_posix().startswith(tuple(f".git/{m}" for m in mine))
    ]
    return {
        "status": git(root, "--no-optional-locks", "status", "--porcelain=v2", "--branch"),
        "stash": git(root, "stash", "list"),
        "reflog": git(root, "reflog", "--all"),
        "refs": [ref for ref in refs if not ref.startswith("refs/tags/runs")],
        "files": {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in kept},
    }


def make_dirty(root: Path, git: GitCall) -> None:
    (root / "model.py").write_text("layers = 2\n")
    (root / "new.py").write_text("new = True\n")
    (root / "staged.py").write_text("staged = True\n")
    git(root, "add", "staged.py")
    (root / "src" / "data.py").unlink()


def test_snapshot_and_tags_touch_nothing(project: Path, git: GitCall) -> None:
    (project / "stashed.py").write_text("a = 1\n")
    git(project, "stash", "--include-untracked")
    make_dirty(project, git)
    (project / "logs").mkdir()
    (project / "logs" / "ignored.txt").write_text("ignored")
    os.utime(project / ".gitignore", ns=(10**18, 10**18))  # git would note in the index that it has compared it
    git(project, "config", "core.logAllRefUpdates", "always")
    git(project, "config", "core.splitIndex", "true")
    (project / ".git" / "hooks").mkdir(exist_ok=True)
    for hook in ("reference-transaction", "post-index-change", "post-checkout", "pre-commit"):
        (project / ".git" / "hooks" / hook).write_text('#!/bin/sh\ntouch "$(git rev-parse --git-dir)/hook-ran"\n')
        (project / ".git" / "hooks" / hook).chmod(0o755)
    before = traces(git, project)
    time.sleep(0.02)
    repository = Repository.find(project / "src")
    snapshot = repository.snapshot("a run")
    assert before == traces(git, project)
    for number in range(2):
        repository.tag("runs/digits/1", snapshot.commit, f"message {number} of record 123")
    repository.delete_tag("runs/digits/1", "123")
    assert repository.dirty
    assert [tag.name for tag in repository.tags()] == ["runs/digits/1-2"]
    assert before == traces(git, project)


def test_snapshot_holds_the_working_tree(project: Path, git: GitCall) -> None:
    make_dirty(project, git)
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(project)), name).write_text(name, errors="surrogateescape")
    os.symlink("model.py", project / "link.py")
    (project / "model.py").chmod(0o755)
    head = git(project, "rev-parse", "HEAD").strip()
    snapshot = Repository.find(project).snapshot("a run")
    expected = {"model.py", "new.py", "staged.py", ".gitignore", "link.py", *ODD_NAMES}
    assert files_of(git, project, snapshot.commit) == expected
    assert git(project, "show", f"{snapshot.commit}:model.py") == "layers = 2\n"
    assert git(project, "show", f"{snapshot.commit}:new\nline") == "new\nline"
    assert git(project, "ls-tree", snapshot.commit, "model.py").startswith("100755")
    assert git(project, "rev-parse", f"{snapshot.commit}^").strip() == head
    assert (snapshot.dirty, snapshot.left_out) == (True, [])
    assert not git(project, "for-each-ref", "--contains", snapshot.commit)


def test_clean_tree_is_its_own_snapshot(project: Path, git: GitCall) -> None:
    repository = Repository.find(project)
    head = git(project, "rev-parse", "HEAD").strip()
    assert (repository.commit, repository.branch, repository.dirty) == (head, "main", False)
    objects = sorted((project / ".git" / "objects").rglob("*"))
    snapshot = repository.snapshot("a run")
    assert (snapshot.commit, snapshot.dirty) == (head, False)
    assert sorted((project / ".git" / "objects").rglob("*")) == objects


def test_what_is_left_out_is_said(project: Path, git: GitCall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_tree, "LARGEST_FILE", 1000)
    (project / "large.bin").write_bytes(b"0" * 1001)
    (project / "best.ckpt").write_bytes(b"0")
    (project / "runs").mkdir()
    (project / "runs" / "metrics.csv").write_text("1")
    (project / "inner").mkdir()
    (project / "inner" / "file").write_text("1")
    git(project / "inner", "init", "--quiet")
    repository = Repository.find(project)
    snapshot = repository.snapshot("a run", exclude=[project / "runs", project, project.parent])
    assert snapshot.commit == repository.commit
    assert snapshot.left_out == [
        "best.ckpt (a checkpoint)",
        "inner/ (a repository of its own)",
        "large.bin (0.0 MB, untracked)",
    ]
    (project / "model.py").write_bytes(b"0" * 1001)  # tracked: taken whatever its size
    taken = repository.snapshot("a run", exclude=[Path("runs")])
    assert files_of(git, project, taken.commit) == {"model.py", "src/data.py", ".gitignore", "runs/metrics.csv"}
    for number in range(60):
        (project / f"{number}.ckpt").touch()
    assert repository.snapshot("a run").left_out[-1] == "and 13 more"


def test_run_folder_alone_leaves_the_tree_clean(project: Path) -> None:
    (project / "outputs").mkdir()
    (project / "outputs" / "log.txt").write_text("1")
    snapshot = Repository.find(project).snapshot("a run", exclude=[project / "outputs"])
    assert not snapshot.dirty


def test_too_much_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository.find(project)
    for number in range(5):
        (project / f"{number}.png").write_bytes(b"0" * 100)
    monkeypatch.setattr(working_tree, "MOST_FILES", 4)
    with pytest.raises(GitError, match=r"5 untracked files, and 4 are the most: list folders of data in \.gitignore"):
        repository.snapshot("a run")
    monkeypatch.setattr(working_tree, "MOST_FILES", 5)
    monkeypatch.setattr(working_tree, "MOST_BYTES", 499)
    with pytest.raises(GitError, match=r"MB of changed files, and .* are the most"):
        repository.snapshot("a run")


def test_paths_that_change_their_kind(project: Path, git: GitCall) -> None:
    for name in ("folder", "file", "linked"):
        if name == "file":
            (project / name).write_text("a file")
        else:
            (project / name).mkdir()
            (project / name / "inside.py").write_text("1")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "second")
    shutil.rmtree(project / "folder")
    (project / "folder").write_text("now a file")
    (project / "file").unlink()
    (project / "file").mkdir()
    (project / "file" / "inside.py").write_text("now a folder")
    shutil.rmtree(project / "linked")
    os.symlink("src", project / "linked")
    snapshot = Repository.find(project).snapshot("a run")
    expected = {".gitignore", "model.py", "src/data.py", "folder", "file/inside.py", "linked"}
    assert files_of(git, project, snapshot.commit) == expected


def test_a_file_changed_in_the_moment_of_the_last_add_is_seen(project: Path, git: GitCall) -> None:
    """Same size and time as git knows: only an index copy that keeps its own time makes git compare the contents."""
    git(project, "config", "core.checkStat", "minimal")
    git(project, "config", "core.trustctime", "false")
    model, index = project / "model.py", project / ".git" / "index"
    moment = (10**18, 10**18)  # long ago: git compares whole seconds
    model.write_text("layers = 3\n")
    os.utime(model, ns=moment)
    git(project, "update-index", "model.py")
    model.write_text("layers = 4\n")
    for path in (model, index):
        os.utime(path, ns=moment)
    snapshot = Repository.find(project).snapshot("a run")
    assert git(project, "show", f"{snapshot.commit}:model.py") == "layers = 4\n"


def test_merge_in_conflict(project: Path, git: GitCall) -> None:
    for branch in ("one", "two"):
        git(project, "checkout", "--quiet", "-b", branch, "main")
        (project / "model.py").write_text(f"layers = '{branch}'\n")
        git(project, "commit", "--quiet", "--all", "--message", branch)
    with pytest.raises(AssertionError):
        git(project, "merge", "one")
    (project / "model.py").write_text("layers = 'half solved'\n")
    status = git(project, "status", "--porcelain")
    snapshot = Repository.find(project).snapshot("a run")
    assert git(project, "show", f"{snapshot.commit}:model.py") == "layers = 'half solved'\n"
    assert git(project, "status", "--porcelain") == status


def test_before_the_first_commit(git: GitCall, home: Path, tmp_path: Path) -> None:
    root = tmp_path / "new"
    root.mkdir()
    git(root, "init", "--quiet")
    repository = Repository.find(root)
    assert (repository.commit, repository.branch) == (None, "main")
    (root / "model.py").write_text("layers = 1\n")
    snapshot = repository.snapshot("a run")
    assert git(root, "rev-list", snapshot.commit).split() == [snapshot.commit]
    assert files_of(git, root, snapshot.commit) == {"model.py"}
    assert git(root, "status", "--porcelain") == "?? model.py\n"


def test_detached_locked_shallow_and_in_a_worktree(project: Path, git: GitCall, tmp_path: Path) -> None:
    git(project, "commit", "--quiet", "--allow-empty", "--message", "second")
    git(tmp_path, "clone", "--quiet", "--depth=1", project.as_uri(), "shallow")
    git(project, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    git(project, "checkout", "--quiet", "--detach")
    for root, branch in ((project, None), (tmp_path / "shallow", "main"), (tmp_path / "side", "side")):
        repository = Repository.find(root)
        assert (repository.root, repository.branch) == (root.resolve(), branch)
        index = root / git(root, "rev-parse", "--git-path", "index").strip()
        index.with_name("index.lock").touch()
        (root / "model.py").write_text("layers = 2\n")
        snapshot = repository.snapshot("a run")
        assert git(root, "show", f"{snapshot.commit}:model.py") == "layers = 2\n"
        assert repository.tag("runs/a", snapshot.commit, "text").startswith("runs/a")


def test_submodules(project: Path, git: GitCall, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "layer.py").write_text("1")
    git(other, "init", "--quiet")
    git(other, "add", ".")
    git(other, "commit", "--quiet", "--message", "other")
    git(project, "submodule", "--quiet", "add", str(other), "vendor")
    git(project, "commit", "--quiet", "--message", "with submodule")
    repository = Repository.find(project)
    head = git(other, "rev-parse", "HEAD").strip()
    assert repository.snapshot("a run").submodules == {"vendor": head}
    (project / "vendor" / "layer.py").write_text("2")
    snapshot = repository.snapshot("a run")
    assert (snapshot.commit, snapshot.dirty) == (repository.commit, True)
    assert snapshot.left_out == ["vendor (changes inside the submodule)"]
    git(project / "vendor", "commit", "--quiet", "--all", "--message", "local")
    moved = repository.snapshot("a run")
    assert moved.submodules == {"vendor": git(project / "vendor", "rev-parse", "HEAD").strip()} != {"vendor": head}
    inside = Repository.find(project / "vendor")
    assert inside.root == (project / "vendor").resolve()
    assert inside.snapshot("a run").commit == inside.commit


def test_no_identity_is_no_obstacle(project: Path, git: GitCall, home: Path) -> None:
    (home / ".gitconfig").write_text(
        "[user]\n\tuseConfigOnly = true\n[tag]\n\tgpgSign = true\n\tforceSignAnnotated = true\n"
    )
    config = (project / ".git" / "config").read_bytes()
    (project / "model.py").write_text("layers = 2\n")
    repository = Repository.find(project)
    snapshot = repository.snapshot("a run")
    repository.tag("runs/a", snapshot.commit, "text")
    assert (
        git(project, "show", "-s", "--format=%an %ce", snapshot.commit) == "lightning-rules lightning-rules@localhost\n"
    )
    assert "lightning-rules" in git(project, "cat-file", "-p", "refs/tags/runs/a")
    assert (project / ".git" / "config").read_bytes() == config


def test_environment_of_a_hook_is_ignored(
    project: Path, git: GitCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    git(elsewhere, "init", "--quiet")
    for name, value in (("DIR", ".git"), ("WORK_TREE", ""), ("INDEX_FILE", ".git/index")):
        monkeypatch.setenv(f"GIT_{name}", str(elsewhere / value))
    monkeypatch.setenv("GIT_AUTHOR_DATE", "nonsense")
    (project / "model.py").write_text("layers = 2\n")
    repository = Repository.find(project)
    assert repository.root == project.resolve()
    assert repository.snapshot("a run").commit != repository.commit


def test_no_repository_says_why(tmp_path: Path, project: Path, git: GitCall, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoRepository, match="home is in no git repository: make one with `git init`"):
        Repository.find(tmp_path / "home")
    git(tmp_path, "clone", "--quiet", "--bare", str(project), "bare")
    with pytest.raises(NoRepository, match="without a working tree"):
        Repository.find(tmp_path / "bare")
    with pytest.raises(NoRepository, match="No such file"):
        Repository.find(tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoRepository, match="git is not installed, or not on the PATH"):
        Repository.find(project)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_repository_of_another_user(project: Path) -> None:
    for path in (project, project / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(NoRepository, match=r"belongs to another user.*git config --global --add safe.directory /"):
        Repository.find(project)


def test_git_that_hangs_is_ended(project: Path, git: GitCall, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that never ends, which keeps the pipes of git open."""
    git(project, "config", "filter.slow.clean", "sleep 60")
    (project / ".gitattributes").write_text("*.py filter=slow\n")
    (project / "model.py").write_text("layers = 2\n")
    monkeypatch.setattr(Git, "TIMEOUT", 1.0)
    start = time.monotonic()
    with pytest.raises(GitError, match=r"git (status|update-index) did not end within 1 seconds"):
        Repository.find(project).snapshot("a run")
    assert time.monotonic() - start < 10


def test_a_broken_repository_is_one_sentence(project: Path) -> None:
    repository = Repository.find(project)
    (project / ".git" / "index").write_bytes(b"garbage")
    with pytest.raises(GitError, match=r"^git status failed in .*project: ") as raised:
        repository.snapshot("a run")
    assert "\n" not in str(raised.value)
    with pytest.raises(GitError, match="could not be started"):
        repository.tag("with\0null", "HEAD", "")
    with pytest.raises(GitError, match="not a valid tag name"):
        repository.tag("with space", "HEAD", "")


def test_tags_are_never_moved(project: Path, git: GitCall) -> None:
    repository = Repository.find(project)
    commit = repository.commit
    assert commit is not None
    message = 'First line: ünï\n\n# no comment\n{"a": 1}\n\n'
    names = [repository.tag("runs/digits/408-val=0.9", commit, message) for _ in range(3)]
    assert names == ["runs/digits/408-val=0.9", "runs/digits/408-val=0.9-2", "runs/digits/408-val=0.9-3"]
    assert repository.tag("runs/digits", commit, "a folder of tags") == "runs/digits-2"
    git(project, "tag", "runs/digits/light")
    assert repository.tag("runs/digits/light", commit, message) == "runs/digits/light-2"
    tags = repository.tags("runs/digits")
    assert tags == [Tag(name, commit, message) for name in [*names, "runs/digits/light-2"]]
    assert repository.tags("runs/*") == repository.tags("runs/**") == repository.tags()
    assert len(repository.tags()) == 5
    assert repository.tags("other") == []


def test_a_tag_of_another_record_is_not_deleted(project: Path) -> None:
    repository = Repository.find(project)
    commit = str(repository.commit)
    repository.tag("runs/a", commit, "record 123")
    assert not repository.delete_tag("runs/a", "456")
    assert not repository.delete_tag("runs/a", "")
    assert not repository.delete_tag("runs/absent", "123")
    assert len(repository.tags()) == 1
    assert repository.delete_tag("runs/a", "123")
    assert repository.tags() == []


def test_runs_that_tag_at_once(project: Path) -> None:
    commit = str(Repository.find(project).commit)
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda n: Repository.find(project).tag("runs/a/1", commit, str(n)), range(16)))
    assert len(set(names)) == 16
    messages = {tag.name: tag.message for tag in Repository.find(project).tags()}
    assert messages == {name: str(number) for number, name in enumerate(names)}


def test_worktree_appears_whole_or_not_at_all(project: Path, git: GitCall, tmp_path: Path) -> None:
    (project / "new.py").write_text("new = True\n")
    repository = Repository.find(project)
    snapshot = repository.snapshot("a run")
    assert repository.has(snapshot.commit)
    folder = tmp_path / "restored run"
    repository.add_worktree(folder, snapshot.commit)
    assert (folder / "new.py").read_text() == "new = True\n"
    assert Repository.find(folder).branch is None
    with pytest.raises(GitError, match="exists: name one that does not"):
        repository.add_worktree(folder, snapshot.commit)
    assert not repository.has("0" * 40)
    with pytest.raises(GitError):
        repository.add_worktree(tmp_path / "none", "0" * 40)
    assert not (tmp_path / "none").exists()
    repository.remove_worktree(folder)
    assert not folder.exists()
    assert git(project, "worktree", "list", "--porcelain").count("worktree ") == 1


def test_worktree_whose_checkout_fails_leaves_nothing(project: Path, git: GitCall, tmp_path: Path) -> None:
    (project / ".gitattributes").write_text("*.py filter=broken\n")
    repository = Repository.find(project)
    commit = repository.snapshot("a run").commit
    git(project, "config", "filter.broken.smudge", "false")
    git(project, "config", "filter.broken.required", "true")
    with pytest.raises(GitError, match="git worktree failed"):
        repository.add_worktree(tmp_path / "broken", commit)
    assert not (tmp_path / "broken").exists()
    assert git(project, "worktree", "list", "--porcelain").count("worktree ") == 1

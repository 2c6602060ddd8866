"""Journals and databases that are not what they should be: one sentence each."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from lightning_recipe.runs.search import storage
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.plan import Plan
from lightning_recipe.runs.search.search import Search, strangers

Make, Open = Callable[..., Plan], Callable[..., Search]


@pytest.mark.parametrize(
    "content", ["something else\n", "{}\n", '{"op_code":99}\n', '{"op_code": 0}\n', '[1, 2]\n{"a": 1}\n']
)
def test_a_file_that_is_no_journal_stays_as_it_is(content: str) -> None:
    Path("notes.txt").write_text(content)
    with pytest.raises(ValueError, match=r"--storage notes.txt is no journal of a study: name another file"):
        storage.open_storage("notes.txt")
    assert Path("notes.txt").read_text() == content


@pytest.mark.timeout(60)
def test_the_lock_of_a_process_that_was_killed_is_taken_away(
    plan: Make, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "GRACE", 3)
    kept: Any = opened(plan()).standing.storage
    kept._backend._lock.acquire()  # and then it dies
    assert next(opened(plan()).fits()) is not None


def test_a_folder_is_no_journal() -> None:
    with pytest.raises(ValueError, match=r"--storage . is a folder: name a file in it, as in --storage study.journal"):
        storage.open_storage(".")


@pytest.mark.parametrize(
    ("where", "kind", "message"),
    [
        (
            "postgresql+nodriver://host/db",
            ValueError,
            "postgresql+nodriver://host/db is no address of a database: write",
        ),
        ("oracle+cx_oracle://me:secret@host/db", ImportError, "oracle+cx_oracle://me:***@host/db needs a driver that"),
        ("sqlite:///none/there/study.db", OSError, "sqlite:///none/there/study.db does not answer (unable to"),
        ("sqlite:///page.html", ValueError, "sqlite:///page.html is a file of something else than a database"),
    ],
)
def test_databases_that_are_none(where: str, kind: type[Exception], message: str) -> None:
    Path("page.html").write_text("<html>" * 200)
    with pytest.raises(kind) as raised:
        storage.open_storage(where)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_database_that_is_locked(monkeypatch: pytest.MonkeyPatch, plan: Make, opened: Open) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    search = opened(plan(), "sqlite:///study.db")
    other = sqlite3.connect("study.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"--storage sqlite:///study.db has been locked by another process for 0 s: end"):
        opened(plan(), "sqlite:///study.db")
    with (
        pytest.raises(OSError, match=r"has been locked .* What has ended is kept: the same command goes on."),
        storage.answering("sqlite:///study.db"),
    ):
        next(search.fits())
    other.execute("ROLLBACK")
    assert next(search.fits()) is not None


@pytest.mark.parametrize("where", ["all/study.journal", "sqlite:///study.db"])
def test_a_study_of_something_else_is_refused(
    where: str, plan: Make, opened: Open, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(plan(), where)
    opened(plan(9, sampler="tpe", pruner="median"), where)  # how it goes on may change
    with pytest.raises(
        ValueError, match=r"searches something else \(space.model.init_args.lr.log10 was \[-5, -2\] and"
    ):
        opened(plan(space=[Dimension("model.init_args.lr", "log10", -4, -1)]), where)
    with pytest.raises(ValueError, match=r"\(mode was min and is max\): choose another --folder or --study"):
        opened(plan(mode="max"), where)
    with pytest.raises(ValueError, match=r"\(seed was 0 and is 1\)"):
        opened(plan(seed=1), where)
    with pytest.raises(ValueError, match=r"\(rounds was 1 and is 2\)"):
        opened(plan(rounds=2), where)
    monkeypatch.setitem(settings["trainer"], "logger", {"class_path": "CSVLogger"})  # may be another on each machine
    opened(plan(), where)
    monkeypatch.setitem(settings["trainer"], "max_epochs", 9)
    with pytest.raises(ValueError, match=r"\(settings.trainer.max_epochs was 4 and is 9\)"):
        opened(plan(), where)


def test_a_study_of_somebody_else_is_refused(plan: Make, opened: Open) -> None:
    study = optuna.create_study(study_name="all", storage="sqlite:///study.db")
    study.ask()
    with pytest.raises(ValueError, match=r"The study all in sqlite:///study.db is none of `search`"):
        opened(plan(), "sqlite:///study.db")


def test_fits_of_another_study_are_noticed(plan: Make, opened: Open) -> None:
    search = opened(plan())
    assert next(search.fits()) is not None
    assert strangers(search.plan, Path("all"), search.standing.all()) == []
    assert strangers(search.plan, Path("all"), []) == ["trial_0000"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("logs/a@b.journal", "logs/a@b.journal"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert storage.without_password(url) == shown

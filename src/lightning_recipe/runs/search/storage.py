"""Where a study is kept, for one machine or many: a journal in a file, or a database."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from optuna.study import Study

from lightning_recipe.runs.fit import differences

# Seconds that a database may be locked by others, before that is an error.
PATIENCE = 30.0
# Seconds without a word in a journal, after which the lock of a process that was killed is taken away.
GRACE = 30
Lock = JournalFileOpenLock | JournalFileSymlinkLock
TOLD = "search"  # attribute of a study: what it searches


def open_storage(where: str) -> BaseStorage:
    """The storage of studies at a path (a journal) or at the URL of a database; a new one where there is none.

    Args:
        where: "logs/digits-search/study.journal", "sqlite:///study.db", "postgresql://...".

    Raises:
        ValueError: If it is a file of something else, or no URL.
        ImportError: If a database needs a driver that is not installed.
        OSError: If the database does not answer, or is locked.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    return _database(where) if "://" in where else _journal(Path(where))


def _journal(given: Path) -> JournalStorage:
    path = given.absolute()  # Optuna's lock is a link to it, and a relative one leads nowhere from another folder
    if path.is_dir():
        raise ValueError(
            f"--storage {given} is a folder: name a file in it, as in --storage {given / 'study.journal'}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    complaint = f"--storage {given} is no journal of a study: name another file, or one that does not exist yet."
    if path.exists():
        _cut_off_what_was_not_finished(path, lock, complaint)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(complaint) from error


def _lock(path: Path) -> Lock:
    kind = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    return kind(str(path), grace_period=GRACE)


def _cut_off_what_was_not_finished(path: Path, lock: Lock, complaint: str) -> None:
    """A process that is killed while it writes leaves half a line, to which the next would add its own."""
    with path.open("rb") as file:
        first = file.readline()
    if first and not _is_entry(first):
        raise ValueError(complaint)
    lock.acquire()
    try:
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (1 << 20)))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    finally:
        lock.release()


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return line.startswith(b'{"op_code"') and not line.endswith(b"\n")  # cut off
    return isinstance(entry, dict) and "op_code" in entry


def _database(url: str) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError

    shown = without_password(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": PATIENCE}}
    try:
        return get_storage(RDBStorage(url, engine_kwargs=options))  # which remembers trials that have ended
    except ImportError as error:
        scheme = url.partition("://")[0]
        raise ImportError(
            f"--storage {shown} needs a driver that is not installed: `pip install` one for {scheme} (psycopg2-binary "
            "for postgresql, pymysql for mysql+pymysql)."
        ) from error
    except ArgumentError as error:
        raise ValueError(
            f"--storage {shown} is no address of a database: write sqlite:///FILE, postgresql://USER@HOST/NAME, or the "
            "path of a journal."
        ) from error
    except (OperationalError, StorageInternalError) as error:
        raise OSError(_unanswered(shown, error)) from error
    except DatabaseError as error:
        raise ValueError(f"--storage {shown} is a file of something else than a database: name another.") from error
    except (RuntimeError, SQLAlchemyError) as error:
        raise ValueError(f"--storage {shown} cannot keep a study ({_first_line(error)}): name another.") from error


def _unanswered(shown: str, error: Exception) -> str:
    reason = _first_line(error.__cause__ or error)
    if "locked" in reason:
        return f"--storage {shown} has been locked by another process for {PATIENCE:.0f} s: end that, or name another."
    return f"--storage {shown} does not answer ({reason}): see whether it runs and lets you in, or name another."


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def without_password(url: str) -> str:
    """The address of a database as it may be shown."""
    if "://" not in url:
        return url
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{':***' if ':' in user else ''}{at}{place}" if at else url


def open_study(
    storage: BaseStorage,
    name: str,
    told: Mapping[str, Any],
    where: str,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
) -> Study:
    """The study of a name, made where there is none.

    Args:
        storage: Where it is kept.
        name: What it is called there.
        told: What it searches; see `Plan.describe`.
        where: The storage, for messages.
        sampler: Chooses its points.
        pruner: Chooses which trials end early.

    Raises:
        ValueError: If the study searches something else.
        OSError: If the storage does not answer.
    """
    told = json.loads(json.dumps(told, default=str))
    direction: Any = "minimize" if told["mode"] == "min" else "maximize"
    try:
        study = optuna.create_study(
            storage=storage, sampler=sampler, pruner=pruner, study_name=name, direction=direction, load_if_exists=True
        )
        then = study.user_attrs.get(TOLD)
        if then is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(TOLD, told)
            return study
    except StorageInternalError as error:
        raise OSError(_unanswered(without_password(where), error)) from error
    if then is None:
        raise ValueError(
            f"The study {name} in {without_password(where)} is none of `search`: choose another --study or --storage."
        )
    difference = next(differences(then, told), None)
    if difference:
        raise ValueError(
            f"The study {name} in {without_password(where)} searches something else ({difference}): choose another "
            "--folder or --study for this, or give that again."
        )
    return study


@contextmanager
def answering(where: str) -> Iterator[None]:
    """Turn what a storage raises in the midst of a search into one sentence.

    Args:
        where: The storage, for the message.

    Raises:
        OSError: If the storage does not answer any more, or is locked for too long.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise OSError(
            f"{_unanswered(without_password(where), error)} What has ended is kept: the same command goes on."
        ) from error

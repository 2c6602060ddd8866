"""Which exceptions are messages to the person at the command line, and which are bugs to be traced."""

import linecache
import sysconfig
import traceback

from lightning.fabric.utilities.exceptions import MisconfigurationException

# What a wrong setting raises, here and in Lightning. Anything else keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, MisconfigurationException)
_OUR_PACKAGES = ("lightning_recipe", "lightning_rules", "lightning", "pytorch_lightning")
_LOOPS = ("lightning.pytorch.loops", "pytorch_lightning.loops")


def message_in(error: BaseException) -> str | None:
    """The sentence meant for the person at the command line, if the exception is or carries one; else None.

    jsonargparse tries the types that an option may have in turn. What the constructor of a model or of data raises
    is then the cause of an exception about types, which nobody at a command line has asked about. And what happens
    in a worker process of a loader arrives as text with a traceback in it.

    Args:
        error: An exception that was raised and caught, so that it carries its traceback.
    """
    while not is_message(error) and error.__cause__ is not None and _raised_in(error).startswith("jsonargparse"):
        error = error.__cause__
    return str(error) if is_message(error) else _message_of_worker(str(error))


def _message_of_worker(text: str) -> str | None:
    lines = text.strip().splitlines()
    places = [line for line in lines if line.lstrip().startswith("File ")]
    from_worker = bool(lines) and lines[0].startswith("Caught ") and "in DataLoader worker process" in lines[0]
    if not (from_worker and places and "lightning_recipe" in places[-1]):
        return None
    return lines[-1].partition(": ")[2]


def _raised_in(error: BaseException) -> str:
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""


def is_message(error: BaseException) -> bool:
    """Whether an exception is a sentence somebody wrote for this very case, so that a traceback adds nothing.

    It is one if a `raise` statement made it (not `int("x")`, not a library three floors down) and that
    statement is in this package, in `lightning_rules`, in Lightning, or in code of the project itself that
    ran before the loops began: a constructor or `setup` of its model or data. What the project's own code
    raises in the midst of training keeps its traceback, for there one wants to see the way to it.

    Args:
        error: An exception that was raised and caught, so that it carries its traceback.
    """
    if not isinstance(error, USER_ERRORS) or not str(error):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = frames[-1]
    if not linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise "):
        return False
    modules = [str(f.f_globals.get("__name__", "")) for f, _ in frames]
    if modules[-1].partition(".")[0] in _OUR_PACKAGES:
        return True
    in_loops = any(module.startswith(_LOOPS) for module in modules)
    return not in_loops and not _is_library(frame.f_code.co_filename)


def _is_library(filename: str) -> bool:
    paths = sysconfig.get_paths()
    return filename.startswith(tuple(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")))

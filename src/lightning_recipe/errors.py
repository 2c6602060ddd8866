"""Which exceptions are messages to the person at the command line, and which are bugs to be traced."""

import linecache
import sysconfig
import traceback

from lightning.fabric.utilities.exceptions import MisconfigurationException

# What a wrong setting raises, here and in Lightning. Anything else keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, MisconfigurationException)
_OUR_PACKAGES = ("lightning_recipe", "lightning_rules", "lightning", "pytorch_lightning")
_LOOPS = ("lightning.pytorch.loops", "pytorch_lightning.loops")


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

"""The subcommands made of several fits; each is a module with a function `run`, imported when it is asked for."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

MODULES = {
    "crossval": "lightning_recipe.runs.crossval",
    "ensemble": "lightning_recipe.runs.ensemble",
    "learning-curve": "lightning_recipe.runs.learning_curve",
    "refit": "lightning_recipe.runs.refit",
    "search": "lightning_recipe.runs.search.command",
}
EPILOG = (
    "Of several fits: `crossval --folds 5` tests a configuration on examples that it has not seen, each in turn; "
    "`search --trials 20 --space FILE` finds the best options; `learning-curve --sizes 6` says what more data would "
    "bring; `refit --run FOLDER --strategy restart|continue` retrains on training and validation data together; "
    "`ensemble --members 5 --how seeds|folds|snapshots|bagging` trains several and makes one of them."
)


def run(name: str, arguments: Sequence[str], command_line: Any) -> None:
    """Run one of them; Ctrl-C ends it with one line on stderr.

    Args:
        name: One of `MODULES`.
        arguments: Those after the name.
        command_line: The :class:`~lightning_recipe.runs.procedure.CommandLine` of the project.

    Raises:
        SystemExit: With status 130 after Ctrl-C; as the procedure says.
    """
    try:
        importlib.import_module(MODULES[name]).run(arguments, command_line)
    except KeyboardInterrupt:
        print(f"\n{name} was interrupted, and what ran was ended; the same command goes on.", file=sys.stderr)
        raise SystemExit(130) from None

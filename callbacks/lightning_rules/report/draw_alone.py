"""Run by its path, in a process beside training: draws the page of a run without importing torch or Lightning.

The package's ``__init__`` imports all rules, which takes seconds and hundreds of megabytes that drawing has no use for.
Here the package is its folder alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> int:
    """Draw, giving way to whatever else the machine has to do."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has no such thing
        os.nice(19)
    package = ModuleType("lightning_rules")
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["lightning_rules"] = package
    from lightning_rules.report.__main__ import main as draw

    return draw()


if __name__ == "__main__":
    sys.exit(main())

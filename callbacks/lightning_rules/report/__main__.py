"""``python -m lightning_rules.report RUN [RUN ...]``: draws the page of a run again, or compares several."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_rules.report.command import run


def main(words: Sequence[str] | None = None) -> int:
    """Write the page and say where it is; 2 where there is nothing to draw or no place to write."""
    try:
        run(words, "python -m lightning_rules.report")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How a tag tells a kept checkpoint: by its name, and by a message that holds the record of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LONGEST_PART = 60  # letters, at most 240 bytes: file systems take 255 for a name, and git appends ".lock"


def tag_name(record: Mapping[str, Any], step: int, monitor: str | None = None, score: Any = None) -> str:
    """The name of a checkpoint's tag: ``runs/digits/version_3/408-val-accuracy=0.9833``.

    It is legal for git, whatever run and metric are called.

    Args:
        record: The run's record.
        step: Optimiser steps taken.
        monitor: The metric that the checkpoint was kept for, if there is one.
        score: Its value: a number or a tensor that holds one.
    """
    last = str(step)
    if monitor:
        last += f"-{monitor}".replace("/", "-")
        last += "" if score is None else f"={float(score):.4g}"
    return f"{tag_folder(record['run'])}/{legal_part(last)}"


def tag_folder(run: str) -> str:
    """What the names of all tags of a run begin with, as in "runs/digits/version_3"."""
    return "/".join(legal_part(part) for part in ("runs", *run.split("/")) if part)


def legal_part(part: str) -> str:
    """One part of the name of a git reference: of letters, digits and ``_ - = + .``, without what git forbids."""
    part = re.sub(r"[^\w=+.-]+", "-", part)[:LONGEST_PART]
    part = re.sub(r"\.{2,}", ".", part).strip(".")
    return re.sub(r"\.lock$", "-lock", part) or "run"


def tag_message(full: Mapping[str, Any]) -> str:
    """The message of a checkpoint's tag: a sentence for a person, an empty line, and all of the record as JSON.

    Args:
        full: The record with ``step``, ``metrics`` and ``checkpoint``.
    """
    metrics = [f"{name} {value:.4g}" for name, value in full.get("metrics", {}).items() if isinstance(value, float)]
    said = [f"{full['run']}, step {full.get('step', 'unknown')}", *metrics[:5]]
    return f"{' '.join(', '.join(said).split())}\n\n{json.dumps(full, indent=1)}\n"


def parse_tag_message(message: str) -> dict[str, Any]:
    """The record in a tag's message.

    Raises:
        ValueError: The message holds none.
    """
    try:
        record = json.loads(message.partition("\n\n")[2])
    except ValueError:
        record = None
    if not isinstance(record, dict) or "format" not in record or "run" not in record:
        raise ValueError(f"Expected a tag of GitTagCheckpoint, but its message holds no record: {message[:60]!r}.")
    return record

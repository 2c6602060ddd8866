"""What a run cost and what brings it back, in words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_rules.report.document import Document
from lightning_rules.report.style import number, shortened

LONGEST = 100_000  # letters of a configuration
HOUR, DAY = 3600, 86400


@dataclass(frozen=True)
class Fact:
    """A line of a table, or a text to copy.

    Attributes:
        name: What it is.
        text: What is known of it.
        is_block: Whether it stands below its name, in lines of its own.
    """

    name: str
    text: str
    is_block: bool = False


def costs_of(document: Document) -> list[Fact]:
    """What is known of time, memory and energy."""
    cost = {name: value for name, value in document.cost.items() if value is not None and value > 0}
    found = [
        ("Whole run", "seconds", duration),
        ("A step", "batch_seconds", duration),
        ("A step that the rules watch", "sampled_batch_seconds", duration),
        ("Memory of the process, at most", "peak_bytes", size),
        ("Memory of the device, at most", "device_peak_bytes", size),
        ("Energy of the whole processor or graphics card", "joules", energy),
    ]
    facts = [Fact(title, told(cost[name])) for title, name, told in found if name in cost]
    if "monitor_seconds" in cost and "seconds" in cost:
        share = cost["monitor_seconds"] / cost["seconds"]
        facts.insert(1, Fact("Rules that watch", f"{duration(cost['monitor_seconds'])} ({share:.1%} of the run)"))
    return facts


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, unit, each in ((1e-3, "µs", 1e-6), (1, "ms", 1e-3), (60, "s", 1.0)):
        if seconds < limit:
            return f"{seconds / each:.3g} {unit}"
    if seconds < HOUR:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    days, rest = divmod(int(seconds), DAY)
    return f"{days} d " * (days > 0) + f"{rest // HOUR} h {rest % HOUR // 60} min"


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= each:
            return f"{number(float(f'{count / each:.3g}'))} {unit}"
    return f"{count:.0f} bytes"


def energy(joules: float) -> str:
    """Joules, and in watt-hours as on a bill."""
    return f"{number(float(f'{joules:.3g}'))} J ({number(float(f'{joules / HOUR:.3g}'))} Wh)"


def record_of(document: Document) -> list[Fact]:
    """What brings the run back; what is not known is missing, or says why."""
    record = document.record
    found = record.get("code")
    code: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    command = record.get("command")
    facts = [
        Fact("Command", _text(shlex.join(map(str, command)) if isinstance(command, (list, tuple)) else command), True),
        Fact("Folder", _text(record.get("folder"))),
        Fact("Seed", _text(record.get("seed"))),
        Fact("Best checkpoint", _text(record.get("checkpoint"))),
        Fact("Tag", _text(record.get("tag"))),
        Fact("Commit", _commit(code)),
        Fact("Branch", _text(code.get("branch"))),
        Fact("Code as it ran", _text(code.get("snapshot"))),
        Fact("Commit not known", _text(record.get("why_not") or code.get("why_not"))),
        *_data(record.get("data")),
        Fact("Configuration", _text(record.get("config")), True),
        Fact("Versions", _versions(record.get("versions")), True),
    ]
    return [fact for fact in facts if fact.text]


def _commit(code: Mapping[str, Any]) -> str:
    commit = _text(code.get("commit"))
    changed = " (with changes that are not committed)" if commit and code.get("dirty") else ""
    return commit + changed


def _data(data: Any) -> list[Fact]:
    if not isinstance(data, Mapping):
        return []
    facts = [Fact("Data module", _text(data.get("datamodule"))), Fact("Data", _text(data.get("why_not")))]
    for one in data.get("datasets") or ():
        if isinstance(one, Mapping):
            length = f"{one['length']:,} examples, " if isinstance(one.get("length"), int) else ""
            print_of = f"fingerprint {one['fingerprint']}" if one.get("fingerprint") else "no fingerprint"
            facts.append(Fact("Data", f"{_text(one.get('class'))}: {length}{print_of} ({_text(one.get('of'))})"))
    return facts


def _versions(versions: Any) -> str:
    if not isinstance(versions, Mapping):
        return _text(versions)
    return "\n".join(f"{name} {_text(value)}".rstrip() for name, value in versions.items())


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shortened(text, LONGEST)

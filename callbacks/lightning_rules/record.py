"""Where findings go: a file beside the run's logs and a table at its end. Only the main process writes."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rules.finding import Finding, Severity

FILE = "rules/findings.jsonl"
LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}
STYLES = {Severity.OK: "green", Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}


log = logging.getLogger("lightning_rules")
if not logging.root.hasHandlers():  # as Lightning does: heard where the program has set up no logging of its own
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False


@contextmanager
def silence() -> Iterator[None]:
    """Neither log nor print findings inside the block: the caller hands them on."""
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by severity, the worst first, then by step; findings alike in both keep their order."""
    return sorted(findings, key=lambda finding: (-finding.severity, finding.step))


def announce(findings: Iterable[Finding], loud: bool) -> None:
    """Log findings at once, for those who watch the run: alarms always, information where it is ``loud``."""
    for finding in findings:
        if finding.severity >= Severity.WARNING or (loud and finding.severity is Severity.INFO):
            log.log(LEVELS[finding.severity], f"{finding.rule}: {finding.message} {finding.advice}".rstrip())


def save(findings: Iterable[Finding], folder: str | None) -> None:
    """Write ``rules/findings.jsonl`` below a run's log folder (local, or any address fsspec knows).

    The file is replaced as a whole: a reader never sees half of it. A folder that cannot be written is a warning, not
    the end of the run. Without a folder (``fast_dev_run``) nothing is written.
    """
    if folder is None:
        return
    try:
        write_findings(findings, f"{folder}/{FILE}")
    except Exception as error:
        log.warning(
            f"The findings could not be written to {folder}/{FILE} ({error}); the run goes on without the file."
        )


def write_findings(findings: Iterable[Finding], path: str) -> None:
    """One JSON object a line, written as :func:`write_file` does.

    Raises:
        OSError: The folder cannot be made or written.
    """
    write_file("".join(finding.to_json() + "\n" for finding in findings), path)


def write_file(content: str | bytes, path: str) -> None:
    """Write a file as a whole, local or at any address that fsspec knows; text as UTF-8.

    Raises:
        OSError: The folder cannot be made or written.
    """
    if "://" in path:  # an object store: a write there is whole or not at all
        with fsspec.open(path, "wb") as file:
            file.write(_as_bytes(content))
        return
    write_local(content, Path(path))


def _as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def write_local(content: str | bytes, target: Path) -> None:
    """Write a local file beside its place, then rename it; missing folders are made; text as UTF-8.

    Raises:
        OSError: The folder cannot be made or written; nothing is left there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(_as_bytes(content))
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def read_findings(path: Path) -> list[Finding]:
    """The findings of a ``findings.jsonl``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a finding; the message names it.
    """
    findings = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            findings.append(Finding.from_dict(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"Line {number} of {path} is not a finding: {line[:80]!r}; was it edited?") from error
    return findings


def findings_table(findings: Iterable[Finding], shown: Iterable[Finding] | None = None) -> Table:
    """A table of findings for a terminal, worst first; what was checked and holds is counted in the caption.

    Args:
        findings: All there are.
        shown: Those that are told, the others are counted; None for all.
    """
    findings = worst_first(findings)
    counts = Counter(finding.severity for finding in findings)
    caption = ", ".join(f"{counts[severity]} {severity}" for severity in reversed(Severity) if counts[severity])
    table = Table(
        title="lightning-rules",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("severity", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    table.add_column("what was seen, and what to do", overflow="fold")
    for finding in findings if shown is None else worst_first(shown):
        style = STYLES[finding.severity]
        # Text, not str: messages may hold names of classes and files, whose brackets are not markup.
        said = Text(finding.message)
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style="dim")
        table.add_row(Text(str(finding.severity), style=style), Text(finding.rule), said)
    return table


def print_findings(
    findings: Iterable[Finding], folder: str | None = None, shown: Iterable[Finding] | None = None
) -> None:
    """Print the table to standard output, and below it where the same findings are stored.

    Silent when the program has set the logger ``lightning_rules`` to more than warnings.

    Args:
        findings: All there are.
        folder: Of the run, whose file holds them; None without.
        shown: Those that are told, where a page tells all; the others are counted. None for all.
    """
    findings = list(findings)
    if not findings or not log.isEnabledFor(logging.WARNING):
        return
    console = Console()
    console.print(findings_table(findings, shown))
    if folder is not None:
        path = f"{folder}/{FILE}"
        place = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
        console.print(Text(f"findings: {place}\n"), soft_wrap=True)

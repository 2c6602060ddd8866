"""What the benchmarks share: the line that says where figures come from, and the file that keeps them."""

import argparse
import contextlib
import datetime
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).resolve().with_name("RESULTS.md")


def origin(*packages: str) -> str:
    """Date, versions and machine: "2026-11-21, torch 2.15.0, Python 3.11.7, 2 CPU cores"."""
    versions = [f"{name} {version(name)}" for name in packages]
    python, cores = f"Python {platform.python_version()}", f"{os.cpu_count()} CPU cores"
    return ", ".join([str(datetime.date.today()), *versions, python, cores])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Train inside the block without a word of Lightning or of the rules, and leave no file where one stands."""
    levels = {"lightning.pytorch": logging.ERROR, "lightning_rules": logging.CRITICAL}
    before = {name: logging.getLogger(name).level for name in levels}
    with (
        contextlib.ExitStack() as undo,
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        warnings.catch_warnings(action="ignore"),
    ):
        for name, level in levels.items():
            undo.callback(logging.getLogger(name).setLevel, before[name])
            logging.getLogger(name).setLevel(level)
        yield


def command_line(document: str | None, heading: str, report: Callable[[int], str], rounds: int) -> None:
    """The command line of a script: read the options, measure in so many rounds, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns that count (default: {rounds})")
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    text = report(options.rounds)
    print(text)
    if options.record:
        record(heading, text)


def record(heading: str, text: str, path: Path = RESULTS) -> None:
    """Put the command that runs and its text under a heading of RESULTS.md, in the place of what stood there."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    command = " ".join(word for word in words if word != "--record")
    title = f"## {heading}\n"
    old = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n"
    before, found, rest = old.partition(title)
    others = rest.partition("\n## ")[2]
    after = f"\n## {others}" if found and others else ""
    path.write_text(f"{before.rstrip()}\n\n{title}`{command}`: {text}\n{after}", encoding="utf-8")

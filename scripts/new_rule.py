"""Write the skeleton of a rule: its file, its test file and its export.

    python scripts/new_rule.py init weight-scale --kind check

What is written works: it measures the loss of the first batch and judges whether it is finite. Put your measurement
and your judgement in their place, and write the docstring; until then the contract test says what is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import lightning.pytorch.callbacks
from rule_skeleton import KINDS, RULE, TEST

from lightning_recipe.whole_file import whole_file
from lightning_rules.catalogue import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("callbacks", "lightning_rules")
KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files of a new rule, or none of them.

    Returns:
        The exit status: 1 where nothing was written; one sentence on standard error says why.
    """
    parser = argparse.ArgumentParser(description="Write the skeleton of a rule, its test and its export.")
    parser.add_argument("family", metavar="FAMILY", help=f"the folder: {', '.join(FAMILIES)}")
    parser.add_argument("name", metavar="NAME", help="the pattern in kebab case, such as loss-at-init")
    parser.add_argument("--kind", default="check", help="what it does: enforce, check (default) or report")
    given = parser.parse_args(arguments)
    try:
        refuse(given.family, given.name, given.kind)
        texts = files(given.family, given.name, given.kind)
        write_all_or_none(texts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Nothing was written: {error.filename} ({error.strerror}); make it writable.", file=sys.stderr)
        return 1
    for path in texts:
        print(f"Wrote {path.relative_to(ROOT)}.")
    print("Next: replace measurement and judgement, write the docstring, run `make test`.")
    return 0


def class_name(name: str) -> str:
    """``"loss-at-init"`` as ``"LossAtInit"``."""
    return "".join(word.capitalize() for word in name.split("-"))


def refuse(family: str, name: str, kind: str) -> None:
    """Refuse what could not become a rule.

    Raises:
        ValueError: One sentence: what was given, what was expected, what to do.
    """
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r} of rules; choose one of {', '.join(FAMILIES)}.")
    if not KEBAB_CASE.fullmatch(name):
        words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
        better = "-".join(words).lower()
        better = better if KEBAB_CASE.fullmatch(better) else "loss-at-init"
        raise ValueError(f"The name {name!r} is not in kebab case; write lower-case words and hyphens: {better!r}.")
    if keyword.iskeyword(name):
        raise ValueError(f"The name {name!r} is a keyword of Python and cannot be imported; choose another.")
    if kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r} of rules; choose one of {', '.join(KINDS)}.")
    written = class_name(name).lower()
    if written in {other.lower() for other in lightning.pytorch.callbacks.__all__}:
        raise ValueError(f"The class {class_name(name)} would hide Lightning's callback of that name; choose another.")
    exported = re.findall(r'"(\w+)"', (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    if written in map(str.lower, exported):
        raise ValueError(f"lightning_rules exports {class_name(name)} already; choose another name than {name!r}.")
    stem = name.replace("-", "_")
    taken = [*(ROOT / PACKAGE).glob(f"*/{stem}.py"), *(ROOT / "tests").glob(f"*/test_{stem}.py")]
    if taken:
        raise ValueError(f"{taken[0].relative_to(ROOT)} exists already; choose another name than {name!r}.")


def files(family: str, name: str, kind: str) -> dict[Path, str]:
    """The text of each file that makes a rule, by path; the export last, since it needs the others."""
    stem = name.replace("-", "_")
    module = f"lightning_rules.{family}.{stem}"
    words = {"name": name, "kind": kind, "CLASS": class_name(name), "module": module, **KINDS[kind]}
    rule = ROOT / PACKAGE / family / f"{stem}.py"
    test = ROOT / "tests" / family / f"test_{stem}.py"
    export = ROOT / PACKAGE / "__init__.py"
    texts = {
        rule: Template(RULE).substitute(words),
        test: Template(TEST).substitute(words),
        export: _exported(export.read_text(encoding="utf-8"), module, class_name(name)),
    }
    package = ROOT / PACKAGE / family / "__init__.py"
    if not package.exists():
        texts = {package: f'"""{FAMILIES[family]}"""\n', **texts}
    return {path: _tidy(text, path) for path, text in texts.items()}


def _exported(text: str, module: str, name: str) -> str:
    """The package's ``__init__`` with one more import and one more name."""
    line = f"from {module} import {name}\n"
    text = text.replace("from lightning_rules.", f"{line}from lightning_rules.", 1)
    return text.replace("__all__ = [\n", f'__all__ = [\n    "{name}",\n', 1)


def _tidy(text: str, path: Path) -> str:
    """The text with sorted imports and names, formatted; ruff knows how."""
    if importlib.util.find_spec("ruff") is None:
        raise ValueError("ruff is not installed here; run `make lint` once and use `.venv/bin/python`.")
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--quiet", "--fix-only", "--select", "I001,RUF022"], ["format", "--quiet"]):
        command = [*ruff, *command, "--stdin-filename", str(path), "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise ValueError(f"ruff could not tidy {path.relative_to(ROOT)}: {done.stderr.strip()}")
        text = done.stdout
    return text


def write_all_or_none(texts: Mapping[Path, str]) -> None:
    """Write files; if one of them cannot be written, put back what was there before.

    Raises:
        OSError: A folder or file cannot be written; nothing has changed then.
    """
    before = {path: path.read_bytes() if path.exists() else None for path in texts}
    made: list[Path] = []
    try:
        for path, text in texts.items():
            made += [path.parent] if not path.parent.exists() else []
            with whole_file(path) as file:
                file.write(text)
    except BaseException:
        for path, content in before.items():
            if content is not None:
                path.write_bytes(content)
            elif path.is_file():
                path.unlink()
        for folder in reversed(made):
            if folder.exists():
                folder.rmdir()
        raise


if __name__ == "__main__":
    sys.exit(main())

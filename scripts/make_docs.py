"""Write docs/rules.md, the page of all rules, from their docstrings.

    python scripts/make_docs.py            writes it
    python scripts/make_docs.py --check    writes nothing; exit status 1 and one sentence if it is stale

A README that holds the two comments of TABLE gets the table of all rules between them.
"""

from __future__ import annotations

import argparse
import doctest
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import lightning_rules
from lightning_recipe.whole_file import whole_file
from lightning_rules import Rule
from lightning_rules.catalogue import FAMILIES, SECTIONS, family_of, page_of, rules_in
from lightning_rules.recommended import RECOMMENDED

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/rules.md"
README = "README.md"
TABLE = ("<!-- rules: written by scripts/make_docs.py -->", "<!-- /rules -->")
HEAD = """# The rules

<!-- Written by scripts/make_docs.py from the docstrings of the rules: edit those. -->

An *enforce* rule acts, a *check* judges with numbers, a *report* shows what a person should look at. The recommended
ones are those that `recommended()` returns.
"""


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the generated files, or look whether they are stale.

    Returns:
        The exit status: 1 if ``--check`` found a stale file.
    """
    parser = argparse.ArgumentParser(description="Write docs/rules.md from the docstrings of the rules.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args(arguments).check
    files = generated(rules_in(lightning_rules), root)
    stale = [name for name, text in files.items() if _read(root / name) != text]
    if check and stale:
        print(f"Out of date: {' and '.join(stale)}; run `.venv/bin/python scripts/make_docs.py`, which writes anew.")
        return 1
    for name in stale:
        with whole_file(root / name) as file:
            file.write(files[name])
        print(f"Wrote {name}.")
    return 0


def generated(rules: Sequence[type[Rule]], root: Path) -> dict[str, str]:
    """The text that each generated file should hold, by its path below ``root``."""
    files = {PAGE: "\n".join([HEAD, table(rules, ""), *map(section, rules)])}
    readme = _read(root / README)
    start, end = TABLE
    if readme and start in readme and end in readme:
        before, _, rest = readme.partition(start)
        after = rest.partition(end)[2]
        files[README] = f"{before}{start}\n{listing(rules, PAGE)}{end}{after}"
    return files


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def table(rules: Sequence[type[Rule]], page: str) -> str:
    """One line a rule; names link to their sections in ``page``."""
    lines = ["| rule | what it says | kind | recommended | source |", "| --- | --- | --- | --- | --- |"]
    for rule in rules:
        recommended = "yes" if rule in RECOMMENDED else ""
        cells = [page_of(rule).sentence, rule.kind, recommended, rule.source]
        cells = [markdown(cell).replace("|", r"\|") for cell in cells]
        lines.append(f"| [{rule.name}]({page}#{rule.name}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def listing(rules: Sequence[type[Rule]], page: str) -> str:
    """One line a family, which names its rules; those that are recommended in bold."""
    families: dict[str, list[str]] = {}
    for rule in rules:
        link = f"[{rule.name}]({page}#{rule.name})"
        families.setdefault(family_of(rule), []).append(f"**{link}**" if rule in RECOMMENDED else link)
    rows = [f"| {FAMILIES[family].rstrip('.')} | {', '.join(links)} |" for family, links in families.items()]
    return "\n".join(["| | bold: recommended |", "| --- | --- |", *rows]) + "\n"


def section(rule: type[Rule]) -> str:
    """A rule's docstring as a section."""
    page = page_of(rule)
    lines = [f"## {rule.name}", "", f"`{rule.__name__}` · {rule.kind}", "", markdown(page.sentence), ""]
    for name in SECTIONS:
        if name == "Example":
            lines += ["**Example**", "", "```python", *_code(rule), "```", ""]
        elif name == "Args":
            lines += ["**Arguments**", "", *_arguments(rule), ""]
        else:
            lines += [f"**{name}**", "", markdown(page.sections.get(name, "")), ""]
    return "\n".join(lines)


def _code(rule: type[Rule]) -> list[str]:
    """The example as one would paste it: with its import, without prompts, results as comments."""
    lines = [f"from lightning_rules import {rule.__name__}"]
    for example in doctest.DocTestParser().get_examples(page_of(rule).sections.get("Example", "") + "\n"):
        lines += example.source.splitlines() + [f"# {line}" for line in example.want.splitlines()]
    return lines


def _arguments(rule: type[Rule]) -> list[str]:
    hints = get_type_hints(rule.__init__)
    said = page_of(rule).arguments
    lines = []
    for name, parameter in inspect.signature(rule).parameters.items():
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"- `{name}: {_shown(hints[name])}{default}`: {markdown(said.get(name, ''))}")
    return lines


def _shown(hint: Any) -> str:
    """A type as one writes it, without the module's name."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    if "Literal" in str(get_origin(hint)):
        return f"Literal[{', '.join(map(repr, get_args(hint)))}]"
    return re.sub(r"\b(typing|collections\.abc)\.", "", str(hint))


def markdown(text: str) -> str:
    """Docstring markup as Markdown: roles and double backticks become code."""
    text = re.sub(r":[a-z:]+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text)


if __name__ == "__main__":
    sys.exit(main())

"""All rules of a package, and the page that each rule's docstring is: tables, docs and the contract read from here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from lightning_rules.rule import Rule

# The folders that hold rules, in the order of a project's life, and what their rules are about.
FAMILIES = {
    "data": "Rules about the data.",
    "init": "Rules about how a network starts.",
    "preflight": "Rules about what must hold before training is worth its time.",
    "optimise": "Rules about the optimiser, its step and its schedule.",
    "watch": "Rules about what to watch while a network trains.",
    "regularise": "Rules about closing the gap between training and validation.",
    "combine": "Rules about several networks that answer together.",
    "reproduce": "Rules about getting the same result again.",
    "report": "Rules about showing a person what came of it.",
}

# The headings of a rule's docstring, in this order, after its first sentence.
SECTIONS = ("Why", "What it does", "Fires when", "Under DDP", "Cost", "Example", "Source", "Args")

# What `scripts/new_rule.py` writes where a person has to write.
UNFILLED = "FILL IN"

_HEADING = re.compile(r"([A-Z][A-Za-z ]*):(?: (.*))?")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?: \([^)]*\))?: ?(.*)")


@dataclass(frozen=True)
class Page:
    """A rule's docstring, taken apart.

    Attributes:
        sentence: The rule in one sentence: the first line.
        sections: What stands under each heading, by heading, in the order of the docstring, indentation removed.
    """

    sentence: str
    sections: Mapping[str, str]

    @property
    def arguments(self) -> dict[str, str]:
        """What the section ``Args`` says of each argument, by name, on one line each."""
        said: dict[str, str] = {}
        name = ""
        for line in self.sections.get("Args", "").splitlines():
            found = _ARGUMENT.fullmatch(line)
            if found:
                name = found[1]
                said[name] = found[2]
            elif name:
                said[name] = f"{said[name]} {line.strip()}".strip()
        return said


def page_of(rule: type[Rule]) -> Page:
    """The page of a rule: its own docstring, not one that it inherits."""
    first, _, rest = inspect.cleandoc(rule.__doc__ or "").partition("\n")
    sections: dict[str, list[str]] = {}
    heading = ""
    for line in rest.splitlines():
        found = _HEADING.fullmatch(line)
        if found:
            heading = found[1]
            sections[heading] = [found[2] or ""]
        elif heading:
            sections[heading].append(line)
    return Page(first, {name: _dedent(lines) for name, lines in sections.items()})


def _dedent(lines: list[str]) -> str:
    """The text beside a heading and the block below it, both flush left."""
    below = inspect.cleandoc("\n".join(["", *lines[1:]]))
    return f"{lines[0]}\n{below}".strip()


def rules_in(package: ModuleType) -> list[type[Rule]]:
    """The rules in the folders of a package, families in the order of a project's life, then by name.

    Imports every module in these folders. Modules beside the folders hold no rules.
    """
    depth = package.__name__.count(".") + 2
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = [importlib.import_module(name) for name in names if name.count(".") >= depth]
    return sorted((rule for module in modules for rule in rules_of(module)), key=_place)


def rules_of(module: ModuleType) -> list[type[Rule]]:
    """The rules that a module defines, those it imports left out."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__
    ]


def family_of(rule: type[Rule]) -> str:
    """The folder that a rule stands in."""
    return rule.__module__.split(".")[-2]


def _place(rule: type[Rule]) -> tuple[int, str, str]:
    family = family_of(rule)
    order = list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)
    return order, family, getattr(rule, "name", rule.__name__)

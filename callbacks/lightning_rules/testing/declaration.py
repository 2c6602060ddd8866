"""What a rule declares: its class, file, name, kind and source."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import lightning.pytorch.callbacks

from lightning_rules.catalogue import rules_of
from lightning_rules.rule import Rule
from lightning_rules.testing.case import Case

KINDS = ("enforce", "check", "report")
KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
AUTHOR_AND_YEAR = re.compile(r"[^\W\d_]\w+.*?\b(1[89]|20)\d\d\b", re.DOTALL)


def is_concrete(case: Case) -> None:
    """A final class: no abstract method is left, and all three class attributes are set."""
    case.expect(case.rule is not Rule, "this is the base class; give check_rule a subclass of Rule.")
    left = ", ".join(sorted(getattr(case.rule, "__abstractmethods__", ())))
    case.expect(not left, f"it is abstract; implement {left}.")
    for attribute, example in (("name", "'loss-at-init'"), ("source", "'Karpathy (2019), ...'"), ("kind", "'check'")):
        value = getattr(case.rule, attribute, None)
        case.expect(
            isinstance(value, str) and value.strip(),
            f"its class attribute `{attribute}` is {value!r}; set it to a string, such as {attribute} = {example}.",
        )


def stands_at_the_top_of_a_module(case: Case) -> None:
    """An importable class, which can be pickled and named in YAML."""
    module = sys.modules.get(case.rule.__module__)
    here = getattr(module, case.rule.__name__, None)
    case.expect(
        here is case.rule and getattr(module, "__file__", None),
        f"{case.rule.__module__}.{case.rule.__qualname__} cannot be imported; "
        "define the class at the top level of a file of its own.",
    )


def has_a_file_of_its_own(case: Case) -> None:
    """One rule, one file."""
    others = [rule.__name__ for rule in rules_of(sys.modules[case.rule.__module__]) if rule is not case.rule]
    case.expect(not others, f"its file holds another rule, {', '.join(others)}; move each rule to a file of its own.")


def is_named_in_kebab_case(case: Case) -> None:
    """Names as in ``docs/rules.md``."""
    name = case.rule.name
    case.expect(
        KEBAB_CASE.fullmatch(name),
        f"its name is {name!r}; write lower-case words joined by hyphens, such as 'loss-at-init'.",
    )


def has_one_name_everywhere(case: Case) -> None:
    """The file in snake case and the class in CamelCase say the same as the name."""
    words = case.rule.name.split("-")
    file = Path(inspect.getfile(case.rule)).name
    expected = "_".join(words) + ".py"
    case.expect(file == expected, f"its file is {file}, but its name is {case.rule.name!r}; call the file {expected}.")
    starts = [sum(map(len, words[:i])) for i in range(len(words))]
    written = case.rule.__name__
    alike = written.lower() == "".join(words) and not any(written[start].islower() for start in starts)
    camel = "".join(word[0].upper() + word[1:] for word in words)
    case.expect(alike, f"the class does not match its name {case.rule.name!r}; call the class {camel}.")


def is_no_callback_of_lightning(case: Case) -> None:
    """LightningCLI finds callbacks by their short class name."""
    name = case.rule.__name__
    case.expect(
        name not in lightning.pytorch.callbacks.__all__,
        f"Lightning has a callback of this name, and LightningCLI could not tell them apart; rename {name}.",
    )


def has_a_kind(case: Case) -> None:
    """One of three."""
    case.expect(
        case.rule.kind in KINDS,
        f"its kind is {case.rule.kind!r}; write 'enforce' (it acts), 'check' (it judges) or 'report' (it shows).",
    )


def names_its_source(case: Case) -> None:
    """An author and a year."""
    source = case.rule.source
    found = AUTHOR_AND_YEAR.search(source)
    case.expect(
        found and any(word[:1].isupper() for word in found[0].split()),
        f"its source is {source!r}; write author, year and section, such as 'Karpathy (2019), step 2'.",
    )


def has_its_test(case: Case) -> None:
    """The mirrored test file: ``package/init/x.py`` has ``tests_dir/init/test_x.py``."""
    if case.tests_dir is None:
        return
    *folders, stem = case.rule.__module__.split(".")
    expected = Path(case.tests_dir, *folders[1:], f"test_{stem}.py")
    shown = Path(*expected.parts[len(Path(case.tests_dir).parent.parts) :])
    case.expect(expected.is_file(), f"it has no test file; write its tests in {shown.as_posix()}.")

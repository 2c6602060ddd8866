"""The docstring of a rule, which is its page in the documentation."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import sys
import tempfile

from lightning_rules.catalogue import SECTIONS, UNFILLED, page_of
from lightning_rules.testing.case import Case


def is_filled_in(case: Case) -> None:
    """Nothing is left of the skeleton that ``scripts/new_rule.py`` writes."""
    page = page_of(case.rule)
    places = [("first line", page.sentence)]
    places += [(f"section `{name}`", text) for name, text in page.sections.items()]
    for place, text in places:
        if UNFILLED in text:
            wanted = text.partition(UNFILLED)[2].strip(" :\n").splitlines()[0].rstrip(".")
            case.expect(False, f"the {place} of its docstring is not filled in yet; write {wanted}.")
    case.expect(
        UNFILLED not in case.rule.source,
        "its source is not filled in yet; write author, year and section, such as 'Karpathy (2019), step 2'.",
    )


def says_the_rule_in_one_sentence(case: Case) -> None:
    """The first line, which stands in tables."""
    lines = inspect.cleandoc(case.rule.__doc__ or "").splitlines() or [""]
    alone = len(lines) == 1 or not lines[1].strip()
    case.expect(
        lines[0][:1].isupper() and lines[0].endswith(".") and ". " not in lines[0] and alone,
        f"its docstring begins with {lines[0]!r}; "
        "write the rule as one sentence with a full stop, on one line, and leave the next line empty.",
    )


def has_the_sections_in_order(case: Case) -> None:
    """The same headings on each page."""
    sections = page_of(case.rule).sections
    missing = [name for name in SECTIONS if not sections.get(name)]
    case.expect(
        not missing,
        f"its docstring has no text under {', '.join(f'`{name}:`' for name in missing)}; "
        f"write the sections {', '.join(SECTIONS)}, each beginning at the margin.",
    )
    order = [name for name in sections if name in SECTIONS]
    case.expect(
        order == list(SECTIONS),
        f"the sections of its docstring are in the order {', '.join(order)}; write them as {', '.join(SECTIONS)}.",
    )


def explains_each_argument(case: Case) -> None:
    """``Args`` names the constructor's parameters: LightningCLI makes its help of them."""
    explained = page_of(case.rule).arguments
    taken = list(inspect.signature(case.rule).parameters)
    for name in taken:
        case.expect(
            explained.get(name), f"`Args` says nothing about `{name}`; add a line such as `{name}: What it means`."
        )
    for name in explained:
        case.expect(name in taken, f"`Args` explains `{name}`, which the constructor does not take; remove that line.")


def names_each_aspect(case: Case) -> None:
    """``Fires when`` names every aspect: a reader finds what an audit has said, and what to ignore it by."""
    said = page_of(case.rule).sections["Fires when"]
    unnamed = [aspect for aspect in case.rule.aspects if aspect not in said]
    case.expect(not unnamed, f"`Fires when` does not name {', '.join(unnamed)}; say when each of its aspects speaks.")


def cites_the_same_source(case: Case) -> None:
    """One source: the class attribute, which the section repeats and may add to."""
    cited = " ".join(page_of(case.rule).sections["Source"].split())
    source = " ".join(case.rule.source.split())
    case.expect(
        source.rstrip(".") in cited,
        f"`Source:` in its docstring says {cited!r}, the class attribute {source!r}; write the same in both.",
    )


def has_an_example_that_runs(case: Case) -> None:
    """A doctest, run with the names of the rule's module, in a folder that is thrown away."""
    text = page_of(case.rule).sections["Example"] + "\n"
    names = dict(vars(sys.modules[case.rule.__module__]))
    example = doctest.DocTestParser().get_doctest(text, names, case.rule.__name__, None, 0)
    case.expect(example.examples, "its example holds no code; write lines that begin with `>>> `.")
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        failed = runner.run(example, out=said.append).failed
    lines = [line.strip() for line in "".join(said).splitlines() if line.strip()]
    case.expect(not failed, f"the example in its docstring does not run as written ({' | '.join(lines[2:])}); mend it.")

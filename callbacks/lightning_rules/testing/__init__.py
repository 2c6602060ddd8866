"""The contract of a rule, for this package and for authors of rules elsewhere.

In a test of your own, with any test runner::

    from lightning_rules.testing import check_rule

    def test_contract():
        check_rule(MyRule)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_rules.rule import Rule
from lightning_rules.testing import copies, declaration, options, page, run
from lightning_rules.testing.case import Case

__all__ = ["CHECKS", "check_rule"]

# In this order: each may rely on those before it.
CHECKS: tuple[Callable[[Case], None], ...] = (
    declaration.is_concrete,
    declaration.stands_at_the_top_of_a_module,
    declaration.has_a_file_of_its_own,
    declaration.is_named_in_kebab_case,
    declaration.has_one_name_everywhere,
    declaration.is_no_callback_of_lightning,
    declaration.has_a_kind,
    page.is_filled_in,
    declaration.names_its_source,
    declaration.has_its_test,
    page.says_the_rule_in_one_sentence,
    page.has_the_sections_in_order,
    page.explains_each_argument,
    page.names_each_aspect,
    page.cites_the_same_source,
    options.takes_plain_types,
    options.has_defaults_that_json_takes,
    options.can_be_made,
    options.keeps_each_argument,
    options.obeys_on_error,
    copies.can_be_copied,
    copies.has_a_plain_state,
    run.works_in_a_fit,
    page.has_an_example_that_runs,
)


def check_rule(
    rule_class: type[Rule], options: Mapping[str, Any] | None = None, tests_dir: Path | str | None = None
) -> None:
    """Check that a class keeps the contract of a rule; takes about a second.

    What is checked is what users, docs, command line and checkpoints rely on: names, docstring, constructor, copies,
    state, and a short fit of two small modules on the CPU (one process). Nothing is written outside temporary
    folders, and the global random number generators are left as they were.

    Args:
        rule_class: The class, importable from a file of its own.
        options: Constructor arguments to make it with; needed where an argument has no default.
        tests_dir: The folder of your tests; then the rule's test file is looked for, at
            ``tests_dir/FAMILY/test_NAME.py`` for a rule in ``PACKAGE/FAMILY/NAME.py``.

    Raises:
        AssertionError: Something does not hold; one sentence says what, and what to write instead.
    """
    if not (isinstance(rule_class, type) and issubclass(rule_class, Rule)):
        raise AssertionError(f"Expected a subclass of lightning_rules.Rule, but got {rule_class!r}; pass the class.")
    case = Case(rule_class, dict(options or {}), Path(tests_dir) if tests_dir is not None else None)
    for check in CHECKS:
        check(case)

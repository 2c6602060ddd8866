"""Every rule keeps the contract. A new rule adds no line here: it is found in its family's folder."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import lightning_rules
from lightning_rules import Rule
from lightning_rules.catalogue import FAMILIES, family_of, rules_in, rules_of
from lightning_rules.recommended import RECOMMENDED
from lightning_rules.testing import check_rule

TESTS = Path(__file__).parent
RULES = rules_in(lightning_rules)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_keeps_the_contract(rule: type[Rule]) -> None:
    check_rule(rule, tests_dir=TESTS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_is_exported(rule: type[Rule]) -> None:
    name = rule.__name__
    assert getattr(lightning_rules, name, None) is rule, f"Import {name} in lightning_rules/__init__.py."
    assert name in lightning_rules.__all__, f"Add {name!r} to __all__ in lightning_rules/__init__.py."


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_stands_in_a_known_family(rule: type[Rule]) -> None:
    family = importlib.import_module(rule.__module__.rpartition(".")[0])
    assert family.__doc__ == FAMILIES[family_of(rule)]


def test_all_recommended_rules_are_found() -> None:
    assert set(RECOMMENDED) <= set(RULES)


def test_names_are_unique() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))


def test_no_rule_stands_beside_the_families() -> None:
    """Modules beside the families hold what rules share; a class there that has a name would not be found."""
    beside = [found.name for found in pkgutil.iter_modules(lightning_rules.__path__) if not found.ispkg]
    modules = [importlib.import_module(f"lightning_rules.{name}") for name in beside]
    assert [rule for module in modules for rule in rules_of(module) if "name" in vars(rule)] == []

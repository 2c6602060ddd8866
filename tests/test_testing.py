"""check_rule accepts a sound rule and goes red, with a sentence that helps, on one planted defect for each check."""

import importlib.util
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_rules import Finding, Rule, Severity
from lightning_rules.testing import CHECKS, check_rule
from lightning_rules.testing.copies import same

SOUND = Path(__file__).with_name("planted").joinpath("finite_loss.py").read_text(encoding="utf-8")

LIMIT = "limit: float | None = 100.0"
MEASURED = "        return float(step.loss)"
HOOK = "        self.observe(trainer, lambda: measure(trainer, pl_module), self.judge)"
MADE = "        self.limit = limit"

# By check: what is written in place of what, and a part of the sentence that is expected.
DEFECTS = {
    "is_concrete": [
        ('    name = "finite-loss"\n', "", "its class attribute `name` is None; set it to a string"),
        (
            "class FiniteLoss(Rule):",
            "import abc\nclass Base(Rule):\n    __module__ = 'base'\n    @abc.abstractmethod\n"
            "    def weigh(self): ...\nclass FiniteLoss(Base):",
            "it is abstract; implement weigh",
        ),
    ],
    "stands_at_the_top_of_a_module": [
        ("def measure(", "FiniteLoss.__module__ = 'elsewhere'\ndef measure(", "define the class at the top level"),
    ],
    "has_a_file_of_its_own": [
        ("def measure(", "class Another(Rule): ...\ndef measure(", "its file holds another rule, Another; move"),
    ],
    "is_named_in_kebab_case": [('name = "finite-loss"', 'name = "finite_loss"', "lower-case words joined by hyphens")],
    "has_one_name_everywhere": [
        ('name = "finite-loss"', 'name = "limited-loss"', "call the file limited_loss.py"),
        (
            "def measure(",
            "Finiteloss = FiniteLoss\nFiniteloss.__name__ = 'Finiteloss'\ndef measure(",
            "call the class FiniteLoss",
        ),
    ],
    "is_no_callback_of_lightning": [],  # needs another file name: test_name_of_a_callback_of_lightning
    "has_a_kind": [('kind = "check"', 'kind = "checks"', "its kind is 'checks'; write 'enforce'")],
    "is_filled_in": [
        (
            "Nothing is learned",
            "FILL IN: the harm that it prevents. Nothing",
            "the section `Why` of its docstring is not filled in yet; write the harm that it prevents.",
        ),
        ('source = "Author (2020)', 'source = "FILL IN: author (year)', "its source is not filled in yet"),
    ],
    "names_its_source": [
        ('source = "Author (2020), section 1"', 'source = "Author, section 1"', "write author, year and section"),
        ('source = "Author (2020), section 1"', 'source = "in 2020"', "write author, year and section"),
    ],
    "has_its_test": [],  # needs an empty folder of tests: test_missing_test_file
    "says_the_rule_in_one_sentence": [
        ("batch is finite.", "batch is finite", "write the rule as one sentence with a full stop"),
        ("batch is finite.\n\n", "batch is finite.\n", "leave the next line empty"),
    ],
    "has_the_sections_in_order": [
        ("    Cost: One forward pass.\n", "", "no text under `Cost:`"),
        ("    Cost: One forward pass.\n", "    Cost:\n", "no text under `Cost:`"),
        (
            "What it does: Runs ``training_step`` on one batch.\n\n    Fires when: The",
            "Fires when: Always.\n\n    What it does: The",
            "in the order Why, Fires when, What it does",
        ),
    ],
    "explains_each_argument": [
        (
            "        limit: The largest loss that is\n            thought normal.\n",
            "",
            "`Args` says nothing about `limit`",
        ),
        ("        limit: The", "        seed: Not there.\n        limit: The", "`Args` explains `seed`"),
    ],
    "names_each_aspect": [
        ('kind = "check"', 'kind = "check"\n    aspects = ("odd-loss",)', "does not name odd-loss; say when"),
    ],
    "cites_the_same_source": [
        ("Source: Author (2020), section 1.", "Source: Another (2021).", "write the same in both")
    ],
    "takes_plain_types": [
        (LIMIT, "limit: Mode = Mode.SOFT", "has the type Mode; take bool, int"),
        (LIMIT, "limit: list[Mode] | None = None", "its argument `limit` has the type list"),
        (LIMIT, "limit=1.0", "argument `limit` has no type"),
        (LIMIT, "limit: 'Unknown' = 1.0", "is unknown at run time"),
        (LIMIT + ",", "*limit: float,", r"its constructor takes `\*limit: float`; name each argument"),
    ],
    "has_defaults_that_json_takes": [(LIMIT, "limit: float = 1j", "the default of `limit` is 1j, which JSON cannot")],
    "can_be_made": [(LIMIT + ", on_error", "limit: float, on_error", "give each argument a default")],
    "keeps_each_argument": [
        (MADE, "        self.top = limit", "it does not keep its argument `limit`; write `self.limit = limit`"),
        (MADE, "        self.limit = limit * 2", "it was given limit=100.0 but keeps 200.0"),
    ],
    "obeys_on_error": [
        (
            "super().__init__(on_error)",
            "super().__init__()\n        self.on_error = on_error",
            "accepts on_error='explode'",
        ),
        (
            "super().__init__(on_error)",
            "super().__init__({'warn': 'warn', 'raise': 'raise'}[on_error])",
            "a wrong `on_error` gives KeyError",
        ),
        ("super().__init__(on_error)", "super().__init__()", "it ignores `on_error`; hand it on"),
    ],
    "can_be_copied": [
        (
            MADE,
            MADE + "\n        self.scale = lambda loss: loss",
            r"it cannot be pickled \(.*keep plain values in its attr",
        ),
        (
            MADE,
            MADE + "\n    def __deepcopy__(self, memo):\n        import copy\n        return copy.copy(self)",
            "when deep-copied, the copy shares its list of findings",
        ),
    ],
    "has_a_plain_state": [
        (
            MADE,
            MADE + "\n    def state_dict(self):\n        return {**super().state_dict(), 'mode': Mode.SOFT}",
            r"state_dict\(\)\['mode'\] is of type Mode; keep numbers",
        ),
        (
            MADE,
            MADE
            + "\n    def state_dict(self):\n        return {}\n    def load_state_dict(self, state):\n        pass",
            "a checkpoint does not bring its findings back",
        ),
        (
            MADE,
            MADE + "\n        self.seen = id(self)\n    def state_dict(self):\n"
            "        return {**super().state_dict(), 'seen': self.seen}",
            "load_state_dict does not undo state_dict",
        ),
    ],
    "works_in_a_fit": [
        (HOOK, "        raise KeyError('planted')", r"stops a short fit of DemoClassifier \(KeyError: 'planted'\)"),
        (MEASURED, "        return step.los", "on a healthy run it says .*mend the measurement"),
        ("Finding(self.name,", "Finding('other',", "a finding names the rule 'other'; write the rule's own name"),
        ("The loss is {", "so it is {", "is no sentence; begin with a capital"),
        ("{max(losses):.3g}.", "{max(losses):.3g}", "is no sentence; .* end with a full stop"),
        (
            'Severity.WARNING\n        advice = "" if fine else "Lower the learning rate."',
            'Severity.OK\n        severity, advice = Severity.WARNING, ""',
            "alarms without advice",
        ),
        ('{"loss": max(losses)}', '{"loss": losses}', "the evidence 'loss' of a finding is of type list"),
        (HOOK, "        torch.rand(1)\n" + HOOK, "leaves no trace, but .* random numbers of torch"),
        (HOOK, "        random.random()\n" + HOOK, "leaves no trace, but .*random numbers of Python than without"),
        (HOOK, HOOK + "\n        next(pl_module.parameters()).data.add_(1e-3)", "ends with other weights or buffers"),
        (
            HOOK,
            HOOK + "\n        pl_module.losses.append(0.0) if hasattr(pl_module, 'losses') else None",
            "ends with other losses than without",
        ),
        (HOOK, HOOK + "\n        self.kept = lambda: None", "it cannot be pickled after a fit"),
        (
            HOOK,
            HOOK + "\n    def setup(self, trainer, pl_module, stage):\n        self._folder = None",
            "a second fit keeps the findings of the first",
        ),
        (
            HOOK,
            "        if not getattr(self, 'done', False):\n    " + HOOK + "\n        self.done = True",
            "finds nothing instead of ok at step 0; reset in `setup`",
        ),
    ],
    "has_an_example_that_runs": [
        ("        10.0\n", "        11.0\n", r"does not run as written .*Expected: \| 11.0 \| Got: \| 10.0"),
        (">>> FiniteLoss(limit=10.0).limit\n        10.0", "FiniteLoss(limit=10.0)", "its example holds no code"),
        (">>> FiniteLoss(limit=10.0).limit", ">>> Missing()", "NameError: name 'Missing' is not defined"),
    ],
}
PLANTED = [(check, *defect) for check, defects in DEFECTS.items() for defect in defects]


@pytest.fixture
def write_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(text: str, stem: str = "finite_loss", name: str = "FiniteLoss") -> type[Rule]:
        path = tmp_path / f"{stem}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"planted.init.{stem}", path)
        module = importlib.util.module_from_spec(spec)
        for package in ("planted", "planted.init"):  # pickle imports these first
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return getattr(module, name)

    return write


def test_sound_rule_passes_and_leaves_no_trace(write_rule) -> None:
    rule = write_rule(SOUND)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    check_rule(rule)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert str(before[1:]) == str(after[1:])
    assert [path.name for path in Path.cwd().iterdir() if path.suffix != ".py" and path.name != "__pycache__"] == []


@pytest.mark.parametrize(
    ("check", "sound", "defect", "sentence"), PLANTED, ids=[f"{p[0]}-{i}" for i, p in enumerate(PLANTED)]
)
def test_planted_defect(write_rule, check: str, sound: str, defect: str, sentence: str) -> None:
    assert SOUND.count(sound) >= 1
    rule = write_rule(SOUND.replace(sound, defect))
    with pytest.raises(AssertionError, match=rf"^\w+: .*{sentence}") as raised:
        check_rule(rule)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_each_check_has_a_planted_defect() -> None:
    assert set(DEFECTS) == {check.__name__ for check in CHECKS}


def test_name_of_a_callback_of_lightning(write_rule) -> None:
    text = SOUND.replace("FiniteLoss", "EarlyStopping").replace("finite-loss", "early-stopping")
    with pytest.raises(AssertionError, match=r"Lightning has a callback of this name, .*; rename EarlyStopping\."):
        check_rule(write_rule(text, "early_stopping", "EarlyStopping"))


def test_missing_test_file(write_rule, tmp_path: Path) -> None:
    rule, tests = write_rule(SOUND), tmp_path / "tests"
    with pytest.raises(AssertionError, match=r"write its tests in tests/init/test_finite_loss\.py\."):
        check_rule(rule, tests_dir=tests)
    (tests / "init").mkdir(parents=True)
    (tests / "init" / "test_finite_loss.py").touch()
    check_rule(rule, tests_dir=tests)


def test_options_stand_in_for_missing_defaults(write_rule) -> None:
    rule = write_rule(SOUND.replace(LIMIT + ", on_error", "limit: float, on_error"))
    check_rule(rule, options={"limit": 3.0})


def test_alarms_with_advice_are_sound(write_rule) -> None:
    check_rule(write_rule(SOUND.replace("max(losses) <= self.limit", "False")))


def test_enforcers_may_leave_a_trace(write_rule) -> None:
    acting = SOUND.replace('kind = "check"', 'kind = "enforce"').replace(HOOK, HOOK + "\n        torch.rand(1)")
    check_rule(write_rule(acting))


@pytest.mark.parametrize("given", [Severity, "last-layer-bias-init", 3, Rule])
def test_what_is_no_rule_is_refused(given: object) -> None:
    with pytest.raises(AssertionError, match=r"subclass of (lightning_rules\.)?Rule"):
        check_rule(given)  # type: ignore[arg-type]


def test_same_compares_to_the_bit() -> None:
    nan = float("nan")
    values = {"a": [1.0, nan], "b": torch.tensor([1.0, nan]), "c": (None, "x")}
    assert same(values, {**values, "b": torch.tensor([1.0, nan])})
    assert not same(values, {**values, "b": torch.tensor([1.0, 1.0])})
    assert not same(values, {**values, "b": torch.tensor([1.0, nan], dtype=torch.float64)})
    assert not same(torch.zeros(2), torch.zeros(2, 1))
    assert not same([1], [1, 2])
    assert not same({"a": 1}, {"b": 1})
    assert same(Finding("a", Severity.OK, "A."), Finding("a", Severity.OK, "A."))

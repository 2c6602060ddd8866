"""scripts/new_rule.py writes a rule that works and cannot be shipped unfilled, or writes nothing."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lightning_rules.testing import check_rule

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("enforce", "check", "report")


def copy_tree(to: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "callbacks", to / "callbacks", ignore=ignored)
    (to / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/test_contract.py"):
        shutil.copy(ROOT / name, to / name)
    return to


def load_script(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("new_rule", ROOT / "scripts" / "new_rule.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    module.ROOT = root
    return module


def contents(root: Path) -> dict[str, bytes | None]:
    paths = [path for path in root.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in paths}


def in_tree(tree: Path, *command: str) -> None:
    """Run a tool on the tree, whose copy of lightning_rules is the one that is imported."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "callbacks")}
    done = subprocess.run([sys.executable, "-m", *command], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with one new rule of each kind."""
    root = copy_tree(tmp_path_factory.mktemp("tree"))
    for kind in KINDS:
        assert load_script(root).main(["watch", f"planted-{kind}", "--kind", kind]) == 0
    return root


@pytest.fixture
def untouched_tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "tree")


def test_files_and_export(tree: Path) -> None:
    package = tree / "callbacks" / "lightning_rules"
    for kind in KINDS:
        assert f'kind = "{kind}"' in (package / "watch" / f"planted_{kind}.py").read_text()
        assert (tree / "tests" / "watch" / f"test_planted_{kind}.py").is_file()
    assert (package / "watch" / "__init__.py").read_text().startswith('"""Rules about what to watch')
    before = (ROOT / "callbacks" / "lightning_rules" / "__init__.py").read_text().splitlines()
    added = [line for line in (package / "__init__.py").read_text().splitlines() if line not in before]
    assert added == [
        *(f"from lightning_rules.watch.planted_{kind} import Planted{kind.title()}" for kind in sorted(KINDS)),
        *(f'    "Planted{kind.title()}",' for kind in sorted(KINDS)),
    ]


def test_written_files_pass_ruff(tree: Path) -> None:
    in_tree(tree, "ruff", "check", "--no-cache", ".")
    in_tree(tree, "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.slow
def test_written_files_pass_mypy(tree: Path) -> None:
    if (ROOT / ".mypy_cache").is_dir():  # what `make lint` has learned of the libraries saves most of the time
        shutil.copytree(ROOT / ".mypy_cache", tree / ".mypy_cache")
    in_tree(tree, "mypy", "callbacks/lightning_rules/watch")


@pytest.mark.parametrize("kind", KINDS)
def test_unfilled_skeleton_fails_the_contract(tree: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"lightning_rules.watch.planted_{kind}"
    path = tree / "callbacks" / "lightning_rules" / "watch" / f"planted_{kind}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    rule = getattr(module, f"Planted{kind.title()}")
    with pytest.raises(AssertionError, match=r"not filled in yet; write the rule in one sentence, .* well\.$"):
        check_rule(rule, tests_dir=tree / "tests")


@pytest.mark.slow
def test_filled_skeleton_passes_the_contract_and_its_own_tests(untouched_tree: Path) -> None:
    tree = untouched_tree
    for kind in KINDS:
        load_script(tree).main(["init", f"planted-{kind}", "--kind", kind])
        path = tree / "callbacks" / "lightning_rules" / "init" / f"planted_{kind}.py"
        text = path.read_text()
        assert text.count("FILL IN") == 8
        text = re.sub(r"FILL IN: author \(year\), title, section", "Author (2020), Title, section 1", text)
        path.write_text(re.sub(r"FILL IN: .*", "Said by a person.", text))
    in_tree(
        tree, "pytest", "-n0", "-q", "-p", "no:cacheprovider", "-k", "planted", "tests/init", "tests/test_contract.py"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["wach", "weight-spread"], "There is no family 'wach' of rules; choose one of data, init, "),
        (["testing", "weight-spread"], "There is no family 'testing' of rules; choose one of data, init, "),
        (["watch", "WeightSpread"], "write lower-case words and hyphens: 'weight-spread'."),
        (["watch", "weight_spread"], "write lower-case words and hyphens: 'weight-spread'."),
        (["watch", "../weight-spread"], "write lower-case words and hyphens: 'weight-spread'."),
        (["watch", "2"], "write lower-case words and hyphens: 'loss-at-init'."),
        (["watch", "lambda"], "The name 'lambda' is a keyword of Python"),
        (["watch", "weight-spread", "--kind", "cheque"], "There is no kind 'cheque' of rules; choose one of enforce, "),
        (["watch", "early-stopping"], "would hide Lightning's callback of that name; choose another."),
        (["watch", "loss-at-init"], "lightning_rules exports LossAtInit already; choose another name"),
        (["watch", "finding"], "lightning_rules exports Finding already; choose another name"),
        (["watch", "half-done"], "tests/init/test_half_done.py exists already; choose another name than 'half-done'."),
    ],
)
def test_refusals_write_nothing(untouched_tree: Path, capsys, arguments: list[str], sentence: str) -> None:
    (untouched_tree / "tests" / "init").mkdir()
    (untouched_tree / "tests" / "init" / "test_half_done.py").touch()
    before = contents(untouched_tree)
    assert load_script(untouched_tree).main(arguments) == 1
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert contents(untouched_tree) == before


def test_failure_half_way_changes_nothing(untouched_tree: Path, capsys) -> None:
    """The folder of the test cannot be made, since a file stands there; the rule's file was written before it."""
    (untouched_tree / "tests" / "watch").write_text("in the way")
    before = contents(untouched_tree)
    assert load_script(untouched_tree).main(["watch", "weight-spread"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Nothing was written: ")
    assert "watch (" in said
    assert contents(untouched_tree) == before

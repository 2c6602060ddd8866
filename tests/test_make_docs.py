"""docs/rules.md is what the docstrings say, and a stale file is noticed."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

import lightning_rules
from lightning_rules import LastLayerBiasInit, LossAtInit, Rule
from lightning_rules.catalogue import SECTIONS, page_of, rules_in

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Documented(Rule):
    """First sentence with ``code`` and a | bar.

    Why: Text on the heading's line
        and below it.

    What it does:
        Only below, see :class:`~lightning_rules.Rule`.

    Example:
        >>> 1 + 1
        2

    Args:
        limit: Explained on
            two lines.
        on_error: What then.
    """

    name = "documented"
    source = "Author (2020)"
    kind = "check"

    def __init__(self, limit: float | None = None, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(on_error)
        self.limit = limit


def test_written_page_is_not_stale_and_a_changed_one_is(make_docs, tmp_path, capsys) -> None:
    assert make_docs.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().out
    assert said == "Out of date: docs/rules.md; run `.venv/bin/python scripts/make_docs.py`, which writes anew.\n"
    assert list(tmp_path.iterdir()) == []

    assert make_docs.main([], tmp_path) == 0
    assert make_docs.main(["--check"], tmp_path) == 0
    page = tmp_path / "docs" / "rules.md"
    text = page.read_text()
    page.write_text(text.replace("initialisation", "initialization"))
    assert make_docs.main(["--check"], tmp_path) == 1
    assert make_docs.main([], tmp_path) == 0
    assert page.read_text() == text


def test_a_changed_docstring_makes_the_page_stale(make_docs, tmp_path, monkeypatch) -> None:
    make_docs.main([], tmp_path)
    monkeypatch.setattr(LossAtInit, "__doc__", LossAtInit.__doc__.replace("Cost: ", "Cost: Little. "))
    assert make_docs.main(["--check"], tmp_path) == 1


def test_page_holds_each_rule_and_each_section(make_docs) -> None:
    text = make_docs.generated(rules_in(lightning_rules), ROOT)["docs/rules.md"]
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in sections] == [rule.name for rule in rules_in(lightning_rules)]
    for part in sections:
        headings = re.findall(r"^\*\*(.+)\*\*$", part, flags=re.MULTILINE)
        assert headings == [*SECTIONS[:-1], "Arguments"]
        assert re.search(r"\*\*\n\n\n", part) is None, "a section is empty"
    assert "``" not in text.replace("```", "")
    assert ":class:" not in text


def test_docstring_markup_becomes_markdown(make_docs) -> None:
    text = make_docs.section(Documented)
    assert "First sentence with `code` and a | bar." in text
    assert "Text on the heading's line\nand below it." in text
    assert "Only below, see `Rule`." in text
    assert "```python\nfrom lightning_rules import Documented\n1 + 1\n# 2\n```" in text
    assert "- `limit: float | None = None`: Explained on two lines." in text
    assert "- `on_error: Literal['warn', 'raise'] = 'warn'`: What then." in text


def test_table_marks_what_is_recommended(make_docs) -> None:
    lines = make_docs.table([LastLayerBiasInit, Documented], "docs/rules.md").splitlines()
    assert lines[2].startswith("| [last-layer-bias-init](docs/rules.md#last-layer-bias-init) | The last layer's bias")
    assert " | enforce | yes | Karpathy (2019)" in lines[2]
    assert lines[3].endswith(r"First sentence with `code` and a \| bar. | check |  | Author (2020) |")


def test_readme_gets_the_table_between_its_comments(make_docs, tmp_path) -> None:
    start, end = make_docs.TABLE
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n{start}\nstale\n{end}\nThe rest.\n")
    make_docs.main([], tmp_path)
    text = readme.read_text()
    assert text.startswith(f"# Title\n{start}\n| | bold: recommended |")
    assert text.endswith(f"|\n{end}\nThe rest.\n")
    assert "| Rules about how a network starts | " in text
    assert "**[loss-at-init](docs/rules.md#loss-at-init)**" in text
    assert ", [recurrent-init](docs/rules.md#recurrent-init)" in text
    assert "stale" not in text
    assert make_docs.main(["--check"], tmp_path) == 0
    readme.write_text(text.replace("[loss-at-init]", "[loss-at-end]"))
    assert make_docs.main(["--check"], tmp_path) == 1


def test_page_of_takes_a_docstring_apart() -> None:
    page = page_of(Documented)
    assert page.sentence == "First sentence with ``code`` and a | bar."
    assert list(page.sections) == ["Why", "What it does", "Example", "Args"]
    assert page.sections["Why"] == "Text on the heading's line\nand below it."
    assert page.arguments == {"limit": "Explained on two lines.", "on_error": "What then."}

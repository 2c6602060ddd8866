"""``python -m lightning_rules.report``: which runs are meant, where the page goes, and what is refused."""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from lightning_rules.report.__main__ import main
from lightning_rules.report.command import address, check_output, common_folder, run
from lightning_rules.report.document import HTML, JSON, Document
from lightning_rules.report.find_runs import below, find_runs

Capture = pytest.CaptureFixture[str]
Put = Callable[..., Path]


@pytest.fixture
def put(documents: dict[str, Document]) -> Put:
    """Writes a run with its report into a folder."""

    def write(folder: str, text: str | None = None, page: bool = False) -> Path:
        document = deepcopy(documents["healthy"])
        document.run = folder.removeprefix("logs/")
        document.exhibits, document.series = [], {}  # to be drawn soon
        (Path(folder) / JSON).parent.mkdir(parents=True)
        (Path(folder) / JSON).write_text(document.to_json() if text is None else text, encoding="utf-8")
        if page:
            (Path(folder) / HTML).write_text("")
        return Path(folder)

    return write


def refused(capsys: Capture, *words: str) -> str:
    """What is said, in one line and with nothing written."""
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return said.err


def test_one_run_is_drawn_again_by_any_of_its_names(put: Put, capsys: Capture) -> None:
    folder = put("logs/digits/version_0")
    assert main([str(folder)]) == 0
    assert f"The report is {folder / HTML}.\n" in capsys.readouterr().out
    page = (folder / HTML).read_text(encoding="utf-8")
    for name in (folder / "rules", folder / JSON, folder / HTML, Path("logs")):
        (folder / HTML).write_text("")
        assert main([str(name)]) == 0
        assert (folder / HTML).read_text(encoding="utf-8") == page
    assert main([str(folder), "--output", "elsewhere/page.html"]) == 0
    assert Path("elsewhere/page.html").read_text(encoding="utf-8") == page


def test_several_are_compared_in_the_folder_that_holds_them(put: Put, capsys: Capture) -> None:
    first, second = put("logs/a b/version_0", page=True), put("logs/c/version_1")
    assert main([str(first), str(second / "rules")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t")[:3] == ["run", "score", "interval"]
    assert lines[1].split("\t")[:4] == ["a b/version_0", "98.3%", "96.4% to 99.2%", "best"]
    assert len(lines) == 5
    assert lines[3].startswith("val/accuracy: 98.3% ± 0.0 points on average over 2 runs of one configuration")
    assert lines[4] == "The comparison is logs/comparison.html."
    page = Path("logs/comparison.html").read_text(encoding="utf-8")
    assert "<h1>logs: 2 runs</h1>" in page
    assert '<a href="a%20b/version_0/rules/report.html">' in page
    assert "c/version_1/rules" not in page, "it has no page to lead to"
    assert main(["logs", "--output", "out/of/it.html"]) == 0
    assert '<a href="../../logs/a%20b/version_0/rules/report.html">' in Path("out/of/it.html").read_text("utf-8")


def test_a_folder_stands_for_its_runs_in_the_order_of_their_numbers(put: Put) -> None:
    for number in (10, 2, 1):
        put(f"logs/v_{number}")
    put("logs/.trash/v_0")
    assert [path.parent.parent.name for path in below(Path("logs"))] == ["v_1", "v_2", "v_10"]


def test_what_is_not_there_is_told_with_what_is_near(put: Put, capsys: Capture) -> None:
    for name in ("version_0", "version_1", "other", "more"):
        put(f"logs/digits/{name}")
    said = refused(capsys, "logs/digits/versoin_1")
    assert "There is no folder or file logs/digits/versoin_1: expected a run's log folder" in said
    assert re.search(r"there are reports of logs/digits/version_1, logs/digits/version_0, logs/digits/\w+\.$", said)
    Path("logs/empty").mkdir()
    assert "There is no report in logs/empty" in refused(capsys, "logs/empty", "logs/digits/other")
    Path("far/from/all").mkdir(parents=True)
    assert refused(capsys, "far/from/all").endswith("none is near it.\n")


def test_a_run_that_is_named_twice_is_refused(put: Put, capsys: Capture) -> None:
    put("logs/a"), put("logs/b")
    expected = "error: The run logs/a is named twice: name each run once, or its folder.\n"
    assert refused(capsys, "logs/a", "logs/b", "logs/a/rules") == expected
    assert refused(capsys, "logs", "logs/a") == expected


def test_a_report_that_cannot_be_read(put: Put, capsys: Capture) -> None:
    put("logs/a"), put("logs/b"), put("logs/c", '{"format": 99}'), put("other/d", "[")
    assert "logs/c/rules/report.json is a report of format 99, and this version" in refused(capsys, "logs/c", "logs/a")
    assert "other/d/rules/report.json is not a report of lightning-rules" in refused(capsys, "logs/a", "other/d")
    assert main(["other"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("warning: other/d/rules/report.json is not a report")
    assert said[1] == "error: None of the 1 reports found can be read."
    assert main(["logs"]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(r"warning: logs/c/rules/report.json is a report of format 99.* It is left out\.\n", said.err)
    assert "logs: 2 runs" in Path("logs/comparison.html").read_text(encoding="utf-8")
    Path("model.ckpt").write_bytes(b"\xff")
    assert "model.ckpt is no report: expected a run's log folder" in refused(capsys, "model.ckpt")


def test_places_where_no_page_may_go(put: Put, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    put("logs/a"), put("logs/b")
    assert "logs is a folder: name a file in it, as in --output logs/comparison.html." in refused(
        capsys, "logs", "--output", "logs"
    )
    assert "ends in .html, but got logs/a/rules/report.json" in refused(capsys, "logs", "--output", f"logs/a/{JSON}")
    assert "is no folder that you may write to" in refused(capsys, "logs/a", "--output", f"logs/a/{JSON}/page.html")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "logs/comparison.html cannot be written" in refused(capsys, "logs")


def test_wrong_words_end_with_status_2(capsys: Capture) -> None:
    for words in ([], ["a", "--outptu", "b"]):
        with pytest.raises(SystemExit) as raised:
            main(words)
        assert raised.value.code == 2
        assert "usage: python -m lightning_rules.report" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        run(["--help"], "train.py report")
    assert raised.value.code == 0
    assert "comparison.html" in capsys.readouterr().out


def test_on_a_terminal_there_is_a_table(put: Put, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    put("logs/[red]a"), put("logs/b")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["logs"]) == 0
    said = capsys.readouterr().out
    assert "───" in said
    assert "\t" not in said
    assert "[red]a" in said.replace("\n", "")


def test_folders_and_addresses(tmp_path: Path, put: Put) -> None:
    assert common_folder([Path("logs/a"), Path("logs/b/c")]) == tmp_path / "logs"
    assert common_folder([Path("logs/a"), Path("logs/a/b")]) == tmp_path / "logs"
    assert common_folder([Path("/x/a"), Path("/y/b")]) == tmp_path
    odd = put('logs/javascript:alert(1)"#?é', page=True)
    assert address(odd / HTML, Path("logs")) == "javascript%3Aalert%281%29%22%23%3F%C3%A9/rules/report.html"
    assert address(Path("nowhere.html"), Path()) == ""
    check_output(Path("a/b/c.html"))
    assert not Path("a").exists()


def test_reading_is_watched(put: Put) -> None:
    put("logs/a"), put("logs/b")
    watched: list[int] = []

    def watch(files):
        watched.append(len(files))
        return files

    assert len(find_runs([Path("logs")], print, watch)) == 2
    assert watched == [2]


def test_as_a_program_of_its_own(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "logs/c"])
    monkeypatch.delitem(sys.modules, "lightning_rules.report.__main__")
    with pytest.raises(SystemExit) as raised:
        runpy.run_module("lightning_rules.report", run_name="__main__", alter_sys=True)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("error: There is no folder or file logs/c")

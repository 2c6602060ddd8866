"""The page in a real Chromium, driven by Playwright: nothing is installed here, and what is missing is named.

On a Debian as root: ``apt-get install chromium``; the rest comes with the extra ``dev``. Where the environment sets
LIGHTNING_RULES_BROWSER=required, as ``.ci/run`` does, a missing browser is a failure and no reason to skip.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lightning_rules.report.comparison import compared
from lightning_rules.report.comparison_page import page_of_comparison
from lightning_rules.report.document import Document
from lightning_rules.report.page import page_of

PROBES = Path(__file__).with_name("probes.js")
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
HEIGHT = 900  # pixels of the window
PATIENCE = 120  # seconds, on a machine that is busy with other tests
# What each text of a user becomes. It would be seen in the list of requests, in a dialog, or in the window's `taken`.
MARKUP = (
    "<img src=x onerror=\"window.taken=1;fetch('http://taken.invalid/a')\"></script><script>window.taken=2;alert(1)"
    '</script>"><svg onload="window.taken=3"></svg>\'><iframe src=//taken.invalid></iframe></style></title>'
    "</textarea><a href=javascript:taken=4>{{ 7 * 7 }}$x^2$"
)
OURS = {"kind", "section", "role", "roles", "severity", "mode", "started", "updated"}  # words of our own, and times


@dataclass
class Visit:
    """A page that is open, with all that it has asked for and said since.

    Attributes:
        page: Playwright's.
        requests: Addresses.
        said: Console messages, errors and dialogs.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def probe(self, name: str) -> Any:
        """What a function of probes.js finds."""
        return self.page.evaluate(f"probes.{name}()")

    def unfold(self) -> None:
        self.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def _missing(reason: str) -> None:
    if os.environ.get("LIGHTNING_RULES_BROWSER") == "required":
        pytest.fail(f"{reason} This environment requires it.", pytrace=False)
    pytest.skip(reason)


# Of a module, not of the session: as long as Playwright runs, no other test of this process could use asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        _missing("There is no Chromium: install it with `apt-get install --no-install-recommends chromium`.")
    packages = {"playwright": "playwright", "axe_playwright_python": "axe-playwright-python", "pypdf": "pypdf"}
    if absent := [package for module, package in packages.items() if importlib.util.find_spec(module) is None]:
        _missing(f"A package is missing: install it with `pip install {' '.join(absent)}`.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield started
        started.close()


def marked(value: Any, key: str = "") -> Any:
    """A document as JSON, with markup at the end of each name and text in it that a user can choose."""
    if isinstance(value, dict):
        is_free = key in ("evidence", "metrics", "series", "tested", "versions")
        return {one + MARKUP if is_free else one: marked(here, one) for one, here in value.items()}
    if isinstance(value, list):
        return [marked(one, key) for one in value]
    return value + MARKUP if isinstance(value, str) and key not in OURS else value


@pytest.fixture(scope="session")
def markup() -> str:
    """What stands in all names and texts of the page called hostile."""
    return MARKUP


@pytest.fixture(scope="session")
def files(
    documents: Mapping[str, Document], run_picture: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Pages of runs as files, and of runs compared; in those called hostile all texts hold markup and are long."""
    folder = tmp_path_factory.mktemp("pages")
    run_picture(folder)
    hostile = Document.from_json(json.dumps(marked(json.loads(documents["sick"].to_json()))))
    hostile.record["config"] *= 5  # so that it scrolls
    made = {}
    for name, document in {**documents, "hostile": hostile}.items():
        made[name] = folder / f"{name}.html"
        made[name].write_text(page_of(document, folder), encoding="utf-8")
    shown = documents["healthy"].exhibits
    for name, runs in {"compared": [], "compared-hostile": [hostile]}.items():
        beside = [*runs, *(documents[one] for one in ("sick", "healthy", "unfinished", "healthy"))]
        hrefs = [f"run_{place}/rules/report.html" for place in range(len(beside))]
        text = page_of_comparison(compared(beside, hrefs), MARKUP if runs else "Runs", folder, shown, ["It is said."])
        made[name] = folder / f"{name}.html"
        made[name].write_text(text, encoding="utf-8")
    return made


@pytest.fixture
def visit(browser: Any, files: Mapping[str, Path]) -> Iterator[Callable[..., Visit]]:
    """Opens one of the pages from the disk; what else is given are options of Playwright's new_context."""
    contexts = []

    def opened(name: str, width: int = 1400, scheme: str = "light", **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, **options)
        contexts.append(context)
        context.set_default_timeout(1000 * PATIENCE)
        context.add_init_script(path=PROBES)
        made = Visit(context.new_page())
        context.on("request", lambda request: made.requests.append(request.url))
        context.on("console", lambda message: made.said.append(message.text))
        context.on("weberror", lambda error: made.said.append(str(error.error)))
        context.on("dialog", lambda dialog: (made.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        made.page.goto(files[name].as_uri())
        return made

    yield opened
    for context in contexts:
        context.close()

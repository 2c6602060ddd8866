"""What cookiecutter imports for this template: it puts this folder on sys.path and loads `_extensions`.

The work is in `scripts/template_*.py`. They are read from disk each time, because `cruft update` renders two
versions of the template in one process; and this file stands outside `scripts/`, because other packages on
sys.path may be called `scripts` too.
"""

import runpy
from pathlib import Path

from jinja2 import Environment
from jinja2.ext import Extension

SCRIPTS = Path(__file__).resolve().parent / "scripts"


class LightningRulesTemplate(Extension):
    """The filters that cookiecutter.json, the hooks and the files of the template use."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for script in sorted(SCRIPTS.glob("template_*.py")):
            environment.filters.update(runpy.run_path(str(script))["FILTERS"])

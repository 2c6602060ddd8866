"""What a generated project receives of this repository as it stands: one source of truth, no second copy."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import UndefinedError

ROOT = Path(__file__).resolve().parents[1]
OWNED = ("models.image_classifier", "models.sequence_classifier", "data.digits", "data.image_folder")


def hand_over(path: str) -> str:
    """The text of a file of this repository, such as "constraints.txt".

    Raises:
        UndefinedError: There is no such file; of all errors in a template, cookiecutter cleans up after this.
    """
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UndefinedError(f"the template in {ROOT} lacks the file {path}: fetch all of it anew") from None


def rename_owned(text: str, package: str) -> str:
    """Text in which the modules a project owns are those of its package; other names stay as they are.

    `lightning_recipe.models.image_classifier` becomes `<package>.models.image_classifier`, and so for the
    other owned modules and for their classes: `lightning_recipe.models.ImageClassifier`.
    """
    classes = [module.split(".")[0] + "." + _class_name(module) for module in OWNED]
    names = "|".join(re.escape(name) for name in [*OWNED, *classes])
    return re.sub(rf"\blightning_recipe\.(?=({names})\b)", f"{package}.", text)


def own(path: str, package: str) -> str:
    """The text of a file of this repository with the owned modules renamed."""
    return rename_owned(hand_over(path), package)


def _class_name(module: str) -> str:
    """The class a module is there for: `ImageClassifier`, `DigitsDataModule`."""
    folder, name = module.split(".")
    return name.title().replace("_", "") + ("DataModule" if folder == "data" else "")


FILTERS = {"hand_over": hand_over, "own": own}

"""The parser of the command line: what people type, and what jsonargparse wants of them."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser

# Options of `check` that are given without a value, and such as may be given several times.
_SWITCHES = ("--capacity", "--json")
_REPEATABLE = ("--only", "--skip")
# Options beyond LightningCLI's: name, type, default, help.
_OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "rules",
        Literal["recommended", "none"],
        "recommended",
        "Which rules are added to the callbacks of the config.",
    ),
    (
        "ignore_rules",
        dict[str, str],
        {},
        'Rules to ignore, each with its reason, which is reported: {"loss-at-init": "custom loss"}.',
    ),
    (
        "check_budget",
        float | None,
        10.0,
        "Seconds that the checks before the first step of a fit may take together; null for no limit.",
    ),
    (
        "report",
        Literal["html", "json", "none"],
        "html",
        "What a fit writes about itself: a page and the file it is drawn from, the file alone, or neither.",
    ),
    (
        "test_after_fit",
        bool,
        False,
        "Whether fit ends with a test of the best checkpoint and a summary.",
    ),
    (
        "measure_training",
        bool,
        False,
        "Whether fit ends by measuring the best checkpoint on the examples that it was trained on.",
    ),
    (
        "fold",
        str | None,
        None,
        "K/N: fit trains on all but part K of N (from 1) of its training data and validates on that part; K/N@SEED "
        "cuts them with another seed than 0.",
    ),
    (
        "held_out",
        str | None,
        None,
        "K/N: part K of N of training and validation data together is tested and predicted; of the rest a part is "
        "validated on, the others are trained on; K/N@SEED as for --fold.",
    ),
    (
        "subset",
        str | None,
        None,
        "COUNT or COUNT@SEED: fit trains on so many of its training examples, each class in proportion.",
    ),
    (
        "all_data",
        Literal["anew", "kept"] | None,
        None,
        "Fit trains on training and validation data together, with statistics fitted anew or kept as they were.",
    ),
    (
        "bootstrap",
        int | None,
        None,
        "Seed: fit trains on a sample of its training data, as many drawn with replacement as there are.",
    ),
)


class Parser(LightningArgumentParser):
    """LightningCLI's parser, for which the model need not be named: a checkpoint may name it."""

    def add_lightning_class_args(self, *arguments: Any, **options: Any) -> list[str]:
        """Add the arguments of a class, none of which is required."""
        return super().add_lightning_class_args(*arguments, **{**options, "required": False})

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **options: Any
    ) -> Any:
        """Parse, with switches and repeated options as people write them."""
        given = list(sys.argv[1:] if args is None else args)
        return super().parse_args(spelled_out(given) if given[:1] == ["check"] else args, *others, **options)


def add_options(parser: LightningArgumentParser) -> None:
    """Add the options beyond LightningCLI's."""
    for name, type_, default, text in _OPTIONS:
        parser.add_argument(f"--{name}", type=type_, default=default, help=text)


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments of `check` as jsonargparse has them: switches with a value, repeated options appended."""
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument in _SWITCHES:
            argument = f"{name}=true"
        elif name in _REPEATABLE and not value.startswith("["):
            argument = f"{name}+{equals}{value}"
        spelled.append(argument)
    return spelled

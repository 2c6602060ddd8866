"""The space that is searched when none is given: the options that matter, those that matter most first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.space import short

# In the order of Ng (deeplearning.ai, 2017, "Tuning process"); the rate is the first for Goodfellow (2016, 11.4) too.
RATE, DECAY = (-5, -1), (-7, -1)
MOMENTUM = (-3, -1)
WITH_MOMENTUM = ("sgd", "momentum", "lars", "nesterov")
RANKS = {"rate": 1, "momentum": 2, "units": 2, "batch": 2, "layers": 3, "decay": 3, "dropout": 4}


def default_space(settings: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions of those options that the model and the data have, in the order of their importance.

    Args:
        settings: All settings of `fit`.

    Raises:
        ValueError: If there is none of them.
    """
    space = [one for one, _ in _found(settings)]
    if not space:
        raise ValueError(
            "The model and the data have none of the options that are searched by default (lr, batch_size, "
            "weight_decay, ...): name yours in a file, and give it as --space FILE."
        )
    return space


def _found(settings: Mapping[str, Any]) -> Iterator[tuple[Dimension, str]]:
    model, data = (_arguments(settings, name) for name in ("model", "data"))
    for name in _present(model, "lr", "learning_rate"):
        yield _log(f"model.init_args.{name}", RATE), "rate"
    yield from _momentum(model)
    for name in _present(model, "hidden_size", "hidden"):
        if _is_count(model[name]):
            units = model[name]
            yield Dimension(f"model.init_args.{name}", "int", max(1, units // 2), max(2, 2 * units)), "units"
    for section, place in ((data, "data"), (model, "model")):
        if _is_count(section.get("batch_size")):
            yield Dimension(f"{place}.init_args.batch_size", "choice", choices=_powers(section["batch_size"])), "batch"
    for name in _present(model, "num_layers", "depth"):
        if _is_count(model[name]):
            yield Dimension(f"model.init_args.{name}", "int", 1, max(2, model[name] + 1)), "layers"
    for name in _present(model, "weight_decay"):
        yield _log(f"model.init_args.{name}", DECAY), "decay"
    for name, highest in (("drop_rate", 0.5), ("dropout", 0.5), ("label_smoothing", 0.2)):
        for there in _present(model, name):
            yield Dimension(f"model.init_args.{there}", "uniform", 0.0, highest), "dropout"


def _momentum(model: Mapping[str, Any]) -> Iterator[tuple[Dimension, str]]:
    """Of an optimiser that has one; in Adam the option would change nothing."""
    optimizer = str(model.get("optimizer", ""))
    if "momentum" in model:
        if "optimizer" not in model or any(word in optimizer.lower() for word in WITH_MOMENTUM):
            yield Dimension("model.init_args.momentum", "one_minus_log10", *MOMENTUM), "momentum"
    elif "optimizer_options" in model and any(word in optimizer.lower() for word in WITH_MOMENTUM):
        yield Dimension("model.init_args.optimizer_options.momentum", "one_minus_log10", *MOMENTUM), "momentum"


def _arguments(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return (section.get("init_args") or {}) if isinstance(section, Mapping) else {}


def _present(section: Mapping[str, Any], *names: str) -> list[str]:
    return [name for name in names if name in section and not isinstance(section[name], bool | str | list)]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _log(name: str, ends: tuple[float, float]) -> Dimension:
    return Dimension(name, "log10", *ends)


def _powers(size: int) -> tuple[int, ...]:
    """The powers of two from a quarter to four times a batch size, and 2 at least."""
    middle = round(math.log2(size))
    return tuple(2**power for power in range(max(1, middle - 2), middle + 3))


def printed(space: Sequence[Dimension], settings: Mapping[str, Any]) -> str:
    """A space as a file to be edited, with what each line means.

    Args:
        space: What to print.
        settings: All settings of `fit`.
    """
    groups = {one.name: group for one, group in _found(settings)}
    lines = [
        "# The space of a search: python scripts/train.py search --config FILE --space THIS",
        "# log10: [a, b] is 10^U(a, b); one_minus_log10: [a, b] is 1 - 10^U(a, b); int, uniform: between both ends;",
        "# choice: one of the values. By default the options are searched that matter most, these first.",
    ]
    for one in space:
        rank = f"rank {RANKS[groups[one.name]]}: " if one.name in groups else ""
        lines.append(f"{short(one.name)}: {_flow(one)}  # {rank}{told(one)}")
    return "\n".join(lines)


def _flow(one: Dimension) -> str:
    import yaml  # type: ignore[import-untyped]

    return str(yaml.safe_dump(one.spelled(), default_flow_style=True, sort_keys=False, width=10_000)).strip()


def told(one: Dimension) -> str:
    """Between what it is searched, in numbers: "1e-05 to 0.1, log"."""
    if not one.is_numeric:
        return f"one of {', '.join(map(str, one.choices))}"
    ends = [one.value(10.0**end if one.is_logarithmic else end) for end in (one.low, one.high)]
    low, high = sorted(ends)
    scale = {"log10": ", on a logarithmic scale", "one_minus_log10": ", its distance to 1 on a logarithmic scale"}
    return f"{low:.6g} to {high:.6g}{scale.get(one.kind, '')}"

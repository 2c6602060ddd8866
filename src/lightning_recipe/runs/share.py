"""Which share of its data a run gets: the options `--fold`, `--held_out`, `--subset`, `--all_data`, `--bootstrap`."""

from collections.abc import Mapping
from typing import Any

from lightning_recipe.runs.all_data import use_all_data
from lightning_recipe.runs.bootstrap import use_bootstrap
from lightning_recipe.runs.folds import use_fold
from lightning_recipe.runs.held_out import use_held_out
from lightning_recipe.runs.subset import use_subset

# At most one of them: each says by itself what is trained on. A bootstrap sample is drawn of what they give.
EXCLUSIVE = ("fold", "held_out", "subset", "all_data")


def use_share(options: Mapping[str, Any], datamodule: Any, model: Any = None, *, training: bool = True) -> None:
    """Give a run the share that its options ask for, before anything of its data is set up.

    Args:
        options: All options by name, without hyphens; one that is missing is not asked for.
        datamodule: The run's data; None where the model has its own loaders.
        model: The run's model.
        training: Whether the run trains; else `fold` and `bootstrap` have no say.

    Raises:
        ValueError: If two options contradict each other, one is of no such form, or the data does not allow it.
    """
    asked: dict[str, Any] = {name: options.get(name) for name in EXCLUSIVE if options.get(name) is not None}
    if len(asked) > 1:
        raise ValueError(
            f"{' and '.join(f'--{name} {value}' for name, value in asked.items())} were given, but each says by itself "
            "what is trained on: give one of them."
        )
    if "fold" in asked and training:
        use_fold(asked["fold"], datamodule)
    if "held_out" in asked:
        use_held_out(asked["held_out"], datamodule)
    if "subset" in asked:
        use_subset(asked["subset"], datamodule, model)
    if "all_data" in asked:
        use_all_data(asked["all_data"], datamodule, model)
    if options.get("bootstrap") is not None and training:
        use_bootstrap(options["bootstrap"], datamodule, model)

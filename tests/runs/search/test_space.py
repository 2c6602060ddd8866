"""Spaces of YAML: what each line means, and a sentence for each that means nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_recipe.runs.search import default_space
from lightning_recipe.runs.search.dimension import Dimension
from lightning_recipe.runs.search.space import changed, read_space, short, told

EXAMPLE = """
model.init_args.lr: {log10: [-5, -1]}
model.weight_decay: {log10: [-7.5, -1]}
model.optimizer_options.momentum: {one_minus_log10: [-3, -1]}
data.batch_size: {int: [16, 128]}
model.init_args.drop_rate: {uniform: [0, 0.5]}
model.optimizer: {choice: [adamw, sgd]}
"""


def read(text: str, settings: dict[str, Any]) -> list[Dimension]:
    Path("space.yaml").write_text(text)
    return read_space(Path("space.yaml"), settings)


def test_a_space_is_read_with_short_names_and_written_again(settings: dict[str, Any]) -> None:
    space = read(EXAMPLE, settings)
    assert [one.name for one in space] == [
        "model.init_args.lr",
        "model.init_args.weight_decay",
        "model.init_args.optimizer_options.momentum",
        "data.init_args.batch_size",
        "model.init_args.drop_rate",
        "model.init_args.optimizer",
    ]
    assert [one.kind for one in space] == ["log10", "log10", "one_minus_log10", "int", "uniform", "choice"]
    assert space[1].low == -7.5
    assert space[5].choices == ("adamw", "sgd")
    assert read(yaml.safe_dump(told(space), sort_keys=False), settings) == space
    assert short(space[2].name) == "model.optimizer_options.momentum"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.ler: {log10: [-5, -1]}", "names the option model.ler, which does not exist: did you mean model.lr?"),
        ("model.dropout: {uniform: [0, 1]}", "did you mean model.drop_rate?"),
        ("trainer.maxepochs: {int: [1, 2]}", "did you mean trainer.max_epochs?"),
        ("batch_size: {int: [1, 2]}", "the option batch_size, which does not exist: did you mean data.batch_size?"),
        ("zzz: {int: [1, 2]}", "which does not exist: `fit --print_config` prints those there are."),
        ("model.lr.more: {int: [1, 2]}", "names the option model.lr.more, which does not exist: did you mean model.lr"),
        ("model.lr: {log10: [-1, -5]}", "gives model.lr contradictory bounds: -1 is not below -5"),
        ("data.batch_size: {int: [16, 16]}", "contradictory bounds: 16 is not below 16; write the lower first."),
        ("model.lr: {log: [-5, -1]}", "a range of the kind 'log', but the kinds are log10, one_minus_log10, int, "),
        ("model.lr: {log10: [-5]}", "gives model.lr the bounds [-5], but log10 has two numbers"),
        ("model.lr: {log10: [a, b]}", "but log10 has two numbers"),
        ("model.lr: {uniform: [0, .inf]}", "but uniform has two numbers"),
        ("model.lr: {log10: [-500, -1]}", "but 10^300 is the largest number there is"),
        ("data.batch_size: {int: [1.5, 3]}", "the bounds [1.5, 3], but those of int are whole numbers"),
        ("model.optimizer: {choice: []}", "gives model.optimizer no values to choose from"),
        ("model.optimizer: {uniform: [0, 1]}", "draws numbers for model.optimizer, which is 'sgd' and no number"),
        ("model.pretrained: {int: [0, 1]}", "which is False and no number: give it a choice"),
        ("model.optimizer_options.momentum: {one_minus_log10: [-3, 0]}", "but 1 - 10^0 is not above 0"),
        ("model.lr: [1, 2]", "gives model.lr the range [1, 2], but a range is one of {log10: [-5, -1]}"),
        ("- model.lr", "must map options of fit to ranges"),
        ("", "must map options of fit to ranges"),
        ("a: [", "space.yaml is no YAML ("),
        ("model.lr: {log10: [-5, -1]}\nmodel.init_args.lr: {log10: [-5, -1]}", "names model.init_args.lr twice"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(text: str, message: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        read(text, settings)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing(settings: dict[str, Any]) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file none.yaml to read the space from: .*--print-space"):
        read_space(Path("none.yaml"), settings)


def test_options_that_are_mappings_take_new_keys(settings: dict[str, Any]) -> None:
    space = read("model.scheduler_options.decay_rate: {uniform: [0.1, 0.9]}", settings)
    assert space[0].name == "model.init_args.scheduler_options.decay_rate"
    assert changed(settings, {space[0].name: 0.5})["model"]["init_args"]["scheduler_options"] == {
        "decay_epochs": 3,
        "decay_rate": 0.5,
    }
    assert changed(settings, {"model.init_args.optimizer_options.momentum": 0.9})["model"]["init_args"][
        "optimizer_options"
    ] == {"momentum": 0.9}
    assert settings["model"]["init_args"]["optimizer_options"] is None, "what was given stays"


def test_the_default_space_is_in_the_order_of_importance(settings: dict[str, Any]) -> None:
    space = default_space.default_space(settings)
    assert [short(one.name) for one in space] == [
        "model.lr",
        "model.optimizer_options.momentum",
        "model.hidden_size",
        "data.batch_size",
        "model.num_layers",
        "model.weight_decay",
        "model.drop_rate",
    ]
    assert (space[0].low, space[0].high) == (-5, -1)
    assert (space[1].kind, space[1].low, space[1].high) == ("one_minus_log10", -3, -1)
    assert (space[2].kind, space[2].low, space[2].high) == ("int", 32, 128)
    assert space[3].choices == (8, 16, 32, 64, 128)
    assert (space[5].low, space[5].high) == (-7, -1)
    settings["model"]["init_args"]["optimizer"] = "adamw"
    assert "model.optimizer_options.momentum" not in [short(one.name) for one in default_space.default_space(settings)]
    with pytest.raises(ValueError, match="none of the options that are searched by default"):
        default_space.default_space({"model": {"class_path": "A", "init_args": {"size": 3}}, "data": None})


def test_the_default_space_as_a_file_is_the_same_space(settings: dict[str, Any]) -> None:
    space = default_space.default_space(settings)
    printed = default_space.printed(space, settings)
    assert "model.lr: {log10: [-5, -1]}  # rank 1: 1e-05 to 0.1, on a logarithmic scale" in printed
    assert "# rank 2: 0.9 to 0.999, its distance to 1 on a logarithmic scale" in printed
    assert read(printed, settings) == space


def test_values_on_their_scales() -> None:
    momentum = Dimension("m", "one_minus_log10", -3, -1)
    assert [momentum.value(drawn) for drawn in momentum.points(3)] == pytest.approx(
        [1 - 10 ** (-8 / 3), 0.99, 1 - 10 ** (-4 / 3)]
    ), "middles of thirds"
    assert momentum.key == "1 - m"
    assert Dimension("n", "int", 2, 9).points(3) == [3, 6, 8]
    assert Dimension("r", "log10", -5, -1).points(1) == pytest.approx([1e-3])
    betas = Dimension("b", "choice", choices=([0.9, 0.99], [0.9, 0.999]))
    assert betas.labels == ["[0.9, 0.99]", "[0.9, 0.999]"]
    assert betas.value("[0.9, 0.999]") == [0.9, 0.999]
    count = Dimension("n", "int", 1, 3)
    assert [count.at(share) for share in (0.0, 0.34, 0.67, 1.0)] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("given", "best", "low", "high"),
    [
        (Dimension("r", "log10", -5, -1), 1e-3, -4, -2),
        (Dimension("r", "log10", -5, -1), 1e-5, -5, -4),
        (Dimension("u", "uniform", 0, 1), 0.9, 0.65, 1),
        (Dimension("n", "int", 16, 128), 72, 44, 100),
        (Dimension("n", "int", 1, 3), 1, 1, 2),
        (Dimension("m", "one_minus_log10", -3, -1), 0.01, -2.5, -1.5),
    ],
)
def test_ranges_are_halved_around_the_best_and_clipped(given: Dimension, best: float, low: float, high: float) -> None:
    now = given.narrowed(best, given)
    assert (now.low, now.high) == pytest.approx((low, high))
    again = now.narrowed(best, given)
    assert again.high - again.low <= now.high - now.low
    assert again.low <= again.on_scale(best) <= again.high


def test_choices_stay() -> None:
    choice = Dimension("c", "choice", choices=(1, 2))
    assert choice.narrowed(1, choice) is choice
    assert choice.edge(1) is None


@pytest.mark.parametrize(
    ("dimension", "best", "edge"),
    [
        (Dimension("r", "log10", -5, -1), 9e-2, "high"),
        (Dimension("r", "log10", -5, -1), 1.1e-5, "low"),
        (Dimension("r", "log10", -5, -1), 1e-2, None),
        (Dimension("u", "uniform", 0, 0.5), 0.001, None),
        (Dimension("u", "uniform", 0.1, 0.5), 0.101, "low"),
        (Dimension("n", "int", 1, 4), 1, None),
        (Dimension("n", "int", 1, 4), 4, "high"),
    ],
)
def test_the_best_at_an_edge_is_noticed(dimension: Dimension, best: float, edge: str | None) -> None:
    assert dimension.edge(best) == edge
    assert math.isfinite(dimension.on_scale(best))

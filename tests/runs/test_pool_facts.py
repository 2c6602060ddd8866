import os
import random

import numpy as np
import pytest
import torch

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.runs.pool_facts import training_examples

DIGITS = {"class_path": "lightning_recipe.data.DigitsDataModule", "init_args": {"batch_size": 64, "split_seed": 3}}


def test_examples_and_classes_are_those_of_the_fit() -> None:
    data = DigitsDataModule(split_seed=3)
    data.setup("fit")
    facts = training_examples({"data": DIGITS, "seed_everything": 1})
    assert (facts.training, facts.validation) == (len(data.labels("train")), len(data.labels("val")))
    assert facts.training_labels.tolist() == data.labels("train").tolist()
    assert facts.validation_labels.tolist() == data.labels("val").tolist()
    assert facts.class_names == tuple("0123456789")


def test_the_share_of_the_fit_is_taken() -> None:
    facts = training_examples({"data": DIGITS, "subset": "50@2", "held_out": None})
    assert facts.training == len(facts.training_labels) == 50
    with pytest.raises(ValueError, match=r"Class '.' has .* examples, which is too few for 500 folds"):
        training_examples({"data": DIGITS, "held_out": "1/500"})
    with pytest.raises(ValueError, match="but each says by itself what is trained on"):
        training_examples({"data": DIGITS, "held_out": "1/5", "subset": "50"})


def test_data_of_others_is_counted(foreign) -> None:
    path = f"{foreign.__module__}.{foreign.__qualname__}"
    facts = training_examples({"data": {"class_path": path, "init_args": {"loaders": 2}}})
    assert (facts.training, facts.validation) == (200, 50)
    assert facts.training_labels is None
    assert facts.class_names == ()


def test_nothing_is_left_behind() -> None:
    states = [lambda: torch.get_rng_state().tolist(), lambda: str(np.random.get_state()), random.getstate]
    before = [state() for state in states], dict(os.environ)
    training_examples({"data": DIGITS, "seed_everything": 1})
    assert ([state() for state in states], dict(os.environ)) == before


def test_without_data_there_is_nothing_to_count() -> None:
    with pytest.raises(ValueError, match="The settings name no data, but its examples must be counted: give --data"):
        training_examples({"data": None})

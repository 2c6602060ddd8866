"""Bugs of data, labels and pipeline."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from planted_bugs.datasets import Rows, Splits, Transformed, cancer, diabetes, digits, scaled_target
from planted_bugs.modules import (
    Binary,
    DictModel,
    DigitsData,
    ImageModel,
    LitClassifier,
    Regressor,
    cnn,
    mlp,
)
from planted_bugs.program import Program, collection

DATA, data = collection("data")
LABELS, labels = collection("labels")
PIPELINE, pipeline = collection("pipeline")


@data("gap", "no-leak no-duplicates", ("leak", "(share|same|both|duplicate).*(split|validation|training)"))
def validation_rows_in_train(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed, 240, 150)
    together = Rows(torch.cat([train.x, held_out.x]), torch.cat([train.y, held_out.y]))
    used = together if buggy else train
    options = {"max_epochs": 12}
    return Program(LitClassifier(mlp(128)), used.loader(16, True), held_out.loader(64), test, options)


@data("accuracy", "imbalance class-size", ("imbalance", "rare class", "few(er)? examples"))
def thinned_classes(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    keep = (train.y > 1) | (torch.rand(len(train.y)) < (0.03 if buggy else 1.0))
    return Program(ImageModel(cnn()), train.keep(keep).loader(32, True), held_out.loader(100), test, {"max_epochs": 5})


@data("accuracy", "missing-class", ("class.*(missing|no example|absent|never)", "no example"))
def missing_class(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    train = train.keep(train.y != 4) if buggy else train
    data_module = DigitsData(Splits(train, held_out, test))
    return Program(LitClassifier(mlp()), data_module, None, test, {"max_epochs": 5})


@data("accuracy", "no-junk non-finite-start", (r"\bnan\b", "not finite", "non-finite"))
def nan_rows(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    train.x[torch.rand(len(train.x)) < 0.01] = float("nan") if buggy else 0.0
    return Program(LitClassifier(cnn()), train.loader(32, True), held_out.loader(100), test, {"max_epochs": 3})


@labels("accuracy", "label-suspects", ("labels?.*(signal|shuffled|unrelated|by chance|shifted)",))
def shuffled_labels(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    train = train.labelled(train.y[torch.randperm(len(train.y))] if buggy else train.y)
    return Program(ImageModel(mlp()), train.loader(32, True), held_out.loader(100), test, {"max_epochs": 4})


@labels("accuracy", "label-suspects", ("labels?.*(signal|shuffled|unrelated|by chance|shifted)",))
def labels_off_by_one_row(seed: int, buggy: bool) -> Program:
    splits = digits(seed)
    splits = Splits(*(rows.labelled(rows.y.roll(1) if buggy else rows.y) for rows in splits[:2]), splits.test)
    return Program(LitClassifier(cnn()), DigitsData(splits), None, splits.test, {"max_epochs": 4})


@labels("r2", "target-scale", ("targets?.*(scale|standardis|unit variance)",))
def target_unscaled(seed: int, buggy: bool) -> Program:
    splits = diabetes(seed)
    scaled = scaled_target(splits)
    train, held_out, test = splits if buggy else scaled
    return Program(Regressor(), train.loader(32, True), held_out.loader(), test, {"max_epochs": 10})


@pipeline("accuracy", "normalise-inputs", ("inputs?.*(scale|normalis|standardis|range|root mean square)",))
def pixels_times_255(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed, scale="unit")
    scale = v2.Lambda(lambda image: image * 255 if buggy else image * 1)
    splits = [Transformed(rows, scale) for rows in (train, held_out)]
    loaders = [DataLoader(rows, 50, shuffle=rows is splits[0]) for rows in splits]
    test = (scale(test.x), test.y)
    return Program(ImageModel(mlp(), 0.1), *loaders, test, {"max_epochs": 6})


@pipeline("gap", "same-distribution", ("shift", "validation.*(mean|scale|distribution)"))
def shifted_validation_features(seed: int, buggy: bool) -> Program:
    train, held_out, test = cancer(seed, standardised=False)
    mean, spread = train.x.mean(0), train.x.std(0)
    train, test = (Rows((rows.x - mean) / spread, rows.y) for rows in (train, test))
    held_out = Rows((held_out.x - (0 if buggy else mean)) / spread, held_out.y)
    return Program(Binary(30), train.loader(32, True), held_out.loader(), test, {"max_epochs": 6})


@pipeline("accuracy", "shuffle", ("sorted", "not shuffled", "shuffle=true"))
def sorted_not_shuffled(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    train = train.keep(train.y.argsort())
    return Program(ImageModel(cnn()), train.loader(32, shuffle=not buggy), held_out.loader(), test, {"max_epochs": 4})


@pipeline(
    "accuracy", "no-junk input-independent-baseline", ("inputs?.*(constant|all zero|ignored|all equal|do not matter)",)
)
def zeroed_inputs(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    mask = torch.zeros(1, 8, 8) if buggy else torch.ones(1, 8, 8)
    parts = [Transformed(rows, lambda image: image * mask, as_dict=True) for rows in (train, held_out)]
    loaders = [DataLoader(part, 32, shuffle=part is parts[0]) for part in parts]
    return Program(DictModel(mlp()), *loaders, test, {"max_epochs": 4})


@pipeline("accuracy", "scrambled-inputs", ("scrambl", "permut", "neighbour"))
def scrambled_examples(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    once = torch.randperm(64)
    order = (lambda: torch.randperm(64)) if buggy else (lambda: once)
    scramble = v2.Lambda(lambda image: image.flatten()[order()].view(1, 8, 8))
    train_set, held_out_set = Transformed(train, scramble), Transformed(held_out, scramble)
    loaders = (DataLoader(train_set, 32, shuffle=True), DataLoader(held_out_set, 64))
    test = (test.x.flatten(1)[:, once].view(-1, 1, 8, 8), test.y)
    return Program(LitClassifier(mlp()), *loaders, test, {"max_epochs": 5})


@pipeline("gap", "validation-passes", ("validation.*(augment|random|passes|differ)",))
def augmented_validation(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed)
    augment = v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomErasing(0.5, (0.05, 0.2))])
    plain = v2.Identity()
    train_set, held_out_set = Transformed(train, augment), Transformed(held_out, augment if buggy else plain)
    loaders = (DataLoader(train_set, 32, shuffle=True), DataLoader(held_out_set, 64))
    return Program(ImageModel(cnn()), *loaders, test, {"max_epochs": 5})

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from lightning_recipe.data import TableDataModule

DRAW = np.random.default_rng(0)
ROWS = 120
COLUMNS = {
    "kind": [("10", "2", "1")[number] for number in DRAW.choice(3, size=ROWS, p=[0.5, 0.3, 0.2])],
    "length": ["" if number % 11 == 0 else f"{5 + 3 * DRAW.normal():.3f}" for number in range(ROWS)],
    "width": [f"{number / 10}" for number in DRAW.permutation(ROWS)],
    "colour": [("red", "NA", "dark, blue", "red")[number % 4] for number in range(ROWS)],
    "patient": [f"p{number:02d}" for number in DRAW.integers(30, size=ROWS)],
    "day": [f"2024-{1 + number % 12:02d}-{1 + number % 28:02d}" for number in DRAW.permutation(ROWS)],
    "row": [str(number) for number in range(ROWS)],
}
PARTS = ("train", "val", "test")


def write(columns: dict[str, list[str]], path: str = "table.csv") -> str:
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    Path(path).write_text("\n".join(",".join(f'"{cell}"' for cell in line) for line in lines), encoding="utf-8")
    return path


def ready(columns: dict[str, list[str]] = COLUMNS, share: tuple = (), **options) -> TableDataModule:
    leave_out = [name for name in ("patient", "day", "row") if name in columns and name not in options.values()]
    data = TableDataModule(write(columns), "kind", **{"leave_out": leave_out, **options})
    if share:
        getattr(data, f"setup_{share[0]}")(*share[1:])
    data.setup("fit")
    return data


def rows(data: TableDataModule, split: str) -> list[int]:
    """Which rows of the table they are, from a width that no two have."""
    width = data.datasets[split].tensors[0][:, data.feature_names.index("width")].double().numpy()
    column = np.array(COLUMNS["width"], dtype=float)
    scaled = (column - data.normalisation.mean[1]) / data.normalisation.std[1]
    return [int(np.abs(scaled - value).argmin()) for value in width]


def test_split_by_class_and_named_in_the_order_of_numbers() -> None:
    data = ready()
    assert data.class_names == ["1", "2", "10"]
    assert data.num_classes == 3
    parts = {split: rows(data, split) for split in PARTS}
    assert sorted(row for part in parts.values() for row in part) == list(range(ROWS))
    assert [len(part) for part in parts.values()] == pytest.approx([72, 24, 24], abs=2)
    for split, part in parts.items():
        assert [data.class_names[label] for label in data.labels(split)] == [COLUMNS["kind"][row] for row in part]
    total = np.bincount(np.concatenate([data.labels(split) for split in PARTS]))
    assert np.bincount(data.labels("test")) / total == pytest.approx(0.2, abs=0.03)


def test_batches_are_features_and_labels() -> None:
    data = ready(batch_size=8)
    x, y = next(iter(data.train_dataloader()))
    assert (x.dtype, x.shape, y.dtype, y.shape) == (torch.float32, (8, data.num_features), torch.int64, (8,))
    val = default_collate([data.datasets["val"][number] for number in range(8)])
    assert all(torch.equal(one, other) for one, other in zip(next(iter(data.val_dataloader())), val, strict=True))
    assert len(list(data.predict_dataloader())) == len(list(data.test_dataloader()))


def test_numbers_are_standardised_filled_and_marked_and_texts_have_a_feature_each() -> None:
    data = ready()
    assert data.feature_names == [
        "length",
        "width",
        "length is missing",
        "colour = nothing",
        "colour = dark, blue",
        "colour = red",
    ]
    assert data.num_features == 6
    x = {split: data.datasets[split].tensors[0] for split in PARTS}
    torch.testing.assert_close(x["train"][:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x["train"][:, :2].std(0, unbiased=False), torch.ones(2), atol=1e-5, rtol=0)
    for split in PARTS:
        missing = torch.tensor([row % 11 == 0 for row in rows(data, split)])
        assert torch.equal(x[split][:, 2], missing.float())
        assert (x[split][missing, 0].abs() < 1e-6).all(), "the mean, which is 0 now"
        colours = [COLUMNS["colour"][row] for row in rows(data, split)]
        assert x[split][:, 3:].tolist() == [[c == "NA", c == "dark, blue", c == "red"] for c in colours]


def test_a_text_that_training_has_not_is_all_zero_and_takes_no_feature_away() -> None:
    test = rows(ready(), "test")
    rare = {**COLUMNS, "colour": ["odd" if row in test[:3] else text for row, text in enumerate(COLUMNS["colour"])]}
    data = ready(rare)
    assert "colour = odd" in data.feature_names
    assert data.datasets["test"].tensors[0][:3, 3:].sum() == 0
    assert data.datasets["test"].tensors[0][3:, 3:].sum(1).eq(1).all()


@pytest.mark.parametrize("share", [(), ("fold", 1, 4, 0, True), ("subset", 12, 0), ("all", "kept")], ids=str)
def test_all_that_is_fitted_is_fitted_to_training_rows(share: tuple) -> None:
    data = ready(share=share)
    train = set(rows(ready(), "train") if share == ("all", "kept") else rows(data, "train"))
    poisoned = {
        **COLUMNS,
        "length": [text if row in train else "1e9" for row, text in enumerate(COLUMNS["length"])],
        "colour": [text if row in train else "odd" for row, text in enumerate(COLUMNS["colour"])],
    }
    again = ready(poisoned, share)
    assert again.normalisation == data.normalisation
    kept = [again.feature_names.index(name) for name in data.feature_names]
    here = [row in train for row in rows(data, "train")]
    assert torch.equal(again.datasets["train"].tensors[0][here][:, kept], data.datasets["train"].tensors[0][here])
    x = again.datasets["test"].tensors[0]
    assert x[:, 0].min() > 1e6
    assert x[:, again.feature_names.index("colour = odd")].eq(0).all()


def test_all_folds_and_subsets_have_the_same_features() -> None:
    names = ready().feature_names
    assert all(ready(share=share).feature_names == names for share in (("subset", 3, 0), ("fold", 0, 2, 0, True)))


@pytest.mark.parametrize("share", [(), ("fold", 2, 4, 0, True), ("fold", 1, 3)], ids=str)
def test_a_patient_is_never_on_two_sides(share: tuple) -> None:
    data = ready(share=share, group="patient")
    sides = [{COLUMNS["patient"][row] for row in rows(data, split)} for split in PARTS]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert not [name for name in data.feature_names if "patient" in name]


@pytest.mark.parametrize("share", [(), ("fold", 2, 4, 0, True)], ids=str)
def test_time_never_looks_ahead(share: tuple) -> None:
    data = ready(share=share, time="day")
    days = [[COLUMNS["day"][row] for row in rows(data, split)] for split in PARTS]
    assert max(days[0]) < min(days[1]) <= max(days[1]) < min(days[2])
    if not share:
        assert [len(part) for part in days] == pytest.approx([72, 24, 24], abs=6)
    assert not [name for name in data.feature_names if "day" in name]


def test_times_may_be_numbers() -> None:
    data = ready(time="row")
    assert [rows(data, split) for split in PARTS] == [[*range(72)], [*range(72, 96)], [*range(96, 120)]]


class Linear(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_a_checkpoint_knows_the_features() -> None:
    def trainer() -> L.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return L.Trainer(**quiet, max_steps=1, accelerator="cpu")

    fitted = trainer()
    fitted.fit(Linear(), datamodule=ready())
    fitted.save_checkpoint("a.ckpt")
    trainer().test(Linear(), datamodule=ready(), ckpt_path="a.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"normalised with mean .*, but this data is normalised with"):
        trainer().test(Linear(), datamodule=ready({**COLUMNS, "width": ["7"] * 60 + ["8"] * 60}), ckpt_path="a.ckpt")
    more = ready({**COLUMNS, "weight": COLUMNS["width"]})
    with pytest.raises(
        ValueError, match=r"was trained on 6 features, and the table gives 7 \(weight\): give it the table"
    ):
        trainer().test(Linear(), datamodule=more, ckpt_path="a.ckpt")


WRONG = {
    "target='sort' is no column of table.csv: it has kind, length": {"target": "sort"},
    "group='family' is no column of table.csv": {"group": "family"},
    "time='hour' is no column of table.csv": {"time": "hour"},
    r"leave_out\[1\]='id' is no column of table.csv": {"leave_out": ["row", "id"]},
    "group='patient' and time='day' were given, but a cut in time may go through a group": {
        "group": "patient",
        "time": "day",
    },
    "The target column 'row' of table.csv has 120 different values in 120 rows": {"target": "row"},
    "The column 'patient' has 'p.*' in row 1, which is no point in time: write all as numbers, or all": {
        "time": "patient"
    },
    "delimiter=', ' was given, but it must be one character": {"delimiter": ", "},
    "target='kind' is no column of table.csv: it has kind,length,": {"delimiter": ";"},
    "The shares held out are": {"val_fraction": 0.9},
    "There is no table nowhere.csv: give a CSV file": {"path": "nowhere.csv"},
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_settings(said: str) -> None:
    Path(write(COLUMNS)).write_text(Path("table.csv").read_text().replace('"', "").replace("dark, blue", "blue"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        TableDataModule(**{"path": "table.csv", "target": "kind", **WRONG[said]}).setup("fit")


FILES = {
    "table.csv has no rows below a header": b"kind,length\n",
    "table.csv has no rows": b"",
    "Line 3 of table.csv has 3 cells, but the header names 2 columns: correct the line, or": b"kind,a\n1,2\n1,2,3\n",
    "table.csv has columns of the same name or of none \\('', 'a'\\): name them": b"kind,a,a,\n1,2,3,4\n",
    "table.csv cannot be read as a CSV file in UTF-8": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "table.csv cannot be read as a CSV file in UTF-8 .*: save": b'kind,a\n1,"2\n',
    "The target column 'kind' of table.csv is empty in row 2 below the header: fill it": b"kind,a\n1,2\n,3\n",
    "The target column 'kind' of table.csv has 1 different values in 3 rows": b"kind,a\n1,2\n1,2\n1,3\n",
    "Class '2' has too few examples \\(1\\) to be split": b"kind,a\n1,2\n1,2\n1,3\n2,3\n",
    "The column 'a' is empty: fill it, or leave it out": b"kind,a\n" + b"1,NA\n2,\n" * 9,
    "The column 'a' has an infinite number": b"kind,a\n" + b"1,inf\n2,3\n" * 9,
    "The table has no column to learn from": b"kind\n" + b"1\n2\n" * 9,
}


@pytest.mark.parametrize("said", FILES)
def test_files_that_are_no_such_tables(said: str) -> None:
    Path("table.csv").write_bytes(FILES[said])
    with pytest.raises(ValueError, match=said):
        TableDataModule("table.csv", "kind").setup("fit")


def test_a_group_or_time_must_be_told_of_each_row() -> None:
    for option, column in (("group", "patient"), ("time", "day")):
        columns = {**COLUMNS, column: ["", *COLUMNS[column][1:]]}
        with pytest.raises(ValueError, match=f"The {option} column '{column}' of table.csv is empty in row 1 below"):
            ready(columns, **{option: column})

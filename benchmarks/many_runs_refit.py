"""Both strategies of `refit` beside the model that stopped early, on the same test examples; see many_runs.py."""

import contextlib
import csv
import io
import multiprocessing
import statistics
from pathlib import Path

import torch
from results import origin, quietly

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
STOP = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
STOP += ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=5"]
RNN = ["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=64"]
TABLE = ["--model=TableClassifier", "--model.num_features=30", "--model.num_classes=2"]
DATA = {
    "digits": [*RNN, "--data=DigitsDataModule", "--data.form=rows", "--trainer.max_epochs=40"],
    "breast cancer": [*TABLE, "--data=TableDataModule", "--data.path=table.csv", "--data.target=diagnosis"],
}
DATA["breast cancer"] += ["--trainer.max_epochs=100"]
METRICS = ("test/accuracy", "test/loss")


def write_table(path: Path) -> None:
    """scikit-learn's breast cancer data as a CSV."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(name.replace(" ", "_") for name in data.feature_names), "diagnosis"])
        for row, target in zip(data.data.tolist(), data.target.tolist(), strict=True):
            writer.writerow([*row, data.target_names[target]])


def scores_of(name: str, split: int) -> dict[str, tuple[float, ...]]:
    """Test metrics of the early-stopped model and of both refits, for one split of the data."""
    from lightning_recipe.cli import main
    from lightning_recipe.runs.manifest import Entry

    torch.set_num_threads(1)  # two splits at once
    with quietly(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        write_table(Path("table.csv"))
        words = [*DATA[name], *QUIET, *STOP, "--rules=none", f"--data.split_seed={split}", f"--seed_everything={split}"]
        cli = main(["fit", *words, "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"])
        run, best = cli.trainer.log_dir, cli.trainer.checkpoint_callback.best_model_path
        tested = {"stopped early": tested_by(main, [*words, f"--ckpt_path={best}"])}
        for strategy in ("restart", "continue"):
            try:
                main(["refit", f"--run={run}", f"--strategy={strategy}", f"--folder={strategy}"])
            except SystemExit:  # nothing to do: the validation loss is below that of training
                tested[strategy] = tested["stopped early"]
                continue
            path = Entry(Path(strategy, f"{strategy}.json")).checkpoint()
            tested[strategy] = tested_by(main, ["--config", f"{strategy}/{strategy}.yaml", f"--ckpt_path={path}"])
    return tested


def tested_by(main, words: list[str]) -> tuple[float, ...]:  # type: ignore[no-untyped-def]
    metrics = main(["test", *words]).trainer.callback_metrics
    return tuple(float(metrics[name]) for name in METRICS)


def report(splits: int) -> str:
    """The table."""
    from lightning_recipe.runs.resampling import paired

    lines = [
        f"{origin('lightning-rules', 'lightning', 'torch')}; on the test set of {splits} splits, mean of each metric; "
        "the difference to the model that stopped early with its 95% interval (corrected for overlapping splits: "
        "Nadeau and Bengio 2003).\n",
        "| data | metric | stopped early | restart | difference | continue | difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    asked = [(name, split) for name in DATA for split in range(splits)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = dict(zip(asked, pool.starmap(scores_of, asked, chunksize=1), strict=True))
    for name in DATA:
        for place, metric in enumerate(METRICS):
            each = {
                way: [found[name, split][way][place] for split in range(splits)]
                for way in ("stopped early", "restart", "continue")
            }
            cells = [name, metric, f"{statistics.mean(each['stopped early']):.4f}"]
            for way in ("restart", "continue"):
                difference = paired(each[way], each["stopped early"], 0.1 / 0.9 if name == "digits" else 0.25)
                low, high = difference.interval
                cells += [f"{statistics.mean(each[way]):.4f}", f"{difference.mean:+.4f} ({low:+.4f} to {high:+.4f})"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

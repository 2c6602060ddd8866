"""What procedures of many fits cost, and what they bring.

    python benchmarks/many_runs.py time                print a table: a search of 8 trials of 5 folds, 40 fits
    python benchmarks/many_runs.py search              random search beside a grid at the same number of trials
    python benchmarks/many_runs.py refit               both strategies of `refit` beside the model that stopped early
    python benchmarks/many_runs.py time --record       also write it to benchmarks/RESULTS.md

`time`: the same 40 fits (a recurrent network, 5 epochs, a checkpoint, a test) by a `for` loop over `Trainer.fit` in one
process; by a shell loop with a process for each fit; by `search --folds 5` with one and with two jobs.
Each way is a process of its own, timed from its start to its end, and they take turns. Memory is the proportional set
size (shared pages count once) of the process and all below it, at its highest.
"""

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from results import origin, record

FOLDS, TRIALS, EPOCHS = 5, 8, 5
RATES = [10 ** (-3.5 + 0.25 * trial) for trial in range(TRIALS)]
ROOT = Path(__file__).resolve().parents[1]
HEADINGS = {
    "time": "Many fits: time and memory",
    "search": "Random search and grid",
    "refit": "Retraining on all data",
}
ROUNDS = {"time": 2, "search": 10, "refit": 20}


def one_fit(trial: int, fold: int) -> None:
    """What a loop does by hand, with the same parts."""
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from lightning_recipe.data import DigitsDataModule
    from lightning_recipe.models import SequenceClassifier

    L.seed_everything(42 + fold, verbose=False)
    data = DigitsDataModule(form="rows")
    data.setup_fold(fold, FOLDS, 42, nested=True)
    model = SequenceClassifier(8, 10, 64, bidirectional=True, lr=RATES[trial])
    keep = ModelCheckpoint(monitor="val/accuracy", mode="max")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=EPOCHS, callbacks=[keep], logger=CSVLogger("logs"), **quiet)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, ckpt_path="best", verbose=False)


def by_loop() -> None:
    """All fits in this process, one after the other."""
    for trial in range(TRIALS):
        for fold in range(FOLDS):
            one_fit(trial, fold)


def by_processes() -> None:
    """A process for each fit, one after the other."""
    for trial in range(TRIALS):
        for fold in range(FOLDS):
            words = [sys.executable, str(Path(__file__).resolve()), "time", f"--way=fit:{trial}:{fold}"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def by_search(jobs: int, *more: str) -> None:
    """`search` at the command line, which tries the same eight rates, each on the five folds."""
    Path("space.yaml").write_text(f"model.lr: {{choice: {RATES}}}\n", encoding="utf-8")
    words = ["search", "--space=space.yaml", f"--folds={FOLDS}", f"--trials={TRIALS}", "--sampler=grid"]
    words += [
        f"--jobs={jobs}",
        "--folder=search",
        "--seed_everything=42",
        "--model=SequenceClassifier",
        "--model.input_size=8",
    ]
    words += ["--model.num_classes=10", "--model.hidden_size=64", "--model.bidirectional=true"]
    words += ["--data=DigitsDataModule", "--data.form=rows", *more]
    words += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/accuracy"]
    words += ["--trainer.callbacks.mode=max", f"--trainer.max_epochs={EPOCHS}", "--trainer.accelerator=cpu"]
    words += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "train.py"), *words], check=True)
    records = [json.loads(path.read_text()) for path in Path("search").glob("trial_*_fold_*.json")]
    finished = sum(one["status"] == "finished" for one in records)
    if finished != FOLDS * TRIALS:
        raise RuntimeError(f"{finished} of {FOLDS * TRIALS} fits are finished.")


WAYS: dict[str, Callable[[], None]] = {
    "a `for` loop in one process": by_loop,
    "a process for each fit, one after the other": by_processes,
    "`search --folds 5`, 1 job": lambda: by_search(1, "--rules=none"),
    "`search --folds 5`, 2 jobs": lambda: by_search(2, "--rules=none"),
    "`search --folds 5`, 2 jobs, all recommended rules and 40 report cards": lambda: by_search(2),
}


def report_time(rounds: int) -> str:
    """The table of times."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    memory = dict.fromkeys(WAYS, 0.0)
    order = list(WAYS)
    for _ in range(rounds):
        for name in order:
            took, highest = measured(name)
            seconds[name].append(took)
            memory[name] = max(memory[name], highest)
            print(f"{name}: {took:.0f} s, {highest:.0f} MB", file=sys.stderr, flush=True)
        order.reverse()
    least = {name: min(each) for name, each in seconds.items()}
    loop = least[next(iter(WAYS))]
    lines = [
        f"{origin('lightning-rules', 'lightning', 'torch')}; {FOLDS} folds of {TRIALS} trials on digits, "
        + (f"the least of {rounds} rounds.\n" if rounds > 1 else "one round.\n"),
        "| way | seconds | of the loop | memory at its highest |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {name} | {took:.0f} | {took / loop:.2f} | {memory[name]:,.0f} MB |" for name, took in least.items()]
    return "\n".join(lines)


def measured(name: str) -> tuple[float, float]:
    """Seconds and megabytes of one way, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        began, highest = time.perf_counter(), 0.0
        words = [sys.executable, str(Path(__file__).resolve()), "time", f"--way={name}"]
        with open(Path(folder) / "said", "w", encoding="utf-8") as said:
            process = subprocess.Popen(words, cwd=folder, stdout=said, stderr=said)
            while process.poll() is None:
                highest = max(highest, memory_below(process.pid))
                time.sleep(1.0)
        if process.returncode:
            raise RuntimeError((Path(folder) / "said").read_text(encoding="utf-8")[-2000:])
        return time.perf_counter() - began, highest


def memory_below(root: int) -> float:
    """Megabytes of a process and of all that it has started, pages that they share counted once."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for number in family:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=HEADINGS, nargs="?", default="time", help="what to measure (default: time)")
    parser.add_argument("--rounds", type=int, help="turns, seeds or splits (default: 2, 10, 20)")
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/RESULTS.md")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        _, *numbers = options.way.split(":")
        one_fit(*map(int, numbers)) if options.way.startswith("fit:") else WAYS[options.way]()
        return
    report = report_time if options.part == "time" else importlib.import_module(f"many_runs_{options.part}").report
    text = report(options.rounds or ROUNDS[options.part])
    print(text)
    if options.record:
        record(HEADINGS[options.part], text)


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "offline")
    main()

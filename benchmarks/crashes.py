"""Kill a run again and again with SIGKILL; does it end with the weights of one that was never killed?

    python benchmarks/crashes.py                              200 kills: one process and two ranks, 0 and 2 workers
    python benchmarks/crashes.py --record                     also write it to benchmarks/RESULTS.md
    python benchmarks/crashes.py --kills 5 --only 2x0 --json  one kind of run: two ranks, no workers; for the tests

The run: shuffled and randomly augmented data, batch norm, dropout, accumulation over 3 batches, AdamW with a schedule
by step and one that looks at the validation loss, validation five times an epoch; the two best checkpoints and the last
are kept. Killed at a random moment, during saves too, it is started again with `ckpt_path="last"`, until the kills are
spent.
After each kill every checkpoint in the folder must load, and those that the last one names as best must be there.
In the end weights, optimiser, schedulers and the best checkpoints are compared bit for bit with the unbroken run's.

All processes are forks of one that has imported everything, so that a start takes a fraction of a second.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import results
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_rules import ExactResume, GitTagCheckpoint

KINDS = {"1x0": (1, 0), "1x2": (1, 2), "2x0": (2, 0), "2x2": (2, 2)}  # ranks x workers
DEADLINE = 180.0  # seconds for one start; a run that takes longer hangs


class Augmented(Dataset[Any]):
    """240 examples of 64 features, with noise from each of the generators that programs share."""

    def __init__(self, count: int = 240) -> None:
        draw = torch.Generator().manual_seed(count)
        self.inputs = torch.randn(count, 64, generator=draw)
        self.targets = (self.inputs[:, :2].sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        return self.inputs[index] + noise + 0.1 * torch.randn(64), self.targets[index]


class Network(L.LightningModule):
    """A perceptron with what a resume can get wrong."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers
        self.net = nn.Sequential(nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        by_step = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        by_metric = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.8)
        watched = {"scheduler": by_metric, "monitor": "val_loss", "interval": "epoch"}
        return [optimizer], [{"scheduler": by_step, "interval": "step"}, watched]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(48), batch_size=8)


def train(folder: Path, workers: int, epochs: int) -> None:
    """One start: from the last checkpoint, if there is one, to the end; then all that is left is written down."""
    L.seed_everything(1, verbose=False)
    keeper = GitTagCheckpoint(folder / "checkpoints", monitor="val_loss", save_top_k=2, save_last=True, policy="none")
    trainer = L.Trainer(
        accelerator="cpu",
        strategy="ddp" if "LOCAL_RANK" in os.environ else "auto",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        max_epochs=epochs,
        val_check_interval=0.2,
        accumulate_grad_batches=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ExactResume(), keeper],
    )
    trainer.fit(Network(workers), ckpt_path="last", weights_only=True)
    if trainer.is_global_zero:
        left = {
            "weights": trainer.lightning_module.state_dict(),
            "optimiser": trainer.optimizers[0].state_dict(),
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "best": {Path(path).name: float(score) for path, score in keeper.best_k_models.items()},
        }
        torch.save(left, folder / "left.part")
        (folder / "left.part").rename(folder / "left.pt")


def start(folder: Path, ranks: int, workers: int, epochs: int) -> list[int]:
    """Fork one process a rank."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    started = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # so that its workers are killed with it
            _be_quiet(folder)
            if ranks > 1:
                address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
                os.environ.update(address, WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
            _exit_with(train, folder, workers, epochs)
        started.append(child)
    return started


def _exit_with(call: Any, *arguments: Any) -> None:
    code = 1
    try:
        call(*arguments)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_quiet(folder: Path) -> None:
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    warnings.simplefilter("ignore")


def end(started: Sequence[int], seconds: float, number: int = signal.SIGKILL) -> list[int]:
    """Wait for the ranks, at most so long, then send the signal to those that still run; their exit statuses."""
    until = time.monotonic() + seconds
    codes: dict[int, int] = {}
    told = False
    while len(codes) < len(started):
        for child in started:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        if time.monotonic() > until and not told:
            told = True
            for child in started:
                _signal(child, number)
        if time.monotonic() > until + DEADLINE:
            raise SystemExit("error: a run does not end; it hangs.")
        time.sleep(0.002)
    for child in started:
        _signal(child, signal.SIGKILL)  # workers that are left
    return [codes[child] for child in started]


def _signal(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            os.killpg(child, number)
        else:
            os.kill(child, number)


def faults_in(folder: Path) -> list[str]:
    """What is wrong with the checkpoints that a killed run has left."""
    found = []
    for path in (folder / "checkpoints").glob("*.ckpt"):
        try:
            checkpoint = torch.load(path, weights_only=True)
        except Exception as error:
            found.append(f"{path.name} does not load: {error}")
            continue
        for state in checkpoint["callbacks"].values():
            named = [*state.get("best_k_models", {})] if path.name == "last.ckpt" else []
            found += [
                f"{path.name} names {Path(best).name}, which is gone" for best in named if not Path(best).exists()
            ]
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Names of all that is not the same, bit for bit."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        names = sorted({*one, *other}, key=str)
        return [d for name in names for d in differences(one.get(name), other.get(name), f"{where}/{name}")]
    if isinstance(one, list):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    return [] if one == other else [f"{where}: {other} instead of {one}"]


def crash(kind: str, kills: int, number: int, epochs: int) -> dict[str, Any]:
    """Kill one kind of run so many times, let it end, compare it with an unbroken one."""
    ranks, workers = KINDS[kind]
    draw = random.Random(kind)
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(place) / "whole", Path(place) / "broken"
        whole.mkdir()
        broken.mkdir()
        begun = time.monotonic()
        codes = end(start(whole, ranks, workers, epochs), DEADLINE)
        seconds = time.monotonic() - begun
        if any(codes):
            raise SystemExit(f"error: the unbroken run failed: {(whole / 'output.txt').read_text()[-3000:]}")
        faults: list[str] = []
        statuses: list[int] = []
        # by the number of kills each start gets on: a little more than its share of the run on average
        while len(statuses) < kills:
            codes = end(start(broken, ranks, workers, epochs), draw.uniform(0.1, 1.2) * seconds, number)
            if (broken / "left.pt").exists():  # it has ended; the next one begins anew
                faults += [f"after {len(statuses)} kills: {found}" for found in compare(whole, broken)]
                for path in sorted(broken.rglob("*"), reverse=True):
                    path.unlink() if path.is_file() else path.rmdir()
                continue
            statuses += [codes[0]]
            faults += [f"after kill {len(statuses)}: {found}" for found in faults_in(broken)]
        codes = end(start(broken, ranks, workers, epochs), DEADLINE)
        faults += compare(whole, broken)
        return {"kind": kind, "kills": len(statuses), "seconds": seconds, "statuses": statuses, "faults": faults}


def compare(whole: Path, broken: Path) -> list[str]:
    """What differs in the end."""
    if not (broken / "left.pt").exists():
        return [f"the resumed run failed: {(broken / 'output.txt').read_text()[-3000:]}"]
    one, other = (torch.load(folder / "left.pt", weights_only=True) for folder in (whole, broken))
    found = differences(one, other)
    names = [sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt")) for folder in (whole, broken)]
    return found + ([] if names[0] == names[1] else [f"checkpoints: {names[1]} instead of {names[0]}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many times each kind of run is killed")
    parser.add_argument("--only", choices=KINDS, action="append", help="kinds of runs, ranks x workers")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--signal", choices=("SIGKILL", "SIGTERM"), default="SIGKILL")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    number = signal.Signals[given.signal]
    rows = [crash(kind, given.kills, number, given.epochs) for kind in given.only or KINDS]
    if given.json:
        print(json.dumps(rows))
        return
    lines = ["| ranks x workers | killed | faults |", "| --- | --- | --- |"]
    lines += [f"| {row['kind']} | {row['kills']} | {len(row['faults'])} |" for row in rows]
    print("\n".join([*lines, *(fault for row in rows for fault in row["faults"])]))
    if given.record:
        results.record("Killed and resumed", f"{results.origin('torch', 'lightning')}.\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()

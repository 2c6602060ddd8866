"""A teacher's answers to a whole data set, computed once: a memory-mapped file beside a header that says of what."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lightning_rules.combine.indexed_loader import items_of
from lightning_rules.labels import labels_of
from lightning_rules.ranks import on_rank_zero, raise_together
from lightning_rules.untouched import untouched

HEADER, VALUES, DONE = "targets.json", "targets.bin", "targets.done"
FORMAT = 1
SAMPLED = 8  # examples read to know a data set by
_SAYS = {"teacher": "another teacher", "data": "other data", "row": "another number of classes", "task": "another task"}


class SoftTargets:
    """The rows of a cache; the file is read where it is asked, and never held in memory as a whole.

    Blocks of rows are written one by one and then marked as done, each on the disk before the next: whatever is
    killed in between goes on with what is missing, on as many ranks as there are then.

    Args:
        folder: What :func:`create` has made.
    """

    def __init__(self, folder: Path) -> None:
        self.header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        shape = (self.header["rows"], *self.header["row"])
        self.values = np.memmap(folder / VALUES, dtype=self.header["type"], mode="r+", shape=shape)
        self.done = np.memmap(folder / DONE, dtype=np.uint8, mode="r+", shape=(_blocks(self.header),))

    def missing(self) -> list[range]:
        """The rows of the blocks that are not filled yet."""
        size, rows = self.header["block"], self.header["rows"]
        left = [block for block in range(len(self.done)) if not self.done[block]]
        return [range(block * size, min(rows, (block + 1) * size)) for block in left]

    def write(self, rows: range, values: Tensor) -> None:
        """Fill one block; on the disk when this returns."""
        self.values[rows.start : rows.stop] = values.cpu().numpy()
        self.values.flush()
        self.done[rows.start // self.header["block"]] = 1
        self.done.flush()

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The rows of some examples, float32, on the host."""
        return torch.from_numpy(np.asarray(self.values[indices.cpu().numpy()], dtype=np.float32))


def _blocks(header: dict[str, Any]) -> int:
    return math.ceil(int(header["rows"]) / int(header["block"]))


def create(folder: Path, key: dict[str, Any], block: int) -> None:
    """Make an empty cache, or find one that was made for the same; its header appears last.

    Args:
        folder: Its place.
        key: What the answers are of: "teacher", "data", "task", "rows", "row" (the shape of an answer).
        block: Rows a block; a cache that is there keeps its own.

    Raises:
        ValueError: What is there was made for something else.
        OSError: The place cannot be written.
    """
    header = {"format": FORMAT, **key, "type": "float32" if key["task"] == "regression" else "float16"}
    place = folder / HEADER
    if place.is_file():
        _refuse_another(folder, json.loads(place.read_text(encoding="utf-8")), header)
        return
    folder.mkdir(parents=True, exist_ok=True)
    header["block"] = block
    size = np.dtype(header["type"]).itemsize * key["rows"] * math.prod(key["row"])
    for name, length in ((VALUES, size), (DONE, _blocks(header))):
        with (folder / name).open("wb") as file:
            file.truncate(length)
    beside = place.with_suffix(".part")
    beside.write_text(json.dumps(header, indent=1), encoding="utf-8")
    os.replace(beside, place)


def _refuse_another(folder: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    if {**found, "block": 0} == {**expected, "block": 0}:
        return
    differs = next((said for name, said in _SAYS.items() if found.get(name) != expected[name]), "another version")
    raise ValueError(
        f"The soft targets in {folder} were computed for {differs}: remove that folder, or name another `cache_dir`."
    )


def fill(
    trainer: Any,
    folder: Path,
    key: dict[str, Any],
    answer: Callable[[Any], Tensor],
    data: tuple[Any, Callable[[list[Any]], Any]],
    loader: DataLoader[Any],
) -> SoftTargets:
    """Open a cache, and compute what is missing in it. A collective: each rank does its share, and waits for all.

    Args:
        trainer: The run's Trainer.
        folder: The cache's place, seen by all ranks.
        key: As for :func:`create`.
        answer: What the teacher says to a batch on the host, one row an example.
        data: The data set, and its collate function.
        loader: The run's loader, whose batch size and number of workers are used.

    Raises:
        ValueError: The cache is there, and of something else.
        RuntimeError: It failed on some rank; the same sentence on all ranks.
        OSError: The place cannot be written, or is not seen by all ranks.
    """

    def find_missing() -> list[range]:
        create(folder, key, int(loader.batch_size or 64))
        return SoftTargets(folder).missing()

    try:  # one list for all: a rank that looked for itself would miss what a quicker one has done by then
        missing = on_rank_zero(trainer, find_missing)
    except RuntimeError as error:  # what `create` refuses, as all ranks hear it
        raise ValueError(str(error)) from error
    failure: Exception | None = None
    try:
        targets = SoftTargets(folder)
        rows = missing[trainer.global_rank :: trainer.world_size]
        with torch.no_grad(), untouched(None, loader), _progress(trainer, sum(map(len, rows))) as advance:
            for block, batch in zip(rows, _batches(*data, rows, loader), strict=True):
                targets.write(block, answer(batch))
                advance(len(block))
    except Exception as error:
        failure = error
    raise_together(trainer, failure)
    return SoftTargets(folder)


def _batches(dataset: Any, collate: Any, blocks: Sequence[range], loader: DataLoader[Any]) -> Iterator[Any]:
    if not blocks:
        return iter(())
    return iter(
        DataLoader(
            dataset,
            batch_sampler=[list(block) for block in blocks],
            collate_fn=collate,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
    )


def file_key(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_key(dataset: Any) -> tuple[str, bool]:
    """What a data set is known by, and whether two readings of an example agree.

    Its length, its labels where they can be had without reading, and some examples where they are the same each time.
    """
    with untouched(None, dataset):
        places = np.unique(np.linspace(0, len(dataset) - 1, SAMPLED).astype(int)).tolist()
        first, second = (b"".join(map(_bytes, items_of(dataset, places))) for _ in range(2))
    labels = labels_of(dataset)
    digest = hashlib.sha256(f"{len(dataset)}".encode())
    digest.update(b"" if labels is None else _bytes(labels))
    digest.update(first if first == second else b"")
    return digest.hexdigest()[:16], first == second


def _bytes(item: Any) -> bytes:
    return b"".join(_leaf(leaf) for leaf in tree_leaves(item))


def _leaf(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu().contiguous().view(-1)
        return bytes(leaf.view(torch.uint8).numpy().tobytes()) if leaf.numel() else b""
    if isinstance(leaf, np.ndarray) or callable(getattr(leaf, "tobytes", None)):
        return bytes(leaf.tobytes())
    return repr(leaf).encode() if isinstance(leaf, (bool, int, float, str)) else b""


@contextmanager
def _progress(trainer: Any, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of examples on rank 0 where the Trainer shows one; yields what advances it."""
    bar = trainer.progress_bar_callback
    if not trainer.is_global_zero or bar is None or bar.is_disabled:
        yield lambda rows: None
        return
    with Progress(transient=True) as progress:
        task = progress.add_task("Asking the teacher", total=total)
        yield lambda rows: progress.advance(task, rows)

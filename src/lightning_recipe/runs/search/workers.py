"""One search on several machines: the same command on each, as lines for shells or as a job array for SLURM."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def as_commands(words: Sequence[str], workers: int, where: str) -> str:
    """One line for each worker.

    Args:
        words: The command.
        workers: How many, at least 1.
        where: The storage that they share.
    """
    lines = [shlex.join(words)] * workers
    return "\n".join([f"# each on a machine or GPU of its own; they share the study in {where}", *lines])


def as_slurm(words: Sequence[str], workers: int, folder: Path) -> str:
    """A script for `sbatch` that runs the command as each task of an array.

    Args:
        words: The command.
        workers: How many tasks, at least 1.
        folder: The folder of the search, which all share.
    """
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={folder.name}",
            f"#SBATCH --array=0-{workers - 1}",
            "#SBATCH --output=slurm-%x-%A-%a.log",
            "#SBATCH --ntasks=1",
            "# Add what your cluster asks for: --partition, --time, --gpus-per-task=1, --cpus-per-task.",
            "# A task that runs out of time loses its running trial, no other: submit the same script again.",
            f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
            f"srun {shlex.join(words)}",
        ]
    )


def without(words: Sequence[str], *options: str) -> list[str]:
    """A command without some options and their values.

    Args:
        words: The command.
        options: Such as "--emit".
    """
    kept, skips = [], False
    for word in words:
        if skips:
            skips = False
        elif word in options:
            skips = True
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept

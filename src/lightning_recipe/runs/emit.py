"""The fits of a procedure as commands for a shell, or as a job array for SLURM."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lightning_recipe.runs.fit import Fit


def as_commands(members: Sequence[Fit], script: Sequence[str], again: Sequence[str]) -> str:
    """One line for the shell for each fit, to be run in the same folder, on any machine that shares it.

    Args:
        members: The fits.
        script: The words that start the command line.
        again: The words of the command that is to follow them.
    """
    lines = [shlex.join([*script, *member.arguments]) for member in members]
    return "\n".join([*lines, f"# when they have ended: {shlex.join(again)}"])


def as_slurm(members: Sequence[Fit], script: Sequence[str], again: Sequence[str]) -> str:
    """A script for `sbatch` that runs each fit as one task of an array.

    Args:
        members: The fits, at least one, numbered in their names.
        script: The words that start the command line.
        again: The words of the command that is to follow them.
    """
    folder = members[0].folder
    names = " ".join(member.name for member in members)
    config = f"{shlex.quote(str(folder))}/$name.yaml"
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={folder.name}",
            f"#SBATCH --array=0-{len(members) - 1}",
            f"#SBATCH --output={folder}/slurm-%A-%a.log",
            "#SBATCH --ntasks=1",
            "# Add what your cluster asks for: --partition, --time, --gpus-per-task=1, --cpus-per-task.",
            f"# When all have ended: {shlex.join(again)}",
            f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
            f"names=({names})",
            'name="${names[$SLURM_ARRAY_TASK_ID]}"',
            f"srun {shlex.join(script)} fit --config {config}",
        ]
    )

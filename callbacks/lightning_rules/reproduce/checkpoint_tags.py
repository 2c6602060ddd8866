"""Tags of kept checkpoints: made, and removed with their checkpoint. What git refuses is told, never raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_rules.repository.git import GitError
from lightning_rules.repository.repository import Repository
from lightning_rules.repository.tags import tag_message, tag_name
from lightning_rules.reproduce.code_state import commit_of


def tag_checkpoint(
    root: str, record: Mapping[str, Any], monitor: str | None, score: float | None
) -> tuple[str | None, str]:
    """Tag the code of a checkpoint.

    Args:
        root: The repository.
        record: What stands beside the checkpoint: the run's record, path, hash, step and metrics.
        monitor: The metric that the tag's name tells; None for none.
        score: Its value.

    Returns:
        The tag's name and an empty sentence; or None and why there is none.
    """
    commit = commit_of(record.get("code", {}))
    if commit is None:
        return None, "the record names no commit."
    name = tag_name(record, record["step"], monitor, score)
    try:
        return Repository.find(root).tag(name, commit, tag_message({**record, "tag": name})), ""
    except GitError as error:
        return None, str(error)


def delete_tag(root: str, name: str, record_id: str) -> str:
    """Delete a tag of this run; one that another run or a person has made stays.

    Returns:
        Why it could not be deleted; empty where it is gone.
    """
    try:
        Repository.find(root).delete_tag(name, record_id)
    except GitError as error:
        return str(error)
    return ""

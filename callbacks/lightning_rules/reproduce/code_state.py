"""What the record of a run says about its code, as findings; and how a resumed run goes on with its record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_rules.finding import Finding, Severity
from lightning_rules.repository.git import GitError
from lightning_rules.repository.repository import Repository
from lightning_rules.reproduce.run_record import describe_run


def described(trainer: Any, pl_module: Any) -> dict[str, Any]:
    """The record of a run, on rank 0, with the tree of its commit: two snapshots of one dirty tree are two commits."""
    record = describe_run(trainer, pl_module)
    code, commit = record["code"], commit_of(record["code"])
    if commit is not None:
        with suppress(GitError):
            code["tree"] = Repository(Path(code["root"])).tree(commit)
    return record


def continued(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a resumed run: its id and its start, the code of today, and the earlier code where it differed.

    Args:
        now: The record of this session.
        before: The record in the checkpoint resumed from.
    """
    earlier = list(before.get("earlier", []))
    if not same_code(now.get("code", {}), before.get("code", {})):
        earlier.append({"resumed": now.get("started"), "code": before.get("code", {})})
    kept = {key: before[key] for key in ("id", "started", "run") if key in before}
    return {**now, **kept, "earlier": earlier}


def same_code(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sessions ran the same code, as far as git knows."""
    return all(one.get(key) == other.get(key) for key in ("commit", "tree"))


def commit_of(code: Mapping[str, Any]) -> str | None:
    """The commit that holds the code: the snapshot of a dirty tree, or the last commit."""
    return code.get("snapshot") or code.get("commit")


def judge_code(rule: str, record: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[Finding]:
    """Say which code the checkpoints of a run are tied to.

    Args:
        rule: The rule's name.
        record: The record of the run.
        before: The record in the checkpoint resumed from; None in a run that begins.
    """
    code = record.get("code", {})
    found = [_tied(rule, code)]
    left_out = list(code.get("left_out") or [])
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        found.append(
            Finding(
                rule,
                Severity.INFO,
                f"The snapshot of the code leaves out {len(left_out)} files: {shown}.",
                "Commit or move them if the run needs them.",
            )
        )
    if before is not None and not same_code(code, before.get("code", {})):
        old, new = _short(commit_of(before.get("code", {}))), _short(commit_of(code))
        found.append(
            Finding(
                rule,
                Severity.INFO,
                f"The code has changed since this run began: it was at {old} and goes on at {new}.",
                "Both stand in the record; to go on with the old code, restore it from the checkpoint's tag.",
            )
        )
    return found


def _tied(rule: str, code: Mapping[str, Any]) -> Finding:
    if not code.get("commit"):
        reason = str(code.get("why_not") or "there is no git repository").rstrip(".")
        message = f"Checkpoints are tied to no commit: {reason}."
        return Finding(rule, Severity.INFO, message, "The record in each checkpoint still tells the rest.")
    at = f"Checkpoints of this run are tied to commit {_short(code['commit'])}"
    if not code.get("dirty"):
        return Finding(rule, Severity.INFO, f"{at}.", evidence={"commit": code["commit"]})
    if code.get("snapshot"):
        both = {"commit": code["commit"], "snapshot": code["snapshot"]}
        return Finding(rule, Severity.INFO, f"{at} (dirty tree: snapshot {_short(code['snapshot'])}).", evidence=both)
    reason = str(code.get("why_not") or "no snapshot was made").rstrip(".")
    return Finding(
        rule,
        Severity.WARNING,
        f"{at}, but the working tree differs from it and there is no snapshot: {reason}.",
        "Commit before you train, or the code of this run cannot be brought back.",
    )


def _short(commit: str | None) -> str:
    return commit[:7] if commit else "no commit"

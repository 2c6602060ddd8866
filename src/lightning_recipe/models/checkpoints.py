"""Which layers differ between a model and a checkpoint, in one line instead of a page."""

from typing import Any

from torch import Tensor, nn

from lightning_rules.repository.kept_runs import tag_of


def describe_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Say briefly which layers differ between two state dicts, or return "" if none does."""
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    differences = [
        ("missing", [key for key in expected if key not in found]),
        ("unexpected", [key for key in found if key not in expected]),
        ("of another shape", shapes),
    ]
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for kind, keys in differences
        if keys
    )


def check_checkpoint(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Check that a Lightning checkpoint fits a module: call it from the module's `on_load_checkpoint`.

    Raises:
        ValueError: If layers differ; the message names the first of them, and, where GitTagCheckpoint has saved
            the checkpoint, the tag on the code that fits.
    """
    found = checkpoint.get("state_dict")
    if not isinstance(found, dict) or not getattr(module, "strict_loading", True):
        return
    difference = describe_difference(expected=module.state_dict(), found=found)
    if difference:
        raise ValueError(
            f"The checkpoint is of another architecture than this {type(module).__name__} ({difference}): "
            f"load it with the {_what_fits(checkpoint)}."
        )


def _what_fits(checkpoint: dict[str, Any]) -> str:
    """What the checkpoint was trained with, and how to get it back, as far as its record tells."""
    code = (checkpoint.get("run_record") or {}).get("code") or {}
    commit = code.get("snapshot") or code.get("commit")
    if not commit:
        return "configuration that it was trained with"
    tag = tag_of(checkpoint)
    name = f"tag {tag}" if tag else f"commit {commit[:10]}"
    return f"code that made it, which `python scripts/train.py restore {tag or 'CHECKPOINT'}` brings back ({name})"

"""Values that JSON, YAML and ``torch.load(weights_only=True)`` take, and words without the secrets in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
# At the command line any name that could mean a secret; in a configuration `pad_token` has to stay.
_COULD_BE_SECRET = re.compile(r"key|token|password|passwd|secret|credential", re.IGNORECASE)
_IS_SECRET = re.compile(
    r"(?:\w+[_-])?(?:password|passwd|secret|credentials?|secret[_-]key)"
    r"|(?:\w+[_-])?(?:api|access|private|auth|account|hf|hub)[_-]?(?:key|token)|token",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?P<name>-{0,2}[\w.+/-]+)=(?P<value>.+)", re.DOTALL)
_INSIDE = re.compile(
    r"""(["']?[\w.-]*(?:key|token|password|passwd|secret|credential)[\w.-]*["']?\s*:\s*)("[^"]*"|'[^']*'|[^\s,}"']+)""",
    re.IGNORECASE,
)
_LOGIN_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


def plain(value: Any) -> Any:
    """The value in dicts, lists, texts, numbers, booleans and None; what is none of these becomes its class's name."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode()
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(plain(name) if isinstance(name, str) else name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return plain(value.item())  # a number of NumPy or torch
    if hasattr(value, "__fspath__"):
        return plain(str(value))
    return class_path(value if isinstance(value, type) else type(value))


def class_path(kind: type) -> str:
    """The importable name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def without_secrets(words: Iterable[str]) -> list[str]:
    """The words of a command line, ``***`` for the value of each option whose name could mean a secret."""
    masked: list[str] = []
    secret_follows = False
    for word in words:
        option = _OPTION.fullmatch(word)
        if secret_follows and not word.startswith("--"):
            masked.append(MASK)
        elif option and _COULD_BE_SECRET.search(option["name"]):
            masked.append(f"{option['name']}={MASK}")
        else:
            masked.append(_LOGIN_IN_ADDRESS.sub(MASK, _INSIDE.sub(rf"\g<1>{MASK}", word)))
        secret_follows = word.startswith("--") and not option and bool(_COULD_BE_SECRET.search(word))
    return masked


def mask_secrets(config: Any, place: str = "") -> list[str]:
    """Replace texts under names that mean a secret, in place, in nested dicts and lists.

    Returns:
        The places that were masked, such as ``trainer.logger.init_args.api_key``.
    """
    names = list(config) if isinstance(config, dict) else range(len(config)) if isinstance(config, list) else []
    masked = []
    for name in names:
        inner, here = config[name], f"{place}.{name}".lstrip(".")
        if isinstance(inner, str) and inner and isinstance(name, str) and _IS_SECRET.fullmatch(name):
            config[name] = MASK
            masked.append(here)
        elif isinstance(inner, str) and _LOGIN_IN_ADDRESS.search(inner):
            config[name] = _LOGIN_IN_ADDRESS.sub(MASK, inner)
            masked.append(here)
        else:
            masked += mask_secrets(inner, here)
    return masked

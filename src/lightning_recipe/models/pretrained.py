"""Pretrained weights from the hub: from its cache if they are there, and no long wait without a network.

huggingface_hub answers a missing network with retries of a minute and more. So the cache is looked into
first, and one short request tells whether the hub can be reached at all, before timm starts a download.
"""

import threading
import urllib.request
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg

# In the order in which timm tries them.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
REQUEST_SECONDS = 8.0
# A dead name server can hold a request up for longer than its own time limit.
PATIENCE_SECONDS = 10.0


def pretrained_config(name: str) -> PretrainedCfg:
    """Return where timm finds the pretrained weights of a model.

    Raises:
        ValueError: If it has none.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise ValueError(
            f"pretrained: true was given, but timm has no pretrained weights of {name}: choose a name of "
            "timm.list_pretrained(), or set pretrained: false."
        )
    return config


def cached_or_reachable_weights(config: PretrainedCfg) -> dict[str, Any]:
    """Find the weights in the hub's cache, or make sure that they can be downloaded.

    Args:
        config: From [`pretrained_config`][].

    Returns:
        What to pass timm as `pretrained_cfg_overlay`: the cached file, or nothing if timm is to download it.

    Raises:
        ConnectionError: If the weights are not cached and the hub does not answer within
            `PATIENCE_SECONDS`; the message names the three ways out.
    """
    names = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        for name in names:
            cached = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(cached, str):
                return {"file": cached}
    failure = _failure_within(PATIENCE_SECONDS, config, names)
    if failure is not None:
        raise ConnectionError(
            f"pretrained: true needs the weights {config.hf_hub_id or config.url}, which are not in the "
            f"hub's cache and cannot be downloaded ({failure}): set pretrained: false, or give a local file "
            "as weights: FILE, or set HF_HOME to a filled hub cache."
        )
    return {}


def _failure_within(seconds: float, config: PretrainedCfg, names: tuple[str, ...]) -> str | None:
    """Ask for the weights' size only; return why that failed, or None."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            _ask(config, names)
        except Exception as error:
            outcome.append(str(error).splitlines()[0][:200] if str(error) else type(error).__name__)
        else:
            outcome.append(None)

    # A daemon: a request that hangs must not keep the program from ending.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else f"no answer within {seconds:g} s"


def _ask(config: PretrainedCfg, names: tuple[str, ...]) -> None:
    if not config.hf_hub_id:
        url = config.url[0] if isinstance(config.url, tuple) else config.url
        request = urllib.request.Request(url or "", method="HEAD")
        urllib.request.urlopen(request, timeout=REQUEST_SECONDS).close()
        return
    repository, _, revision = config.hf_hub_id.partition("@")
    for name in names:
        try:
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision or None), timeout=REQUEST_SECONDS)
        except EntryNotFoundError:
            if name == names[-1]:
                raise
        else:
            return

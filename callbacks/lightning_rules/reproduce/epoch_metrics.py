"""Metrics of an epoch that is under way: Lightning restores none of them, and what monitors them goes another way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

LOGGED = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx")
STATE = ("value", "cumulated_batch_size")


def metrics_state(trainer: Any) -> dict[str, Any]:
    """Last values, running means of what the epoch has logged, and the states of the module's torchmetrics."""
    last = {name: value.detach().clone() for name, value in trainer.callback_metrics.items()}
    results = trainer.fit_loop.epoch_loop._results
    logged = [_logged(metric) for metric in results.values() if metric.meta.on_epoch and not metric.has_reset]
    return {
        "last": last,
        "logged": [one for one in logged if one is not None],
        "module": {name: _metric_state(metric) for name, metric in _metrics_of(trainer.lightning_module)},
    }


def set_metrics_state(trainer: Any, state: dict[str, Any], *, running: bool) -> None:
    """The inverse of :func:`metrics_state`; of an epoch that has ended (not ``running``) only what outlives it."""
    device = trainer.lightning_module.device
    connector = trainer._logger_connector
    connector._callback_metrics.update({name: value.to(device) for name, value in state["last"].items()})
    reset = set() if running else {one["metric_attribute"] for one in state["logged"]}
    for name, metric in _metrics_of(trainer.lightning_module):
        if name in state["module"] and name not in reset:
            _set_metric_state(metric, state["module"][name], device)
    if not running:
        return
    for one in state["logged"]:
        _log_again(trainer, one, device)
    # the first batch of an epoch resets what was logged; this is a later one
    connector._first_loop_iter = bool(state["logged"]) or None


def _logged(metric: Any) -> dict[str, Any] | None:
    """What restores one entry of Lightning's collection; None for one whose process group has no name."""
    meta = metric.meta
    if meta.sync.group is not None:
        return None
    values = {name: getattr(metric, name) for name in STATE if isinstance(getattr(metric, name, None), Tensor)}
    return {
        "options": {name: getattr(meta, name) for name in LOGGED},
        "reduce": meta.reduce_fx.__name__,
        "dataloader_idx": meta.dataloader_idx,
        "metric_attribute": meta.metric_attribute,
        "sync": [meta.sync.should, meta.sync.rank_zero_only],
        "values": {name: value.detach().clone() for name, value in values.items()},
    }


def _log_again(trainer: Any, one: dict[str, Any], device: torch.device) -> None:
    """Enter a metric as the module's ``log`` did, then give it the values that it had."""
    results = trainer.fit_loop.epoch_loop._results
    options = dict(one["options"])
    fx, index = options.pop("fx"), one["dataloader_idx"]
    if index is not None and options["add_dataloader_idx"]:
        fx = fx.removesuffix(f".{index}")
    attribute = one["metric_attribute"]
    value = _by_name(trainer.lightning_module, attribute) if attribute else torch.zeros((), device=device)
    if value is None:
        return
    should, rank_zero_only = one["sync"]
    outer, results.dataloader_idx = results.dataloader_idx, index
    try:
        results.log(
            fx,
            value=value,
            reduce_fx=getattr(torch, one["reduce"]),
            sync_dist=should,
            sync_dist_fn=trainer.strategy.reduce,
            batch_size=1,
            metric_attribute=attribute,
            rank_zero_only=rank_zero_only,
            **options,
        )
    finally:
        results.dataloader_idx = outer
    key = ".".join(
        [fx, options["name"], *([str(index)] if index is not None and options["add_dataloader_idx"] else [])]
    )
    for name, kept in one["values"].items():
        setattr(results[key], name, kept.to(device))


def _metrics_of(module: nn.Module) -> list[tuple[str, Metric]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Metric)]


def _by_name(module: nn.Module, name: str) -> Metric | None:
    return dict(_metrics_of(module)).get(name)


def _metric_state(metric: Metric) -> dict[str, Any]:
    states = {name: getattr(metric, name) for name in metric._defaults}
    return {"states": {name: _copy(value) for name, value in states.items()}, "updates": metric._update_count}


def _copy(value: Any) -> Any:
    return [part.detach().clone() for part in value] if isinstance(value, list) else value.detach().clone()


def _set_metric_state(metric: Metric, state: dict[str, Any], device: torch.device) -> None:
    for name, value in state["states"].items():
        moved = [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
        setattr(metric, name, moved)
    metric._update_count = state["updates"]
    metric._computed = None

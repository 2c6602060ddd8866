"""The rule gradient-clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.finding import Finding, Severity
from lightning_rules.gradient_norms import (
    clip_coefficient,
    gradients_of,
    norms_of,
    parameters_of,
    scale_all,
    total_norm,
    unit_coefficients,
)
from lightning_rules.namespace import namespace_of
from lightning_rules.optimise.clip_tally import StepsSeen, Tally, judge_budget, judge_end
from lightning_rules.optimise.clip_where import heads_of, recurrent_layers, refuse, stand_aside, stand_aside_of_shards
from lightning_rules.optimise.skipped_step import on_any_rank, scale_left, skip, take_back
from lightning_rules.rule import NotApplicable, Rule

NAME = "gradient-clipping"
Method = Literal["auto", "max-norm", "percentile", "agc"]
EVERY = 50  # steps between two looks at the device where nothing says how often the run logs


class GradientClipping(Rule):
    """Gradients of recurrent networks are clipped, and a step whose gradients are not finite is not taken.

    Why: Through many time steps gradients are multiplied many times, and now and then they explode; one such step
        undoes the work of thousands, and one NaN destroys every weight. `Trainer(gradient_clip_val=...)` does not help
        against NaN: it multiplies all gradients by a coefficient that is NaN itself.

    What it does: Before each optimiser step it measures the norm of all gradients of that optimiser and scales them
        by `method`. `max-norm`: down to `max_norm`, exactly as `clip_grad_norm_`. `percentile`: down to a percentile
        of the last 1,000 norms, this one included, for each optimiser. `agc`: the gradient of each unit down to
        `agc_factor` times the norm of its weights, the last layer left out. `auto`: `max-norm` where the module holds
        recurrent layers, else nothing, and nothing where the Trainer or the module clips itself; without arguments the
        rule also stands aside for another of its class that has some. What a training step clips by hand is not
        noticed: the smaller norm counts. Steps whose gradients are not finite change neither weights nor the
        optimiser's state (buffers such as running statistics have seen the batch); the learning-rate schedule goes on,
        as with a GradScaler. It logs `gradient_norm` (before clipping) and `gradient_clipped_share`.
        It acts in Lightning's `on_before_optimizer_step`, for automatic and manual optimisation alike: there gradients
        are accumulated, averaged over ranks and, in float16, unscaled; only optimisers with `fused=True` get theirs
        scaled, and the GradScaler's scale is reckoned with. A module that steps `torch` optimisers itself, past
        `self.optimizers()`, is not reached.

    Fires when: More than `max_skipped` steps in a row are skipped: it names the parameters and stops the run (error;
        20 in a row are more than the 16 that a GradScaler needs to find its scale). More than 1% of all steps were
        skipped (warning). Else it says what it does, and at the end how many steps were clipped and skipped.

    Under DDP: Gradients are the same on all ranks, and so is the norm; whether a step is skipped is agreed upon all
        the same, for steps without synchronisation. FSDP (both versions) and tensor parallelism: the norm is taken
        over all shards; `agc` does not apply, nor hybrid or partial sharding in FSDP's first version. DeepSpeed
        clips by its own configuration: does not apply.

    Cost: One norm and one multiplication for each gradient; with several ranks, one number is reduced. Nothing waits
        for the device with `fused=True`; other optimisers cannot skip by themselves, so that one number a step is
        read from the device, as a GradScaler does.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradientClipping(method="percentile")], logger=False)

    Source: Pascanu et al. (2013), "On the difficulty of training recurrent neural networks", section 3.2; Goodfellow
        et al. (2016), "Deep Learning", section 10.11.1. Percentile: Seetharaman et al. (2020), "AutoClip". AGC: Brock
        et al. (2021), "High-Performance Large-Scale Image Recognition Without Normalization", section 4.1.

    Args:
        method: `"auto"`, `"max-norm"`, `"percentile"` or `"agc"`.
        max_norm: The largest norm of all gradients of an optimiser together, above 0.
        percentile: Which percentile of past norms is the largest one allowed, above 0 up to 100.
        agc_factor: How large a unit's gradient may be in relation to its weights, above 0.
        max_skipped: How many steps in a row may be skipped, at least 0; one more stops the run.
        on_error: What happens beyond `max_skipped`: ``"warn"`` ends the fit in good order, ``"raise"`` raises.

    Raises:
        ValueError: An argument is out of its range.
        MisconfigurationException: In `fit`, before training: the Trainer clips too, and `method` is not `"auto"`.
    """

    name = NAME
    source = 'Pascanu et al. (2013), "On the difficulty of training recurrent neural networks", section 3.2'
    kind = "enforce"

    def __init__(
        self,
        method: Method = "auto",
        max_norm: float = 1.0,
        percentile: float = 10.0,
        agc_factor: float = 0.01,
        max_skipped: int = 20,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        refuse(method, max_norm, percentile, agc_factor, max_skipped, known=Method)
        self.method = method
        self.max_norm = max_norm
        self.percentile = percentile
        self.agc_factor = agc_factor
        self.max_skipped = max_skipped
        self._forget()

    def _forget(self) -> None:
        self._tallies: dict[int, Tally] = {}  # by place in `trainer.optimizers`
        self._active = False
        self._stopped = False
        self._flat_shards = False
        self._exempt: list[str] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse to clip twice; forget an earlier fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._forget()
        if trainer.gradient_clip_val and self.method != "auto":
            raise namespace_of(trainer).utilities.exceptions.MisconfigurationException(
                f"GradientClipping(method={self.method!r}) was given beside "
                f"Trainer(gradient_clip_val={trainer.gradient_clip_val}), and gradients are clipped once: remove "
                "`gradient_clip_val` from the Trainer, or GradientClipping from its callbacks."
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Decide whether to clip, once for all ranks."""

        def judge(ranks: Sequence[list[str]]) -> list[Finding]:
            self._active = True
            self._exempt = sorted(set().union(*ranks))
            return [Finding(NAME, Severity.INFO, self._promise(recurrent_layers(pl_module)))]

        self._active = False
        self._flat_shards = type(trainer.strategy).__name__ == "FSDPStrategy"
        self.observe(trainer, lambda: self._look(trainer, pl_module), judge)

    def _look(self, trainer: Any, module: Any) -> list[str]:
        """The layers that AGC leaves out; raises NotApplicable where nothing is to be clipped."""
        others = [c for c in trainer.callbacks if isinstance(c, GradientClipping) and c is not self]
        if others and self.options == GradientClipping().options:
            raise NotApplicable("another GradientClipping of this run was given arguments, and clips instead.")
        if self.method == "auto":
            stand_aside(trainer, module)
        stand_aside_of_shards(trainer, module, units=self.method == "agc")
        return heads_of(trainer, module) if self.method == "agc" else []

    def _promise(self, recurrent: Sequence[str]) -> str:
        what = {
            "percentile": f"Clips the gradient norm at percentile {self.percentile:g} of the last norms",
            "agc": f"Clips each unit's gradient at {self.agc_factor:g} of the norm of its weights",
        }.get(self.method, f"Clips the gradient norm at {self.max_norm:g}")
        if self.method == "agc":
            what += (
                f", `{'`, `'.join(self._exempt)}` left out" if self._exempt else ", every layer's: no head was found"
            )
        layers = f" (recurrent layers: `{'`, `'.join(recurrent)}`)" if recurrent and self.method == "auto" else ""
        return f"{what}{layers}, and skips steps whose gradients are not finite."

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Measure, clip, count; skip what is not finite."""
        parameters = parameters_of(optimizer)
        gradients = gradients_of(parameters) if self._active else []
        if not self._active or (trainer.world_size == 1 and all(gradient is None for gradient in gradients)):
            return
        device = next((gradient.device for gradient in gradients if gradient is not None), trainer.strategy.root_device)
        norms = norms_of(gradients, device)
        scale = scale_left(trainer, optimizer, device)
        norm = total_norm(parameters, norms, self._flat_shards) / scale
        bad = on_any_rank(trainer, ~norm.isfinite())
        place = next((i for i, other in enumerate(trainer.optimizers) if other is optimizer), 0)
        tally = self._tally(place, norms)
        clipped = self._clip(tally, pl_module, parameters, gradients, norm, bad, scale)
        tally.add(norm, norms, clipped, bad)
        label = f"_{place}" if len(trainer.optimizers) > 1 else ""
        share = tally.clipped / tally.steps
        pl_module.log_dict({f"gradient_norm{label}": norm, f"gradient_clipped_share{label}": share}, on_epoch=False)
        every = trainer.log_every_n_steps or EVERY
        if skip(trainer, optimizer, parameters, gradients, bad) or tally.steps % every == 0:
            self._keep_to_budget(trainer, pl_module, tally, parameters)

    def _tally(self, place: int, norms: Tensor) -> Tally:
        if place not in self._tallies:
            self._tallies[place] = Tally.empty(len(norms), norms.device, norms.dtype)
        self._tallies[place].fit_to(norms)
        return self._tallies[place]

    def _clip(
        self,
        tally: Tally,
        module: Any,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        norm: Tensor,
        bad: Tensor,
        scale: Tensor | float,
    ) -> Tensor:
        """Scale the gradients in place; whether any became smaller."""
        if self.method != "agc":
            ceiling = tally.percentile(norm, bad, self.percentile) if self.method == "percentile" else self.max_norm
            coefficient = clip_coefficient(norm, ceiling)
            scale_all(gradients, coefficient)
            return coefficient < 1
        exempt = {id(p) for name in self._exempt for p in module.get_submodule(name).parameters()}
        pairs = [
            (weight, gradient)
            for weight, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and gradient.numel() and id(weight) not in exempt and gradient.shape == weight.shape
        ]
        weights, present = [weight for weight, _ in pairs], [gradient for _, gradient in pairs]
        coefficients = unit_coefficients(weights, present, self.agc_factor * scale)
        if not pairs:
            return torch.zeros_like(bad)
        torch._foreach_mul_(present, coefficients)
        smallest = torch.stack([coefficient.amin().to(norm) for coefficient in coefficients])
        return (smallest < 1).any()

    def _keep_to_budget(self, trainer: Any, module: Any, tally: Tally, parameters: Sequence[Tensor]) -> None:
        """Stop on all ranks alike once too many steps in a row were skipped."""
        longest = int(tally.longest)
        if self._stopped or longest <= self.max_skipped:
            return
        self._stopped = True
        trainer.should_stop = True
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        guilty = [names.get(id(parameters[i]), f"parameter {i}") for i in tally.blame.nonzero().flatten().tolist()]
        self.observe(
            trainer,
            lambda: guilty,
            lambda ranks: [judge_budget(longest, self.max_skipped, ranks, len(parameters))],
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Take back what a fused optimiser was told."""
        if self._active:
            take_back(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say how many steps were clipped and skipped."""
        if not self._active:
            return
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.observe(
            trainer,
            lambda: {place: StepsSeen.of(tally) for place, tally in self._tallies.items()},
            lambda ranks: judge_end(ranks, scaled),
        )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Bring the counts to the host: a rule that is pickled or copied needs no device."""
        super().teardown(trainer, pl_module, stage)
        if stage == "fit":
            self._tallies = {place: Tally(**tally.state()) for place, tally in self._tallies.items()}

    def state_dict(self) -> dict[str, Any]:
        """Findings, counts, and the norms that percentiles are taken of."""
        return {**super().state_dict(), "tallies": {place: tally.state() for place, tally in self._tallies.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._tallies = {place: Tally(**values) for place, values in state_dict["tallies"].items()}

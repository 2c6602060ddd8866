import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.scheduler import create_scheduler_v2

from lightning_recipe.models import ImageClassifier, SequenceClassifier
from lightning_recipe.models.optimisers import create_optimizer, parameter_groups, with_scheduler

RATE = 0.1


class _Rates(torch.nn.Module):
    """Two parameters in two groups of different rates."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = torch.nn.Parameter(torch.ones(2, 2))
        self.fast = torch.nn.Parameter(torch.ones(2, 2))


def _optimizer(slower_scale: float = 0.1) -> torch.optim.Optimizer:
    module = _Rates()
    groups = parameter_groups(module, lr=RATE, weight_decay=0.0, slower=[module.slow], slower_scale=slower_scale)
    return create_optimizer(groups, "sgd", lr=RATE)


def _rates_of_a_run(make_trainer, blobs, epochs: int, **options: Any) -> list[float]:
    """Train, and return the rate of each step."""
    module = ImageClassifier("test_resnet", 3, in_chans=1, lr=RATE, optimizer="sgd", **options)
    rates: list[float] = []
    module.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    make_trainer(max_epochs=epochs).fit(module, datamodule=blobs(count=22, batch_size=8))
    return rates


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("cosine", {}),
        ("cosine", {"min_lr": 0.01}),
        ("tanh", {}),
        ("poly", {"decay_rate": 2.0}),
        ("step", {"decay_epochs": 1, "decay_rate": 0.5}),
        ("multistep", {"decay_milestones": [1, 3], "decay_rate": 0.1}),
    ],
)
def test_each_step_has_the_rate_of_timms_schedule(scheduler, options, make_trainer, blobs) -> None:
    seen = _rates_of_a_run(
        make_trainer, blobs, epochs=4, scheduler=scheduler, warmup_epochs=0.5, scheduler_options=options
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=RATE)
    reference, _ = create_scheduler_v2(
        optimizer,
        sched=scheduler,
        num_epochs=4,
        warmup_epochs=0.5,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=3,
        **options,
    )
    expected = []
    for step in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        reference.step_update(step + 1)
    assert seen == pytest.approx(expected)
    assert len(set(seen)) > 2


def test_cosine_without_warm_up_is_the_textbook_curve(make_trainer, blobs) -> None:
    seen = _rates_of_a_run(make_trainer, blobs, epochs=4, scheduler="cosine")
    assert seen == pytest.approx([RATE * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)])


def test_no_scheduler_is_a_constant_rate(make_trainer, blobs) -> None:
    assert set(_rates_of_a_run(make_trainer, blobs, epochs=2)) == {RATE}


def test_warm_up_alone_ends_in_a_constant_rate(make_trainer, blobs) -> None:
    seen = _rates_of_a_run(make_trainer, blobs, epochs=3, warmup_epochs=1)
    assert seen == pytest.approx([0, RATE / 3, RATE * 2 / 3] + [RATE] * 6)


def test_resume_goes_on_with_the_schedule(make_trainer, blobs, tmp_path) -> None:
    whole = _rates_of_a_run(make_trainer, blobs, epochs=4, scheduler="cosine")
    rates: list[float] = []

    def run(**options: Any) -> Any:
        module = ImageClassifier("test_resnet", 3, in_chans=1, lr=RATE, optimizer="sgd", scheduler="cosine")
        module.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
        trainer = make_trainer(max_epochs=4)
        module.on_train_epoch_end = lambda: setattr(
            trainer, "should_stop", trainer.current_epoch == options.get("stop")
        )
        trainer.fit(module, datamodule=blobs(count=22, batch_size=8), ckpt_path=options.get("ckpt_path"))
        return trainer

    run(stop=1).save_checkpoint(tmp_path / "half.ckpt")
    assert len(rates) == 6
    run(ckpt_path=tmp_path / "half.ckpt")
    assert rates == pytest.approx(whole)


def test_slower_group_keeps_its_share_throughout(make_trainer, blobs) -> None:
    optimizer = _optimizer()
    trainer = SimpleNamespace(estimated_stepping_batches=10, num_training_batches=5, accumulate_grad_batches=1)
    scheduler = with_scheduler(optimizer, "cosine", trainer, warmup_epochs=0.4)["lr_scheduler"]["scheduler"]
    for step in range(1, 10):
        scheduler.step_update(step)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates["backbone/decay"] == pytest.approx(0.1 * rates["head/decay"])
        assert rates["head/decay"] > 0


def test_groups_of_a_module_without_norms_or_biases() -> None:
    groups = parameter_groups(torch.nn.Linear(3, 2, bias=False), lr=0.1, weight_decay=0.2)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("all/decay", 0.2)]


def test_what_the_model_exempts_has_no_decay() -> None:
    module = ImageClassifier("test_vit", 3, image_size=32)
    groups = {group["name"]: group for group in parameter_groups(module, lr=0.1, weight_decay=0.2)}
    decayed = {id(p) for p in groups["all/decay"]["params"]}
    assert module.backbone.pos_embed.ndim > 1
    assert id(module.backbone.pos_embed) not in decayed
    assert id(module.backbone.patch_embed.proj.weight) in decayed


def test_recurrent_biases_and_norms_have_no_decay() -> None:
    module = SequenceClassifier(4, 3, num_layers=2)
    groups = {group["name"]: group for group in parameter_groups(module, lr=0.1, weight_decay=0.2)}
    undecayed = {id(p) for p in groups["all/no-decay"]["params"]}
    names = {name for name, p in module.named_parameters() if id(p) in undecayed}
    assert names == {n for n, _ in module.named_parameters() if "bias" in n or "norms" in n}


def test_a_run_without_end_has_no_schedule(make_trainer, blobs) -> None:
    module = ImageClassifier("test_resnet", 3, in_chans=1, scheduler="cosine")
    with pytest.raises(ValueError, match=r"scheduler='cosine' needs a run of known length.*max_epochs"):
        make_trainer(max_epochs=-1).fit(module, datamodule=blobs())


def test_options_that_do_not_suit_are_named(make_trainer, blobs) -> None:
    for options, message in [
        ({"optimizer_options": {"speed": 3}}, r"optimizer_options=.*speed.*do not suit optimizer='adamw'"),
        ({"scheduler": "step", "scheduler_options": {"shape": 3}}, r"scheduler_options=.*shape.*do not suit"),
    ]:
        module = ImageClassifier("test_resnet", 3, in_chans=1, **options)
        with pytest.raises(ValueError, match=message):
            make_trainer(max_epochs=1).fit(module, datamodule=blobs())


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        create_optimizer(parameter_groups(torch.nn.ReLU(), lr=0.1, weight_decay=0.0), "sgd", lr=0.1)

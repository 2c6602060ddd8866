"""timm backbones: created, loaded and frozen, with errors that say what to do."""

from pathlib import Path
from typing import Any

import timm
from lightning.pytorch.utilities import rank_zero_info
from timm.models import load_state_dict
from torch import Tensor, nn

from lightning_recipe.models.checkpoints import describe_difference
from lightning_recipe.models.optimisers import did_you_mean
from lightning_recipe.models.pretrained import cached_or_reachable_weights, pretrained_config


def create_backbone(
    name: str,
    num_classes: int,
    *,
    in_chans: int = 3,
    image_size: int | None = None,
    drop_rate: float = 0.0,
    pretrained: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """Create a timm model with a fresh head, or with weights from the hub or from a file.

    Args:
        name: A name of `timm.list_models()`, with or without a tag of pretrained weights after a dot.
        num_classes: Number of classes, at least 2.
        in_chans: Number of input channels, at least 1.
        image_size: Height and width of the images; only backbones of a fixed size (such as ViTs) heed it.
        drop_rate: Dropout before the head, from 0 to below 1.
        pretrained: Take timm's pretrained weights, from the hub's cache or from the network.
        weights: A safetensors, pth or Lightning checkpoint file to start from instead.

    Returns:
        The model, which maps images [N, in_chans, H, W] to logits [N, num_classes].

    Raises:
        ValueError: If timm has no such model or weights, an argument is out of range, or the file holds
            another architecture.
        FileNotFoundError: If there is no file `weights`.
        ConnectionError: If pretrained weights are neither cached nor to be had within 15 s.
    """
    check_name(name)
    if pretrained and weights is not None:
        raise ValueError(
            f"Both pretrained: true and weights: {weights} were given, but weights come from one place: "
            "drop one of the two."
        )
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
    config = timm.get_pretrained_cfg(name)
    if image_size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    if weights is not None:
        return load_weights(name, weights, options)
    if not pretrained:
        return _create(name, options)
    overlay = cached_or_reachable_weights(pretrained_config(name))
    return _create(name, options, pretrained=True, pretrained_cfg_overlay=overlay)


def check_name(name: str) -> None:
    """Check that timm has a model of this name, and the weights that a tag after a dot asks for.

    Raises:
        ValueError: If not; the message offers the closest names.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ValueError(
            f"backbone={name!r} is unknown to timm: choose a name of timm.list_models()"
            f"{did_you_mean(architecture, timm.list_models())}."
        )
    if tag:
        known = timm.list_pretrained(f"{architecture}.*")
        if name not in known:
            raise ValueError(
                f"backbone={name!r} asks for weights {tag!r}, which timm does not have for {architecture}: "
                f"choose one of timm.list_pretrained('{architecture}.*'){did_you_mean(name, known)}."
            )


def load_weights(name: str, weights: str, options: dict[str, Any]) -> nn.Module:
    """Create a backbone with the weights of a file; a head for other classes is dropped, and said so.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or holds another architecture.
    """
    state = read_state_dict(weights)
    fresh = _create(name, options).state_dict()
    heads = _head_prefixes(name)
    renewed = {
        key: value
        for key, value in fresh.items()
        if key.startswith(heads) and (key not in state or state[key].shape != value.shape)
    }
    overlay = {"state_dict": state | renewed, "num_classes": options["num_classes"], "label_offset": 0}
    try:
        backbone = _create(name, options, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        difference = describe_difference(expected=fresh, found=state | renewed)
        raise ValueError(
            f"{weights} does not hold the weights of backbone={name!r} ({difference or error}): "
            "name the backbone that it was made with, or another file."
        ) from error
    if renewed:
        rank_zero_info(
            f"{weights} has no head for {options['num_classes']} classes: its backbone is loaded, the head "
            "starts fresh."
        )
    return backbone


def read_state_dict(weights: str) -> dict[str, Tensor]:
    """Read a safetensors or torch file, or the backbone out of an `ImageClassifier` checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of weights.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"weights={weights!r} is no file: give the path of a .safetensors or .pth file.")
    try:
        state = load_state_dict(weights)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"weights={weights!r} cannot be read ({reason}): give a .safetensors or .pth file of weights."
        ) from error
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return dict(state)


def head_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the classifier, the part of a backbone that is always trained."""
    return [parameter for head in _heads(backbone) for parameter in head.parameters()]


def body_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """Return all parameters but the classifier's."""
    head = {id(parameter) for parameter in head_parameters(backbone)}
    return [parameter for parameter in backbone.parameters() if id(parameter) not in head]


def hold_still(backbone: nn.Module) -> None:
    """Put a frozen backbone's body into eval mode: no batch statistics, no stochastic depth.

    The classifier and the dropout before it stay as they are. Call it after each `train()`.
    """
    heads = {id(module) for head in _heads(backbone) for module in head.modules()}
    for name, module in backbone.named_modules():
        before_head = name.startswith("head") and isinstance(module, nn.Dropout)
        # timm's models apply the dropout before the head according to their own, outermost flag.
        if module is not backbone and id(module) not in heads and not before_head:
            module.training = False


def _heads(backbone: nn.Module) -> list[nn.Module]:
    head = backbone.get_classifier()  # type: ignore[operator]
    return list(head) if isinstance(head, tuple | list) else [head]


def _head_prefixes(name: str) -> tuple[str, ...]:
    config = timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None) or ()
    return tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))


def _create(name: str, options: dict[str, Any], **loading: Any) -> nn.Module:
    model = timm.create_model(name, **options, **loading)
    assert isinstance(model, nn.Module)
    return model

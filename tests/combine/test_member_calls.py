"""MemberCalls: the loop's numbers, whichever way they are computed."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from lightning_rules.combine import call_plan
from lightning_rules.combine.member_calls import MemberCalls

FAST = "vectorised"


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))


def cnn() -> nn.Module:
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 8, 3, groups=2), nn.SiLU(), nn.Flatten(), nn.Linear(32, 3))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.recurrent = cell(5, 7, batch_first=True, **options)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.attention(x, x, x)[0]).mean(1)


class Structured(nn.Module):
    """A dictionary and an option in, a tuple of a tensor and a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, batch: dict[str, Tensor], *, scale: float) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.layer(batch["x"]) * batch["weight"].unsqueeze(1)
        return hidden * scale, {"sum": hidden.sum(1), "label": hidden.argmax(1)}


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) + self.calls


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.rand_like(x))


class ThroughNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.from_numpy(x.detach().numpy().mean(1, keepdims=True))


class Scaled(nn.Module):
    """An option that its printed form does not show."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


def members_of(make: Callable[[], nn.Module], *inputs: Any, count: int = 3) -> list[nn.Module]:
    """Members with weights and statistics of their own, in evaluation mode."""
    made = [make() for _ in range(count)]
    for number, member in enumerate(made):
        if inputs:
            member(*inputs)  # shapes of lazy layers, statistics of batch norm
        for buffer in member.buffers():
            if buffer.is_floating_point():
                buffer.data += 0.1 * number
    return [member.eval() for member in made]


def loop(members: Sequence[nn.Module], *args: Any, **kwargs: Any) -> Tensor:
    return torch.stack([member(*args, **kwargs) for member in members])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever gives the loop's numbers is chosen, as if it were always faster: tests do not depend on the clock."""

    def in_favour(self: Any, candidates: dict[str, Any], *_: Any) -> dict[str, float]:
        return {name: 1.0 if name == "loop" else 1.0 / (number + 2) for number, name in enumerate(candidates)}

    monkeypatch.setattr(call_plan.Team, "_times", in_favour)
    monkeypatch.setattr(call_plan, "SLOW", float("inf"))


NETWORKS = [
    (mlp, (5, 6)),
    (mlp, (40, 6)),  # many examples: the transposed product
    (cnn, (5, 1, 8, 8)),
    (lambda: Recurrent(nn.LSTM), (4, 6, 5)),
    (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, bias=False), (4, 6, 5)),
    (lambda: Recurrent(nn.GRU, bidirectional=True), (4, 6, 5)),
    (Attention, (2, 5, 8)),
    (lambda: timm.create_model("test_resnet", num_classes=3), (2, 3, 32, 32)),
    (lambda: timm.create_model("test_efficientnet", num_classes=3), (2, 3, 32, 32)),
    (lambda: timm.create_model("test_vit", img_size=32, num_classes=3), (2, 3, 32, 32)),
]


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
@pytest.mark.usefixtures("always")
def test_same_numbers_as_the_loop(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    members = members_of(make, torch.randn(shape))
    calls = MemberCalls(members)
    first, other = torch.randn(shape), torch.randn(shape)
    expected = [loop(copy.deepcopy(members), x) for x in (first, other)]
    assert torch.equal(calls(first), expected[0])  # the loop itself, while the others are measured
    assert calls.plan[0].chosen.startswith(FAST), calls.plan[0]
    torch.testing.assert_close(calls(other), expected[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected[1][0], expected[1][1])


@pytest.mark.parametrize("name", ["vectorised", "vectorised, channels last"])
def test_both_layouts_give_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        call_plan.Team, "_times", lambda self, them, *_: {each: 0.1 if each == name else 1.0 for each in them}
    )
    x = torch.randn(5, 1, 8, 8)
    members = members_of(cnn, x)
    calls, expected = MemberCalls(members), loop(members, x)
    calls(x)
    assert calls.plan[0].chosen == name
    torch.testing.assert_close(calls(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_structures_in_and_out() -> None:
    members = members_of(Structured)
    calls = MemberCalls(members)
    for _ in range(3):
        batch = {"x": torch.randn(5, 4), "weight": torch.rand(5)}
        tensor, named = calls(batch, scale=2.0)
        each = [member(batch, scale=2.0) for member in members]
        torch.testing.assert_close(tensor, torch.stack([one[0] for one in each]))
        assert list(named) == ["sum", "label"]
        assert torch.equal(named["label"], torch.stack([one[1]["label"] for one in each]))
    assert calls.plan[0].chosen == FAST
    tensor, _ = calls(batch, scale=3.0)  # another option is another kind of input
    torch.testing.assert_close(tensor, torch.stack([member(batch, scale=3.0)[0] for member in members]))
    assert calls.plan[0].chosen == "loop"
    assert "first time" in str(calls.plan[0])


@pytest.mark.usefixtures("always")
def test_architectures_may_differ_and_order_is_kept() -> None:
    one, two = members_of(mlp), members_of(lambda: nn.Linear(6, 3))
    members = [one[0], two[0], one[1], two[1], one[2]]
    calls, x = MemberCalls(members), torch.randn(4, 6)
    for _ in range(2):
        torch.testing.assert_close(calls(x), loop(members, x))
    assert [plan.chosen for plan in calls.plan] == [FAST, FAST]


@pytest.mark.usefixtures("always")
def test_new_weights_are_seen() -> None:
    members, donor, x = members_of(cnn), members_of(cnn)[0], torch.randn(4, 1, 8, 8)
    calls = MemberCalls(members)
    before = calls(x)
    members[1].load_state_dict(donor.state_dict())
    torch.testing.assert_close(calls(x)[1], donor(x), rtol=1e-4, atol=1e-5)
    assert torch.allclose(calls(x)[0], before[0], atol=1e-5)
    assert calls._teams[0].weights.holds()
    members[2].load_state_dict(donor.state_dict(), assign=True)  # other tensors than before
    for _ in range(2):
        torch.testing.assert_close(calls(x)[2], donor(x), rtol=1e-4, atol=1e-5)
    members[0][0].weight = nn.Parameter(donor[0].weight.clone())
    for _ in range(2):
        torch.testing.assert_close(calls(x), loop(copy.deepcopy(members), x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_members_may_be_moved() -> None:
    members = members_of(mlp)
    calls, x = MemberCalls(members), torch.randn(4, 6)
    calls(x)
    for member in members:
        member.to(torch.float64)
    for _ in range(2):
        torch.testing.assert_close(calls(x.double()), loop(copy.deepcopy(members), x.double()))
    assert calls.plan[0].chosen == FAST


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("make", [mlp, cnn])
def test_autocast(make: Callable[[], nn.Module]) -> None:
    x = torch.randn(4, 6) if make is mlp else torch.randn(4, 1, 8, 8)
    members = members_of(make, x)
    calls, alone = MemberCalls(members), copy.deepcopy(members)
    calls(x)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = calls(x), loop(alone, x)
        assert found.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    assert calls.plan[0].chosen.startswith(FAST)
    assert calls(x).dtype == torch.float32


@pytest.mark.usefixtures("always")
def test_inference_mode_leaves_weights_trainable() -> None:
    members, x = members_of(mlp), torch.randn(4, 6)
    calls = MemberCalls(members)
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(calls(x), loop(members, x))
    assert calls.plan[0].chosen == FAST
    with torch.enable_grad():
        loss = calls(x).square().sum()
        loss.backward()
    assert calls.plan[0].chosen == FAST or calls.plan[0].call is None
    assert all(parameter.grad is not None for member in members for parameter in member.parameters())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Branching, "cannot be traced"),
        (Counting, "writes into"),
        (Random, "random numbers"),
        (ThroughNumpy, "neither weights nor inputs"),
    ],
)
def test_falls_back_to_the_loop(make: Callable[[], nn.Module], why: str) -> None:
    members = members_of(make)
    calls, alone = MemberCalls(members), copy.deepcopy(members)
    for x in (torch.rand(3, 4), -torch.rand(3, 4), torch.rand(3, 4)):
        torch.manual_seed(1)
        found = calls(x)
        torch.manual_seed(1)
        assert torch.equal(found, loop(alone, x))
    assert calls.plan[0].chosen == "loop"
    assert why in calls.plan[0].refused[FAST]
    assert calls.plan[0].refused[FAST]


@pytest.mark.usefixtures("always")
def test_wrong_numbers_are_refused() -> None:
    calls, x = MemberCalls([Scaled(scale).eval() for scale in (1.0, 2.0)]), torch.randn(3, 4)
    for _ in range(2):
        torch.testing.assert_close(calls(x), loop(calls.members, x))
    assert calls.plan[0].chosen == "loop"
    assert "differ from the loop's" in calls.plan[0].refused[FAST]


def test_what_is_not_faster_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_plan.Team, "_times", lambda *_: {"loop": 1.0, FAST: 0.96})
    members, x = members_of(mlp), torch.randn(3, 6)
    calls = MemberCalls(members)
    calls(x)
    assert calls.plan[0].chosen == "loop"
    assert not calls._teams[0].weights.tensors  # nothing is stacked for nothing
    assert members[0][0].weight.untyped_storage().nbytes() == members[0][0].weight.nbytes


def test_measured_in_earnest_and_said() -> None:
    calls, x = MemberCalls(members_of(mlp)), torch.randn(3, 6)
    calls(x)
    plan = calls.plan[0]
    assert set(plan.seconds) == {"loop", FAST}
    assert all(0 < seconds < 1 for seconds in plan.seconds.values())
    assert "loop" in str(plan)
    assert " ms" in str(plan)


@pytest.mark.usefixtures("always")
def test_slow_members_are_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_plan, "SLOW", 0.0)
    calls = MemberCalls(members_of(mlp))
    calls(torch.randn(3, 6))
    assert "operations are large" in calls.plan[0].refused[FAST]


@pytest.mark.usefixtures("always")
def test_only_so_many_kinds_of_input_are_remembered() -> None:
    members = members_of(mlp)
    calls = MemberCalls(members)
    for size in [size for size in range(1, 12) for _ in range(3)]:
        x = torch.randn(size, 6)
        torch.testing.assert_close(calls(x), loop(members, x))
    assert len(calls._teams[0].plans) == call_plan.MOST_SIGNATURES
    assert calls.plan[0].chosen == "loop"
    calls(torch.randn(1, 6))
    assert calls.plan[0].chosen == FAST


@pytest.mark.usefixtures("always")
def test_training_mode_is_a_plain_loop() -> None:
    members = members_of(mlp)
    calls, x = MemberCalls(members), torch.randn(3, 6)
    calls(x)
    members[1].train()
    torch.manual_seed(0)
    found = calls(x)
    torch.manual_seed(0)
    assert torch.equal(found, loop(members, x))


@pytest.mark.usefixtures("always")
def test_weights_are_not_held_twice_and_separate_gives_them_back() -> None:
    members = members_of(cnn)
    names = [name for name, _ in members[0].state_dict().items()]
    values = copy.deepcopy(members[1].state_dict())
    parameters = list(members[1].parameters())
    calls, x = MemberCalls(members), torch.randn(4, 1, 8, 8)
    expected = calls(x)
    stacked = calls._teams[0].weights.tensors["0.weight"]
    storages = {member[0].weight.untyped_storage().data_ptr() for member in members}
    assert storages == {stacked.untyped_storage().data_ptr()}
    assert list(members[1].state_dict()) == names
    assert all(torch.equal(value, values[name]) for name, value in members[1].state_dict().items())
    assert all(one is other for one, other in zip(members[1].parameters(), parameters, strict=True))
    calls.separate()
    size = len(_saved(members[1].state_dict()))
    assert size == len(_saved(values))  # and not three times as much
    assert all(one is other for one, other in zip(members[1].parameters(), parameters, strict=True))
    for _ in range(2):
        torch.testing.assert_close(calls(x), expected, rtol=1e-4, atol=1e-5)
    assert calls.plan[0].chosen.startswith(FAST)


def _saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()


@pytest.mark.usefixtures("always")
def test_members_can_be_copied_and_pickled() -> None:
    members = members_of(cnn)
    calls, x = MemberCalls(members), torch.randn(4, 1, 8, 8)
    expected = calls(x)
    for copied in (copy.deepcopy(members), pickle.loads(pickle.dumps(members))):
        torch.testing.assert_close(loop(copied, x), expected)
        copied[0][0].weight.zero_()
    torch.testing.assert_close(calls(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_what_forward_sets_does_not_hold_stand_ins() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.layer(x)
            return self.last

    members = members_of(Remembering)
    MemberCalls(members)(x := torch.randn(3, 4))
    assert type(members[0].last) is Tensor
    assert torch.equal(members[0].last, members[0].layer(x))


def test_shared_weights_and_foreign_tensors_fall_back() -> None:
    member, x = mlp().eval(), torch.randn(3, 6)
    calls = MemberCalls([member, member])
    assert torch.equal(calls(x), loop([member, member], x))
    assert "share weights" in calls.plan[0].refused[FAST]


@pytest.mark.usefixtures("always")
def test_tied_weights_stay_tied() -> None:
    def tied() -> nn.Module:
        made = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        made[2].weight = made[0].weight
        return made

    members = members_of(tied)
    calls, x = MemberCalls(members), torch.randn(3, 4)
    for _ in range(2):
        torch.testing.assert_close(calls(x), loop(members, x))
    assert calls.plan[0].chosen == FAST
    assert members[0][2].weight is members[0][0].weight


@pytest.mark.usefixtures("always")
def test_devices_in_turns() -> None:
    members = members_of(mlp, count=4)
    calls, x = MemberCalls(members, devices=["cpu", "cpu"]), torch.randn(3, 6)
    for _ in range(2):
        torch.testing.assert_close(calls(x), loop(members, x))
    placed = MemberCalls(members_of(mlp, count=3), devices=["cpu", "meta"])
    assert [str(device) for device in placed.placement or ()] == ["cpu", "meta", "cpu"]
    assert [next(member.parameters()).device.type for member in placed.members] == ["cpu", "meta", "cpu"]
    assert [team.places for team in placed._teams] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("members", "devices", "message"),
    [([], None, "got no members"), ([nn.Linear(1, 1)], [], "empty list of devices")],
)
def test_nothing_to_call(members: list[nn.Module], devices: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemberCalls(members, devices)


def test_outputs_that_cannot_be_stacked() -> None:
    class Words(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x), "note": "hello"}

    x = torch.randn(2, 3)
    with pytest.raises(TypeError, match="returned str"):
        MemberCalls([Words(3, 2).eval(), Words(3, 2).eval()])(x)
    with pytest.raises(ValueError, match="different shapes"):
        MemberCalls([nn.Linear(3, 2).eval(), nn.Linear(3, 4).eval()])(x)

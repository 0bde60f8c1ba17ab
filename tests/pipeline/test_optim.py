"""Lookahead against its algorithm written out, state that survives a save, and the schedules' shapes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from handcraft.config import TrainConfig
from handcraft.errors import ConfigError
from handcraft.optim import Lookahead, build_optimizer, build_schedule
from handcraft.state_file import load_state, save_state


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def advance(network, optimizer, steps, start=0, schedule=None):
    for step in range(start, start + steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (network(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_lookahead_is_its_algorithm(k):
    ours, plain = model(), model()
    lookahead = Lookahead(torch.optim.Adam(ours.parameters(), lr=0.05), k=k, alpha=0.3)
    inner = torch.optim.Adam(plain.parameters(), lr=0.05)
    slow = weights(plain).clone()
    for step in range(11):
        advance(ours, lookahead, 1, step)
        advance(plain, inner, 1, step)
        if (step + 1) % k == 0:
            slow = slow + 0.3 * (weights(plain) - slow)
            nn.utils.vector_to_parameters(slow.clone(), plain.parameters())
        torch.testing.assert_close(weights(ours), weights(plain))


def test_lookahead_differs_from_the_inner_optimizer():
    ours, plain = model(), model()
    advance(ours, Lookahead(torch.optim.Adam(ours.parameters(), lr=0.05)), 5)
    advance(plain, torch.optim.Adam(plain.parameters(), lr=0.05), 5)
    assert not torch.allclose(weights(ours), weights(plain))


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
@pytest.mark.parametrize("lookahead", [True, False])
def test_state_continues_bit_for_bit(tmp_path, optimizer, schedule, lookahead):
    config = TrainConfig(steps=20, optimizer=optimizer, schedule=schedule, lookahead=lookahead, lr=0.01)

    def fresh():
        network = model()
        built = build_optimizer(network, config)
        return network, built, build_schedule(built, config, 20)

    whole, optimizer_whole, schedule_whole = fresh()
    advance(whole, optimizer_whole, 20, schedule=schedule_whole)
    first, optimizer_first, schedule_first = fresh()
    advance(first, optimizer_first, 7, schedule=schedule_first)
    file = tmp_path / "state.safetensors"
    save_state(file, (first.state_dict(), optimizer_first.state_dict(), schedule_first.state_dict()))
    second, optimizer_second, schedule_second = fresh()
    for target, state in zip((second, optimizer_second, schedule_second), load_state(file), strict=True):
        target.load_state_dict(state)
    advance(second, optimizer_second, 13, 7, schedule=schedule_second)
    assert torch.equal(weights(whole), weights(second))


def test_foreach_equals_the_loop_over_parameters():
    ours, plain = model(), model()
    advance(ours, build_optimizer(ours, TrainConfig(steps=1, lr=0.01, lookahead=False)), 9)
    advance(plain, torch.optim.RAdam(plain.parameters(), lr=0.01, weight_decay=1e-4, foreach=False), 9)
    torch.testing.assert_close(weights(ours), weights(plain))


def test_onecycle_with_a_warmup_of_one_step():
    network, config = model(), TrainConfig(steps=10, lr=0.02, warmup=0.1)
    optimizer = build_optimizer(network, config)
    schedule, rates = build_schedule(optimizer, config, 10), []
    for step in range(10):
        rates.append(schedule.get_last_lr()[0])
        advance(network, optimizer, 1, step, schedule if step < 9 else None)
    assert rates[:2] == [pytest.approx(0.02 / 25), pytest.approx(0.02, rel=0.05)]
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_onecycle_rises_for_the_warmup_and_falls_to_nothing():
    config = TrainConfig(steps=100, lr=0.02, warmup=0.3)
    network = model()
    optimizer = build_optimizer(network, config)
    schedule = build_schedule(optimizer, config, 100)
    rates = []
    for step in range(100):
        rates.append(schedule.get_last_lr()[0])
        advance(network, optimizer, 1, step, schedule)
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.02)
    assert abs(peak - 30) <= 1
    assert rates[0] == pytest.approx(0.02 / 25)
    assert rates[-1] < 1e-5
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))


def test_constant_stays():
    config = TrainConfig(steps=5, lr=0.02, schedule="constant")
    network = model()
    optimizer = build_optimizer(network, config)
    schedule = build_schedule(optimizer, config, 5)
    advance(network, optimizer, 5, schedule=schedule)
    assert schedule.get_last_lr() == [0.02]


def test_weight_decay_reaches_all_but_marked_parameters():
    network = model()
    network[0].bias._no_weight_decay = True
    groups = build_optimizer(network, TrainConfig(steps=1, weight_decay=0.7, lr=0.123)).param_groups
    found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    marked = id(network[0].bias)
    assert found == {id(value): 0.0 if id(value) == marked else 0.7 for value in network.parameters()}
    assert {group["lr"] for group in groups} == {0.123}


def test_bad_choices_are_named():
    with pytest.raises(ConfigError, match="sgd"):
        build_optimizer(model(), TrainConfig(steps=1, optimizer="sgd"))
    with pytest.raises(ConfigError, match="cosine"):
        build_schedule(torch.optim.Adam(model().parameters()), TrainConfig(steps=1, schedule="cosine"), 1)
    with pytest.raises(ConfigError, match="alpha=0"):
        Lookahead(torch.optim.Adam(model().parameters()), alpha=0.0)


def test_lookahead_refuses_another_models_state():
    other = Lookahead(torch.optim.Adam(nn.Linear(2, 2).parameters()))
    with pytest.raises(ValueError, match="other parameters"):
        Lookahead(torch.optim.Adam(model().parameters())).load_state_dict(other.state_dict())

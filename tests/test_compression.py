"""The penalty against hand-worked values and against the Fisher form that it stands for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import llama

from l2t_verl import compression

IDS = torch.tensor([[0, 0, 1, 1, -1], [0, -1, -1, -1, -1]])
MASK = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 1, 0, 0]])


def test_hand_values():
    old = torch.tensor([[-1.0, -2.0, -3.0, -9.0, -1.0], [-0.5, -1.0, -1.0, 7.0, float("nan")]])
    ref = torch.tensor([[-1.5, -1.0, -1.0, -2.0, -5.0], [-0.25, -4.0, -1.0, -7.0, 0.0]])
    deltas = compression.log_ratio_deltas(old, ref, MASK)
    assert deltas.tolist() == [[0.5, -1.0, -2.0, 0.0, 4.0], [-0.25, 3.0, 0.0, 0.0, 0.0]]
    # row 0: episode 0 has 0.5 and −1, episode 1 has −2 (its second token is masked); the tail's 4 counts nowhere
    per_token = compression.compression_penalty(deltas, IDS, MASK, num_episodes=2)
    assert per_token.tolist() == [[0.5 * (0.25 + 1), 0.5 * 4], [0.5 * 0.0625, 0.0]]
    per_episode = compression.compression_penalty(deltas, IDS, MASK, num_episodes=2, estimator="log_ratio_episode")
    assert per_episode.tolist() == [[0.5 * 0.25, 0.5 * 4], [0.5 * 0.0625, 0.0]]


def test_equal_policies_have_no_penalty_at_all():
    log_probs = -torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    deltas = compression.log_ratio_deltas(log_probs, log_probs.clone(), MASK)
    for name in compression.ESTIMATORS:
        assert (compression.compression_penalty(deltas, IDS, MASK, num_episodes=2, estimator=name) == 0).all()


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=12), cut=st.integers(1, 11))
def test_log_ratio_does_not_change_when_an_episode_is_split(values, cut):
    cut = min(cut, len(values) - 1)
    deltas, mask = torch.tensor([values]), torch.ones(1, len(values))
    whole = compression.compression_penalty(deltas, torch.zeros(1, len(values), dtype=torch.int64), mask, num_episodes=1)
    ids = (torch.arange(len(values)) >= cut).long()[None]
    parts = compression.compression_penalty(deltas, ids, mask, num_episodes=2)
    assert parts.sum().item() == pytest.approx(whole.item(), rel=1e-12)


@given(
    old=st.lists(st.floats(-1e30, 1e30) | st.sampled_from([float("-inf"), float("nan")]), min_size=5, max_size=5),
    ref=st.lists(st.floats(-1e30, 1e30) | st.sampled_from([float("-inf"), float("nan")]), min_size=5, max_size=5),
)
def test_finite_whatever_comes(old, ref):
    deltas = compression.log_ratio_deltas(torch.tensor([old]), torch.tensor([ref]), torch.ones(1, 5))
    assert torch.isfinite(deltas).all()
    for name in compression.ESTIMATORS:
        found = compression.compression_penalty(deltas, IDS[:1], torch.ones(1, 5), num_episodes=2, estimator=name)
        assert torch.isfinite(found).all()
        assert (found >= 0).all()


def test_log_ratio_episode_is_equation_4_to_first_order():
    """½ (Σ δ)² against ½ ⟨Δθ, ∇ log π(z | s)⟩², one gradient an episode, for a small displacement of a real model."""
    model, tokens = llama(32, seed=1).double(), torch.tensor([[3, 9, 27, 17, 19, 25, 11, 1]])
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])

    def token_log_probs():
        return model(tokens[:, :-1]).logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]

    generator = torch.Generator().manual_seed(2)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    move = [1e-6 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start]
    with torch.no_grad():
        reference = token_log_probs()
        for parameter, step in zip(model.parameters(), move, strict=True):
            parameter.add_(step)
    now = token_log_probs()
    exact = []
    for episode in (0, 1):
        gradients = torch.autograd.grad(now[ids == episode].sum(), list(model.parameters()), retain_graph=True)
        exact.append(0.5 * sum((g * m).sum() for g, m in zip(gradients, move, strict=True)).square().item())
    deltas = compression.log_ratio_deltas(now.detach(), reference, torch.ones_like(ids))
    found = compression.compression_penalty(deltas, ids, torch.ones_like(ids), num_episodes=2, estimator="log_ratio_episode")
    assert found[0].tolist() == pytest.approx(exact, rel=2e-2)


def test_both_estimators_agree_with_the_kl_in_expectation_and_log_ratio_has_less_variance():
    """Many sampled episodes of 50 tokens from two close categorical policies; seed 0."""
    torch.manual_seed(0)
    logits, noise = torch.randn(50, 8).double(), 0.1 * torch.randn(50, 8).double()
    old, ref = logits.log_softmax(-1), (logits + noise).log_softmax(-1)
    divergence = (old.exp() * (old - ref)).sum().item()
    sampled = torch.distributions.Categorical(logits=logits).sample((4000,))
    deltas = (old - ref).expand(4000, 50, 8).gather(2, sampled[..., None])[..., 0]
    ids, mask = torch.zeros(4000, 50, dtype=torch.int64), torch.ones(4000, 50)
    for name, tolerance in (("log_ratio", 0.05), ("log_ratio_episode", 0.35)):
        penalty = compression.compression_penalty(deltas, ids, mask, num_episodes=1, estimator=name)[:, 0]
        assert penalty.mean().item() == pytest.approx(divergence, rel=tolerance)
    spread = {n: compression.compression_penalty(deltas, ids, mask, num_episodes=1, estimator=n).std() for n in
              ("log_ratio", "log_ratio_episode")}  # fmt: skip
    assert spread["log_ratio"] < 0.25 * spread["log_ratio_episode"]


def test_reward_and_share():
    gains, penalty = torch.tensor([[0.5, -0.25, 0.0]]), torch.tensor([[0.25, 0.0, 0.0]])
    assert compression.process_rewards(gains, penalty, beta=1.2).tolist() == [[0.5 - 1.2 * 0.25, -0.25, 0.0]]
    share = compression.relative_weight(gains, penalty, beta=1.2)[0]
    assert share.tolist() == pytest.approx([0.3 / 0.8, 0.0, 0.0])
    assert compression.noise_floor(0.01, 1000) == pytest.approx(0.05)


def test_impossible_arguments_are_named():
    deltas = torch.zeros(1, 5)
    with pytest.raises(ValueError, match="unknown estimator 'fisher'; known: log_ratio, log_ratio_episode"):
        compression.compression_penalty(deltas, IDS[:1], MASK[:1], num_episodes=2, estimator="fisher")
    with pytest.raises(NotImplementedError, match="log_ratio"):
        compression.compression_penalty(deltas, IDS[:1], MASK[:1], num_episodes=2, estimator="directional")
    with pytest.raises(ValueError, match=r"one shape \[B, T\]"):
        compression.compression_penalty(deltas, IDS, MASK, num_episodes=2)
    with pytest.raises(ValueError, match="holds 1, but num_episodes is 1"):
        compression.compression_penalty(deltas, IDS[:1], MASK[:1], num_episodes=1)
    with pytest.raises(ValueError, match="one shape"):
        compression.log_ratio_deltas(deltas, deltas[:, :4], MASK[:1])
    with pytest.raises(ValueError, match="one shape"):
        compression.process_rewards(deltas, deltas[:, :4], 1.0)
    assert math.isfinite(compression.noise_floor(0.0, 0.0))

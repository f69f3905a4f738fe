"""The penalty against hand-worked values and against the Fisher form that it stands for."""

import math
from functools import partial

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


class Double(torch.nn.Module):
    """A causal transformer all of which computes in the type of its weights; Hugging Face's norms are in float32 always."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.embedding, self.head = torch.nn.Embedding(32, 32), torch.nn.Linear(32, 32)
        self.body = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        hidden = self.embedding(ids)
        mask = torch.nn.Transformer.generate_square_subsequent_mask(ids.shape[1], dtype=hidden.dtype)
        return self.head(self.body(hidden, mask=mask, is_causal=True))


def small_displacement(size: float, dtype=torch.float64, seed: int = 1):
    """The log-probs of a few tokens under a model, its parameters, and a displacement of relative size
    `size`, as an Adam step for three of the tokens makes it."""
    torch.manual_seed(seed)
    model, tokens = Double().to(dtype), torch.tensor([[3, 9, 27, 17, 19, 25, 11, 1]])
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 1])

    def token_log_probs():
        return model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[0, :, 0]

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(token_log_probs()[2:5].sum(), list(parameters.values()))
    move = {name: size * p.detach().norm() / p.numel() ** 0.5 * gradient.sign()
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True)}  # fmt: skip
    return token_log_probs, parameters, move, ids


@pytest.mark.parametrize(("dtype", "change", "tolerance"), [(torch.float32, 1e-3, 1e-3), (torch.float64, 1e-5, 1e-6)])
@pytest.mark.parametrize("seed", range(3))
def test_directional_is_exact_at_full_rank(dtype, change, tolerance, seed):
    """The central difference of two passes, by which log-probs change by so many nats, against one gradient an episode."""
    print(f"seed {seed}")
    log_probs, parameters, move, ids = small_displacement(1e-3, dtype, seed)
    move = {name: compression.low_rank(delta, 1.0) for name, delta in move.items()}
    exact = compression.exact_derivatives(lambda k: log_probs()[ids == k].sum(), parameters, move, 2)
    shift = partial(compression.shifted, parameters, move)
    with torch.no_grad():
        slope = compression.directional_derivatives(log_probs, shift, 0.1).square().mean().sqrt().item()
        tokens = compression.directional_derivatives(log_probs, shift, change / slope)
    found = compression.sum_by_episode(tokens[None], ids[None], 2)[0]
    assert ((found - exact).norm() / exact.norm()).item() < tolerance
    gap = compression.derivative_penalty(found) - 0.5 * exact**2
    assert (gap.norm() / (0.5 * exact**2).norm()).item() < 2.1 * tolerance


def test_log_ratio_becomes_directional_as_the_displacement_vanishes():
    """½ (Σ δ)² and ½ d² differ by terms of the next order: tenfold less displacement, tenfold less relative difference."""
    gaps = []
    for size in (1e-3, 1e-4, 1e-5):
        log_probs, parameters, move, ids = small_displacement(size)
        shift = partial(compression.shifted, parameters, move)
        with torch.no_grad():
            reference = log_probs()
            with shift(1.0):
                now, derivative = log_probs(), compression.directional_derivatives(log_probs, shift, 1e-2)
        mask = torch.ones(1, 7)
        ratio = compression.compression_penalty(
            (now - reference)[None], ids[None], mask, num_episodes=2, estimator="log_ratio_episode"
        )
        exact = compression.derivative_penalty(compression.sum_by_episode(derivative[None], ids[None], 2))
        gaps.append(((ratio - exact).norm() / exact.norm()).item())
    assert gaps[0] < 0.2
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.2)
    assert gaps[2] == pytest.approx(gaps[0] / 100, rel=0.2)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (600, 400)])
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_the_low_rank_proxy_is_the_best_one(shape, fraction):
    """Eckart–Young: the error is what the left-out singular values hold; 600 × 400 takes the randomised decomposition."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.diag(0.8 ** torch.arange(min(shape), dtype=torch.float64))
    orthogonal = lambda n: torch.linalg.qr(torch.randn(n, min(shape), generator=generator, dtype=torch.float64))[0]  # noqa: E731
    matrix = orthogonal(shape[0]) @ decay @ orthogonal(shape[1]).T
    found = compression.low_rank(matrix, fraction)
    rank = max(1, round(fraction * min(shape)))
    assert torch.linalg.matrix_rank(found, rtol=1e-9 / 0.8**rank).item() <= rank or rank > 60
    best = decay.diag()[rank:].norm().item()
    assert (matrix - found).norm().item() == pytest.approx(best, rel=1e-3, abs=1e-10)
    assert torch.equal(found, compression.low_rank(matrix, fraction))  # the same every time
    assert torch.equal(compression.low_rank(matrix[0], fraction), matrix[0])  # a vector is itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shift_is_undone_bit_for_bit_even_after_an_exception(dtype):
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "a": torch.randn(50, 20, generator=generator).to(dtype),
        "b": torch.randn(7, generator=generator).to(dtype),
    }
    before = {name: tensor.clone() for name, tensor in parameters.items()}
    move = {"a": torch.randn(50, 20, generator=generator)}
    with compression.shifted(parameters, move, 0.3):
        assert torch.equal(parameters["a"], before["a"].add(move["a"].to(dtype), alpha=0.3))
        assert torch.equal(parameters["b"], before["b"])
    with pytest.raises(ZeroDivisionError), compression.shifted(parameters, move, 1e6):
        1 / 0  # noqa: B018
    assert all(torch.equal(parameters[name], before[name]) for name in before)
    with (
        pytest.raises(KeyError, match="no parameters of the names c"),
        compression.shifted(parameters, {"c": before["b"]}, 1),
    ):
        pass


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
    with pytest.raises(ValueError, match=r"unknown estimator 'fisher' of .*; known: log_ratio, log_ratio_episode"):
        compression.compression_penalty(deltas, IDS[:1], MASK[:1], num_episodes=2, estimator="fisher")
    with pytest.raises(ValueError, match="directional and exact: see derivative_penalty"):
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
    with pytest.raises(ValueError, match="rank_fraction must be in"):
        compression.low_rank(deltas, 0.0)
    with pytest.raises(ValueError, match="a matrix or a vector is needed"):
        compression.low_rank(torch.zeros(2, 2, 2), 0.5)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        compression.directional_derivatives(lambda: deltas, lambda scale: None, 0.0)


@pytest.mark.parametrize("estimator", ["log_ratio", "log_ratio_episode"])
def test_a_tool_s_tokens_within_an_episode_count_in_none(estimator):
    deltas, ids = torch.tensor([[1.0, 7.0, 2.0]]), torch.tensor([[0, 0, 0]])
    masked = compression.compression_penalty(deltas, ids, torch.tensor([[1, 0, 1]]), num_episodes=1, estimator=estimator)
    without = compression.compression_penalty(
        deltas[:, [0, 2]], ids[:, [0, 2]], torch.ones(1, 2), num_episodes=1, estimator=estimator
    )
    assert torch.equal(masked, without)


def three_roundings(move: float, seed: int = 0, rows: int = 64, tokens: int = 256):
    """Actor, reference and engine of one truth, each rounded by itself: more where a token is unlikely."""
    g = torch.Generator().manual_seed(seed)
    truth = -torch.rand(rows, tokens, generator=g, dtype=torch.float64) * 4
    delta = move * torch.randn(rows, tokens, generator=g, dtype=torch.float64)
    rounded = lambda values, size: values + size * truth.abs() * torch.randn(rows, tokens, generator=g)  # noqa: E731
    actor, reference, engine = rounded(truth + delta, 0.03), rounded(truth, 0.03), rounded(truth + delta, 0.05)
    ids = torch.arange(tokens).expand(rows, -1) // (tokens // 8)
    arguments = (actor - reference, actor - engine, (actor + reference) / 2, ids, torch.ones(rows, tokens))
    return delta, arguments


@pytest.mark.parametrize("estimator", compression.ESTIMATORS)
@pytest.mark.parametrize("move", [0.0, 1e-3, 0.07])
def test_rounding_does_not_count(estimator, move):
    """The mean is that of the truth within its noise, where the raw penalty shows 5e-3 nats a token more."""
    delta, arguments = three_roundings(move, rows=512)
    deltas, _, _, ids, mask = arguments
    true = compression.compression_penalty(delta, ids, mask, num_episodes=8, estimator=estimator)
    raw = compression.compression_penalty(deltas, ids, mask, num_episodes=8, estimator=estimator)
    found = compression.corrected_penalty(*arguments, num_episodes=8, estimator=estimator)
    bias = (found - true).mean().item() / 32
    assert (raw - true).mean().item() / 32 > 3e-3
    assert abs(bias) < (1e-4 if estimator == "log_ratio" else 1e-3)  # four of its own standard deviations
    assert (found - true).square().mean() < (raw - true).square().mean() / 4


def test_the_identity_behind_it():
    """Without shrinkage, in a bin of one: half the reference's squared distance from the engine less the actor's."""
    _, (deltas, noise, levels, ids, mask) = three_roundings(0.07, rows=1, tokens=8)
    found = compression.corrected_penalty(deltas, noise, levels, ids, mask, num_episodes=8)
    reference_to_engine, actor_to_engine = noise - deltas, noise
    expected = 0.5 * (reference_to_engine.square() - actor_to_engine.square())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("estimator", compression.ESTIMATORS)
def test_without_rounding_it_is_the_penalty_itself(estimator):
    delta, (_, noise, levels, ids, mask) = three_roundings(0.07)
    found = compression.corrected_penalty(
        delta, torch.zeros_like(noise), levels, ids, mask, num_episodes=8, estimator=estimator
    )
    expected = compression.compression_penalty(delta, ids, mask, num_episodes=8, estimator=estimator)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("estimator", compression.ESTIMATORS)
def test_weights_that_have_not_moved_cost_nothing_bit_for_bit(estimator):
    _, (deltas, noise, levels, ids, mask) = three_roundings(0.07)
    found = compression.corrected_penalty(0 * deltas, noise, levels, ids, mask, num_episodes=8, estimator=estimator)
    assert (found == 0).all()


@pytest.mark.parametrize("estimator", compression.ESTIMATORS)
def test_shrinking_keeps_the_total(estimator):
    _, (deltas, noise, levels, ids, mask) = three_roundings(0.07)
    found = compression.corrected_penalty(deltas, noise, levels, ids, mask, num_episodes=8, estimator=estimator)
    if estimator == "log_ratio_episode":
        deltas, noise = (compression.sum_by_episode(x, ids, 8) for x in (deltas, noise - noise.mean()))
    assert found.sum().item() == pytest.approx((0.5 * deltas.square() - deltas * noise).sum().item(), rel=1e-9)


@pytest.mark.parametrize("estimator", compression.ESTIMATORS)
def test_what_is_masked_counts_nowhere(estimator):
    _, (deltas, noise, levels, ids, mask) = three_roundings(0.07)
    mask = mask.clone()
    mask[:, ::3] = 0
    whole = compression.corrected_penalty(deltas, noise, levels, ids, mask, num_episodes=9, estimator=estimator)
    hidden = [torch.where(mask > 0, x, float("nan")) for x in (deltas, noise, levels)]
    assert torch.equal(whole, compression.corrected_penalty(*hidden, ids, mask, num_episodes=9, estimator=estimator))
    assert (whole[:, 8] == 0).all()
    nothing = compression.corrected_penalty(*hidden, ids, 0 * mask, num_episodes=9, estimator=estimator)
    assert (nothing == 0).all()


def test_refuses_what_has_no_log_ratios():
    _, arguments = three_roundings(0.0, rows=1, tokens=8)
    with pytest.raises(ValueError, match="rounding cannot be told from a penalty by 'exact'"):
        compression.corrected_penalty(*arguments, num_episodes=8, estimator="exact")
    with pytest.raises(ValueError, match="one shape"):
        compression.corrected_penalty(*arguments[:4], torch.ones(1, 3), num_episodes=8)

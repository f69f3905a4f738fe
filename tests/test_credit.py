"""The three credits against values worked out by hand, and against loops that spell the definitions out."""

import math

import numpy as np
import pytest
import torch

from l2t_verl import credit


def group(names: str) -> np.ndarray:
    return np.array(list(names), dtype=object)


# Two rollouts of one prompt, T = 4. Row 0: episode 0 holds tokens 0 and 1, episode 1 token 2, token 3 is tail.
# Row 1: one episode of two tokens, one token of tail, one of padding.
OUTCOME = torch.tensor([1.0, 0.0], dtype=torch.float64)
PROCESS = torch.tensor([[0.5, -0.25], [0.25, 0.0]], dtype=torch.float64)
IDS = torch.tensor([[0, 0, 1, -1], [0, 0, -1, -1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
LOG_PROBS = torch.tensor([[-1.0, -3.0, -2.0, -1.0], [0.0, 0.0, -1.0, -7.0]], dtype=torch.float64)
BATCH = (OUTCOME, PROCESS, IDS, MASK, LOG_PROBS, group("aa"))


def test_paper_by_hand():
    """α = 1. Row 0 has K = 3 segments: R = (1/3 + .5, 1/3 − .25, 1/3), shared out 1:3, 1, 1. Row 1 has two segments:
    R = (.25, 0); the first one's surprise is 0, so it is shared out evenly."""
    r0 = [(1 / 3 + 0.5) / 4, (1 / 3 + 0.5) * 3 / 4, 1 / 3 - 0.25, 1 / 3]
    r1 = [0.125, 0.125, 0.0]
    m0, m1 = sum(r0) / 4, sum(r1) / 3  # nothing is trimmed: ⌊0.025 · 4⌋ = 0
    std = abs(m0 - m1) / math.sqrt(2)  # the unbiased one of two values
    a0, a1 = (m0 - m1) / 2 / (std + 1e-6), (m1 - m0) / 2 / (std + 1e-6)
    expected = [[a0 * r / m0 for r in r0], [*(a1 * r / m1 for r in r1), 0.0]]
    torch.testing.assert_close(credit.paper_advantages(*BATCH, alpha=1.0), torch.tensor(expected, dtype=torch.float64))


def test_paper_trims_the_central_95_percent():
    """T = 40: the largest and the smallest token reward are left out of r̃, though they keep their own advantage."""
    process = torch.zeros(1, 0)
    log_probs = torch.full((1, 40), -1.0, dtype=torch.float64)
    log_probs[0, 7] = -61.0  # w sums to 100: this token has r = 0.61, all others 0.01
    advantages = credit.paper_advantages(
        torch.tensor([1.0]), process, torch.full((1, 40), -1), torch.ones(1, 40), log_probs, group("a"), alpha=0.8
    )
    # r̃ = 0.01; a group of one has mean 0 and std 1: Â = 0.01 / (1 + 1e-6)
    assert advantages[0, 0].item() == pytest.approx(0.01, rel=1e-5)
    assert advantages[0, 7].item() == pytest.approx(0.61, rel=1e-5)


def test_paper_where_the_mean_vanishes_and_the_clip():
    process = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    ids, ones = torch.tensor([[0, 1]]), torch.ones(1, 2)
    at_zero = credit.paper_advantages(torch.zeros(1), process, ids, ones, -ones, group("a"), alpha=1.0)
    assert at_zero.tolist() == [[0.0, 0.0]]  # r̃ = 0 exactly: the ratio is 1, Â is 0
    nearly = process + torch.tensor([[1e-3, 0.0]])
    wild = credit.paper_advantages(torch.zeros(1), nearly, ids, ones, -ones.double(), group("a"), alpha=1.0)
    # r̃ = 0.0005 = Â, r/r̃ = ±1000: each token gets its own r
    assert wild[0].tolist() == pytest.approx([0.501, -0.5], rel=1e-4)
    tame = credit.paper_advantages(torch.zeros(1), nearly, ids, ones, -ones.double(), group("a"), alpha=1.0, ratio_clip=2)
    assert tame[0].tolist() == pytest.approx([0.001, -0.001], rel=1e-4)


def test_paper_counts_segments_that_have_a_sampled_token():
    """Episode 1 is masked: its reward is nobody's. An empty row has r̃ = 0 and takes part in the group."""
    outcome, process = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([[0.5, 9.0], [0.0, 0.0]])
    ids, mask = torch.tensor([[0, 1], [-1, -1]]), torch.tensor([[1, 0], [0, 0]])
    advantages = credit.paper_advantages(outcome, process, ids, mask, -torch.ones(2, 2).double(), group("aa"), alpha=1.0)
    # r = 1.5 for the only token, the group's r̃ are (1.5, 0): Â = 0.75 / (1.5/√2 + ε)
    assert advantages.tolist() == [[pytest.approx(0.75 / (1.5 / math.sqrt(2) + 1e-6)), 0.0], [0.0, 0.0]]


def test_episode_by_hand():
    """Tokens in episodes have r = .5 .5 −.25 .25 .25: m = .25, s = √(.375/5)."""
    m, s = 0.25, math.sqrt((0.25**2 * 2 + 0.5**2) / 5)
    out = 0.5 / (1 / math.sqrt(2) + 1e-6)
    part = [[(0.5 - m) / s, (0.5 - m) / s, (-0.25 - m) / s, 0.0], [0.0, 0.0, 0.0, 0.0]]
    expected = [[out + 0.8 * p for p in part[0]], [-out, -out, -out, 0.0]]
    found = credit.episode_advantages(*BATCH, alpha=0.8)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_episode_with_returns_and_surprise_weights_by_hand():
    """γ = .5: G = (.5 − .125, −.25) and (.25): values .375 .375 −.25 .25 .25, m = .2. Surprise shares row 0's first
    episode 1:3 (times N = 2), the others by 1."""
    values = [0.375, 0.375, -0.25, 0.25, 0.25]
    m = sum(values) / 5
    s = math.sqrt(sum((v - m) ** 2 for v in values) / 5)
    weights = [2 * 1 / 4, 2 * 3 / 4, 1.0, 1.0, 1.0]
    parts = [(v - m) / s * w for v, w in zip(values, weights, strict=True)]
    found = credit.episode_advantages(*BATCH, alpha=1.0, gamma=0.5, surprise_weights=True, norm_by_std=False)
    expected = [[0.5 + parts[0], 0.5 + parts[1], 0.5 + parts[2], 0.5], [-0.5 + parts[3], -0.5 + parts[4], -0.5, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_episode_floors_a_vanishing_spread():
    process = torch.tensor([[0.1], [0.101]], dtype=torch.float64)
    ids, ones = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
    found = credit.episode_advantages(torch.ones(2).double(), process, ids, ones, -ones, group("aa"), alpha=1.0)
    assert found[:, 0].tolist() == pytest.approx([-0.0005 / 0.05, 0.0005 / 0.05])


@pytest.mark.parametrize("function", [credit.episode_advantages, credit.shaped_advantages])
def test_where_all_are_wrong_a_gain_counts_no_more_than_an_outcome(function):
    """Four rollouts with gains of 0 and, of one, .02, divided by ½ = 1/√4; with one right among them by the floor."""
    process, ids, ones = torch.tensor([[0.02], [0.0], [0.0], [0.0]]).double(), torch.zeros(4, 1).long(), torch.ones(4, 1)
    options = {"alpha": 1.0, "max_length": 1}
    part = {}
    for right in (0.0, 1.0):
        outcome = torch.tensor([0.0, 0.0, 0.0, right]).double()
        batch = (outcome, process, ids, ones, -ones.double(), group("aaaa"))
        part[right] = function(*batch, **options)[:, 0] - credit.outcome_advantages(outcome, group("aaaa"))
    mean = 0.02 / 4 if function is credit.episode_advantages else 0.0
    assert part[0.0][0].item() == pytest.approx((0.02 - mean) / 0.5)
    torch.testing.assert_close(part[1.0], part[0.0] * 0.5 / 0.05)
    # a spread above 1/√n is divided by as ever
    large = function(torch.zeros(4).double(), 100 * process, ids, ones, -ones.double(), group("aaaa"), **options)[:, 0]
    assert large[0].item() == pytest.approx(100 * (0.02 - mean) / torch.tensor([2.0, 0, 0, 0]).std(correction=0).item())


def test_shaped_by_hand():
    """λ = .4, L = 8: a token costs .05. Returns to go: row 0 .25 .25 −.25 and 0 in the tail; row 1 .25 .25, 0. Row 0 has one
    token more to come than row 1 at each position."""
    g0, g1 = [0.25, 0.25, -0.25, 0.0], [0.25, 0.25, 0.0]
    m0, m1 = sum(g1) / 3, sum(g0) / 4  # each row's baseline is the other's mean
    pooled = (sum(g0) + sum(g1)) / 7
    s = math.sqrt(sum((g - pooled) ** 2 for g in [*g0, *g1]) / 7)
    out = 0.5 / (1 / math.sqrt(2) + 1e-6)
    expected = [
        [out + 0.8 * ((g - m0) / s - 0.05) for g in g0],
        [*(-out + 0.8 * ((g - m1) / s + 0.05) for g in g1), 0.0],
    ]
    found = credit.shaped_advantages(*BATCH, alpha=0.8, length_cost=0.4, max_length=8, length_cost_for="all")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_only_correct_rollouts_are_charged_and_compared_with_each_other():
    """λ/L = .5: the correct rows 0 and 1 pay for 2 and 1 tokens to come, row 2 pays nothing for its three."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    batch = (
        torch.tensor([1.0, 1.0, 0.0]).double(),
        torch.zeros(3, 0).double(),
        torch.full((3, 3), -1),
        mask,
        -mask.double(),
    )
    options = {"alpha": 1.0, "length_cost": 1.0, "max_length": 2, "length_cost_for": "correct"}
    found = credit.shaped_advantages(*batch, group("aaa"), **options) - credit.shaped_advantages(
        *batch, group("aaa"), alpha=0.0, max_length=2
    )
    prices = [[-1.0 + 0.5, -0.5 + 0.0, 0.0], [-0.5 + 1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(prices, dtype=torch.float64))
    alone = credit.shaped_advantages(batch[0] * torch.tensor([1, 0, 0]), *batch[1:], group("aaa"), **options)
    assert torch.equal(alone, credit.shaped_advantages(batch[0] * torch.tensor([1, 0, 0]), *batch[1:], group("aaa"),
                                                       alpha=0.0, max_length=2))  # fmt: skip


def correct_rollouts(lengths: list[int]) -> tuple:
    """Correct rollouts of one prompt, of these lengths, each one episode without a gain."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    outcome, process = torch.ones(len(lengths)).double(), torch.zeros(len(lengths), 1).double()
    return outcome, process, mask - 1, mask, -mask.double(), group("a" * len(lengths))


def test_the_price_of_shaped_is_linear_in_length_cost():
    """Divided by a spread that it makes itself it would not grow: a λ of 1, 10, 100 has to be 1, 10, 100 times the price."""
    batch = correct_rollouts([20, 40, 60, 80, 100])
    options = {"alpha": 0.8, "max_length": 100}
    prices = {cost: credit.shaped_advantages(*batch, length_cost=cost, **options) for cost in (1.0, 10.0, 100.0)}
    assert prices[1.0][4, 0].item() == pytest.approx(-0.8 * (100 - (20 + 40 + 60 + 80) / 4) / 100)
    for cost, found in prices.items():
        torch.testing.assert_close(found, cost * prices[1.0])
    gains = (batch[0], torch.tensor([[0.1], [0.3], [-0.2], [0.0], [0.5]]).double(), *batch[2:])
    free, priced, dear = (credit.shaped_advantages(*gains, length_cost=cost, **options) for cost in (0.0, 1.0, 10.0))
    torch.testing.assert_close(dear - free, 10 * (priced - free))


def test_correct_rollouts_of_one_length_pay_nothing_wherever_a_token_stands():
    for whose in ("correct", "all"):
        options = {"alpha": 0.8, "max_length": 100, "length_cost": 100.0, "length_cost_for": whose}
        assert credit.shaped_advantages(*correct_rollouts([100] * 5), **options).abs().max().item() == 0.0


def test_a_session_with_several_outputs_has_one_outcome():
    """Rows 0 and 1 are the outputs of one session, whose last row carries the outcome."""
    outcome = torch.tensor([0.0, 1.0, 0.0])
    found = credit.outcome_advantages(outcome, group("aaa"), session=group("xxy"), epsilon=0.0)
    assert found.tolist() == pytest.approx([1 / math.sqrt(2), 1 / math.sqrt(2), -1 / math.sqrt(2)])


def test_a_session_with_several_outputs_is_one_rollout():
    """Its rows are no baseline for each other, and a group of one session is a group of one."""
    process, ids, ones = torch.tensor([[1.0], [1.0], [0.0]]).double(), torch.zeros(3, 1).long(), torch.ones(3, 1)
    batch = (torch.ones(3).double(), process, ids, ones, -ones.double(), group("aaa"))
    shaped = credit.shaped_advantages(*batch, alpha=1.0, max_length=1, session=group("xxy"))
    s = math.sqrt(2 / 9)  # of the values 1, 1, 0
    assert shaped[:, 0].tolist() == pytest.approx([1 / s, 1 / s, -1 / s])  # the baselines are 0, 0 and 1
    alone = credit.shaped_advantages(*(part[:2] for part in batch), alpha=1.0, max_length=1, session=group("xx"))
    one = 1 / (1 + 1e-6)  # the outcome, in a group of one
    assert alone[:, 0].tolist() == pytest.approx([one + 1.0, one + 1.0])  # m = 0, s = 1
    paper = credit.paper_advantages(*batch, alpha=1.0, session=group("xxy"))
    two = credit.paper_advantages(*(part[1:] for part in batch), alpha=1.0)
    assert paper[1:, 0].tolist() == pytest.approx(two[:, 0].tolist())  # x counts once in the mean and the spread


def test_length_cost_is_dual_ascent():
    cost = lambda of: credit.LengthCost.fixed(of)  # noqa: E731
    above = credit.update_length_cost(cost(0.0), 1500, 1000, 0.1)
    assert (above.multiplier, above.value) == pytest.approx((0.05, 0.55))
    falling = credit.update_length_cost(cost(1.0), 900, 1000, 0.1)
    assert (falling.multiplier, falling.value) == pytest.approx((0.99, 0.89))
    assert credit.update_length_cost(cost(0.01), 500, 1000, 0.1) == cost(0.0)
    assert credit.update_length_cost(cost(0.3), None, 1000, 0.1) == cost(0.3)  # nothing correct: nothing learnt


def test_health():
    advantages = torch.tensor([[6.0, -1.0, 2.0], [0.0, 0.0, 9.0]])
    found = credit.advantage_health(
        advantages, torch.tensor([[1.0], [0.0]]), torch.tensor([[0, 0, -1], [0, 0, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    )
    assert found == {"abs_max": 6.0, "clipped_fraction": pytest.approx(0.2), "sign_flip_fraction": 0.5}
    empty = credit.advantage_health(torch.zeros(1, 1), torch.zeros(1, 0), torch.tensor([[-1]]), torch.zeros(1, 1))
    assert all(math.isnan(value) for value in empty.values())


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(3), r"outcome must have shape \[2\] with B=2, T=4; got \[3\]"),
        (1, torch.zeros(2), r"process must have shape \[B, K\]"),
        (2, torch.full((2, 4), 2), r"episode_ids must lie in -1 … 1; got 2 … 2"),
        (3, torch.ones(8), r"response_mask must be \[B, T\]"),
        (4, torch.zeros(2, 3), "old_log_probs must have shape"),
        (5, group("a"), "index must name the group of each of the B=2 rows; got 1"),
        (0, torch.tensor([0.0, float("nan")]), "outcome of row 1 is not finite"),
        (1, torch.tensor([[0.0, float("inf")], [0.0, 0.0]]), "process of row 0 is not finite"),
    ],
)
def test_impossible_arguments_are_named(position, value, message):
    arguments = list(BATCH)
    arguments[position] = value
    for function in (credit.paper_advantages, credit.episode_advantages):
        with pytest.raises(ValueError, match=message):
            function(*arguments, alpha=0.8)
    with pytest.raises(ValueError, match=message):
        credit.shaped_advantages(*arguments, alpha=0.8, max_length=4)


def test_shaped_refuses_an_impossible_price():
    for settings in ({"max_length": 0}, {"max_length": 4, "length_cost": -1.0}):
        with pytest.raises(ValueError, match="max_length"):
            credit.shaped_advantages(*BATCH, alpha=0.8, **settings)

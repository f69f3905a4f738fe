"""Invariants of the credits on random batches, loops as oracles, and verl's own GRPO."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import (
    compute_grpo_outcome_advantage,
    compute_reinforce_plus_plus_baseline_outcome_advantage,
)

from l2t_verl import credit

CREDITS = {
    "paper": credit.paper_advantages,
    "episode": credit.episode_advantages,
    "shaped": lambda *a, **k: credit.shaped_advantages(*a, max_length=16, **k),
}


def random_batch(seed: int, rows: int = 8, tokens: int = 16, episodes: int = 4):
    """Groups of several sizes (one of them a single rollout), an empty row, masked tokens inside, tails, padding."""
    print(f"seed {seed}")
    g = torch.Generator().manual_seed(seed)
    mask = torch.zeros(rows, tokens, dtype=torch.int64)
    ids = torch.full((rows, tokens), -1)
    process = torch.zeros(rows, episodes, dtype=torch.float64)
    for row in range(1, rows):  # row 0 stays empty
        length = int(torch.randint(1, tokens + 1, (), generator=g))
        mask[row, :length] = (torch.rand(length, generator=g) > 0.15).long()
        count = int(torch.randint(0, episodes + 1, (), generator=g))
        ends = sorted(set(torch.randint(1, length + 1, (count,), generator=g).tolist()))
        for k, (a, b) in enumerate(zip([0, *ends], ends, strict=False)):
            ids[row, a:b] = k
            process[row, k] = torch.randn((), generator=g)
    outcome = torch.randint(0, 2, (rows,), generator=g).double()
    log_probs = -torch.rand(rows, tokens, generator=g).double() * 3
    index = np.array(["a", "a", "a", "b", "c", "c", "c", "c"][:rows], dtype=object)
    return outcome, process, ids, mask, log_probs, index


def rows_of(index, name):
    return [i for i, other in enumerate(index) if other == name]


def grpo(outcome, rows):
    values = [outcome[i].item() for i in rows]
    mean = sum(values) / len(values)
    if len(values) == 1:  # verl adds ε to a float32 constant here
        return {rows[0]: values[0] / (np.float32(1.0) + np.float32(1e-6)).item()}
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return {i: (outcome[i].item() - mean) / (std + 1e-6) for i in rows}


def paper_loop(outcome, process, ids, mask, log_probs, index, alpha):
    result = torch.zeros(ids.shape, dtype=torch.float64)
    rewards, typical = {}, {}
    for i in range(len(outcome)):
        segments = {}
        for t in range(ids.shape[1]):
            if mask[i, t]:
                segments.setdefault(int(ids[i, t]), []).append(t)
        r = {}
        for k, where in segments.items():
            reward = outcome[i].item() / len(segments) + alpha * (process[i, k].item() if k >= 0 else 0.0)
            weights = [-log_probs[i, t].item() for t in where]
            for t, w in zip(where, weights, strict=True):
                r[t] = reward * (w / sum(weights) if sum(weights) > 0 else 1 / len(where))
        ordered, cut = sorted(r.values()), math.floor(0.025 * len(r))
        kept = ordered[cut : len(ordered) - cut]
        rewards[i], typical[i] = r, sum(kept) / len(kept) if kept else 0.0
    for name in set(index):
        rows = rows_of(index, name)
        normal = grpo(torch.tensor([typical[i] for i in range(len(outcome))], dtype=torch.float64), rows)
        for i in rows:
            for t, value in rewards[i].items():
                result[i, t] = normal[i] * (value / typical[i] if abs(typical[i]) > 1e-12 else 1.0)
    return result


def priced_loop(outcome, mask, rows, length_cost, max_length, only_correct):
    """The prices of a group's tokens, and the same minus the mean over the other charged rollouts' tokens."""
    correct = [i for i in rows if outcome[i] > 0]
    charged = (correct if len(correct) > 1 else []) if only_correct else rows
    cells = [(i, t) for i in rows for t in range(mask.shape[1]) if mask[i, t]]
    prices = {(i, t): length_cost / max_length * mask[i, t:].sum().item() if i in charged else 0.0 for i, t in cells}
    centred = {}
    for i, t in cells:
        others = [prices[j, u] for j, u in cells if j != i and j in charged]
        centred[i, t] = prices[i, t] - (sum(others) / len(others) if others else 0.0) if i in charged else 0.0
    return prices, centred


def least(outcome, rows):
    """What a group's process rewards are divided by at least."""
    return max(0.05, 0.0 if any(outcome[i] > 0 for i in rows) else 1 / math.sqrt(len(rows)))


def episode_loop(outcome, process, ids, mask, log_probs, index, alpha, *priced):
    result = torch.zeros(ids.shape, dtype=torch.float64)
    for name in set(index):
        rows = rows_of(index, name)
        normal = grpo(outcome, rows)
        _, centred = priced_loop(outcome, mask, rows, *priced)
        inside = [process[i, ids[i, t]].item() for i, t in centred if ids[i, t] >= 0]
        m = sum(inside) / len(inside) if inside else 0.0
        s = math.sqrt(sum((v - m) ** 2 for v in inside) / len(inside)) if inside else 0.0
        for i, t in centred:
            part = (process[i, ids[i, t]].item() - m) / max(s, least(outcome, rows)) if ids[i, t] >= 0 else 0.0
            result[i, t] = normal[i] + alpha * part - centred[i, t]
    return result


def shaped_loop(outcome, process, ids, mask, log_probs, index, alpha, length_cost, max_length, only_correct):
    result = torch.zeros(ids.shape, dtype=torch.float64)
    for name in set(index):
        rows = rows_of(index, name)
        normal = grpo(outcome, rows)
        correct = [i for i in rows if outcome[i] > 0]
        charged = (correct if len(correct) > 1 else []) if only_correct else rows
        cells = [(i, t) for i in rows for t in range(mask.shape[1]) if mask[i, t]]
        gains = {(i, t): process[i, ids[i, t] :].sum().item() if ids[i, t] >= 0 else 0.0 for i, t in cells}
        mean = sum(gains.values()) / max(len(gains), 1)
        spread = sum((v - mean) ** 2 for v in gains.values()) / max(len(gains), 1)
        s = math.sqrt(spread) if len(rows) > 1 else 1.0
        for i, t in cells:
            others = [v for (j, _), v in gains.items() if j != i]
            m = sum(others) / len(others) if others else 0.0
            to_come = [mask[j, t:].sum().item() for j in charged if j != i]
            excess = mask[i, t:].sum().item() - (sum(to_come) / len(to_come) if to_come else 0.0) if i in charged else 0.0
            result[i, t] = normal[i] + alpha * (
                (gains[i, t] - m) / max(s, least(outcome, rows)) - length_cost / max_length * excess
            )
    return result


def length_penalty_loop(outcome, mask, index, length_penalty):
    result = torch.zeros(mask.shape, dtype=torch.float64)
    lengths = mask.sum(dim=1).tolist()
    for name in set(index):
        rows = rows_of(index, name)
        correct = [lengths[i] for i in rows if outcome[i] > 0]
        mean = sum(correct) / max(len(correct), 1)
        std = math.sqrt(sum((length - mean) ** 2 for length in correct) / max(len(correct), 1))
        rewards = {}
        for i in rows:
            z = (lengths[i] - mean) / std if std else 0.0
            rewards[i] = outcome[i].item() * (1 - length_penalty / (1 + math.exp(-z)))
        for i in rows:
            others = [rewards[j] for j in rows if j != i]
            result[i] = (rewards[i] - (sum(others) / len(others) if others else 0.0)) * mask[i]
    return result


def adaptive_length_penalty_loop(outcome, mask, index, length_cost, max_length):
    result = torch.zeros(mask.shape, dtype=torch.float64)
    for name in set(index):
        rows = rows_of(index, name)
        share = max(sum(outcome[i].item() > 0 for i in rows), 1) / len(rows)
        rewards = {i: outcome[i].item() - length_cost * share * mask[i].sum().item() / max_length for i in rows}
        mean = sum(rewards.values()) / len(rows) if len(rows) > 1 else 0.0
        for i in rows:
            result[i] = (rewards[i] - mean) * mask[i]
    return result


def cut(batch, limit):
    """The batch with a right response of more than `limit` tokens worth nothing, but no better than a wrong one."""
    outcome, *rest = batch
    return torch.where(rest[2].sum(dim=1) <= limit, outcome, outcome.clamp_max(0.0)), *rest


def at_the_end(outcome, mask):
    """Outcomes on each row's last position, where verl's estimators look for them."""
    rewards = torch.zeros(mask.shape, dtype=outcome.dtype)
    rewards[:, -1] = outcome
    return rewards


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wrong", [0.0, -1.0])  # as graders of verl's have it
def test_a_truncated_response_is_no_right_one_of_verl_s_batchwise_estimator(seed, wrong):
    outcome, *rest = random_batch(seed)
    batch = torch.where(outcome > 0, outcome, wrong), *rest
    outcome, _, _, mask, _, index = cut(batch, 8)
    found = credit.truncation_advantages(*batch, length_share=0.5, max_length=16)
    expected, _ = compute_reinforce_plus_plus_baseline_outcome_advantage(at_the_end(outcome, mask), mask, index)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=2e-7)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("norm_by_std", [True, False])
def test_an_overlong_response_is_punished_as_verl_s_dapo_manager_does_it(seed, norm_by_std):
    batch = random_batch(seed)
    outcome, mask, index = batch[0], batch[3], batch[5]
    longest, buffer = 16, 4  # verl's `max_resp_len` and `overlong_buffer_cfg.len`, with a penalty factor of 1
    dapo = torch.minimum(-(mask.sum(dim=1) - (longest - buffer)) / buffer, torch.zeros(()))
    punished = outcome + dapo / 2  # DAPO's outcomes are 1 and −1, these 1 and 0
    found = credit.overlong_advantages(*batch, length_share=0.75, max_length=longest, norm_by_std=norm_by_std)
    norm = {"norm_adv_by_std_in_grpo": norm_by_std}
    expected, _ = compute_grpo_outcome_advantage(at_the_end(punished, mask), mask, index, **norm)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=2e-7)


def laser_d_targets(outcome, mask, index, least):
    """Each group's target, found as the paper finds it: by trying one length after another."""
    lengths = mask.sum(dim=1).tolist()
    expected, level = {}, {}
    for name in set(index):
        rows = rows_of(index, name)
        right, n = sum(outcome[i].item() > 0 for i in rows), len(rows)
        level[name] = "easy" if right / n >= 2 / 3 else "medium" if right / n >= 1 / 3 else "hard"
        expected[name] = max(1, {"easy": int(n * 2 / 3), "medium": int(n / 3), "hard": 1}[level[name]])
    targets = {}
    for name in expected:
        alike = [lengths[i] for i in range(len(index)) if level[index[i]] == level[name] and lengths[i]]
        length = least
        while alike and sum(other <= length for other in alike) / len(alike) * expected[name] < 1 - 1e-12:
            length += 1
        targets[name] = length
    return targets


@pytest.mark.parametrize("seed", range(20))
def test_laser_d_pays_a_right_response_within_its_difficulty_s_target(seed):
    batch = random_batch(seed)  # groups of three, one and four: of one difficulty two may want different lengths
    outcome, mask, index = batch[0], batch[3], batch[5]
    targets = laser_d_targets(outcome, mask, index, 4)
    paid = [(outcome[i].item() > 0 and mask[i].sum().item() <= targets[name]) for i, name in enumerate(index)]
    found = credit.laser_d_advantages(*batch, length_share=0.25, max_length=16)
    expected, _ = compute_grpo_outcome_advantage(at_the_end(outcome + torch.tensor(paid) / 3, mask), mask, index)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=2e-7)


def test_an_easy_question_s_target_is_shorter_than_a_hard_one_s():
    mask = (torch.arange(12)[None] < torch.tensor([2, 4, 6, 8, 10, 12] * 2)[:, None]).long()
    outcome, index = torch.tensor([1.0] * 7 + [0.0] * 5), np.array(["easy"] * 6 + ["hard"] * 6, dtype=object)
    batch = outcome, torch.zeros(12, 0), torch.full((12, 12), -1), mask, torch.zeros(12, 12), index
    found = credit.laser_d_advantages(*batch, length_share=0.1, max_length=12, norm_by_std=False)[:, 0]
    # of the easy group, where four are right at least, the shortest two of six are paid; of the hard one all that are right
    torch.testing.assert_close(found[:6], torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0, -1.0]) / 9)
    torch.testing.assert_close(found[6:], torch.tensor([10.0] + [-2.0] * 5) / 9)


@pytest.mark.parametrize("name", ["overlong", "truncation", "laser_d"])
@pytest.mark.parametrize(("share", "longest"), [(0.0, 16), (1.5, 16), (math.nan, 16), (0.5, 0)])
def test_a_bound_on_the_length_lies_within_the_longest_response(name, share, longest):
    with pytest.raises(ValueError, match="length_share above 0 and at most 1; got"):
        getattr(credit, f"{name}_advantages")(*random_batch(0), length_share=share, max_length=longest)


@pytest.mark.parametrize("name", ["overlong", "truncation", "laser_d"])
def test_the_rows_of_a_session_are_one_response(name):
    function = getattr(credit, f"{name}_advantages")
    batch = random_batch(3)
    session = np.array(["0", "1", "2", "3", "4", "5", "6", "7"], dtype=object)
    whole = function(*batch, length_share=0.5, max_length=16)
    torch.testing.assert_close(function(*batch, length_share=0.5, max_length=16, session=session), whole)
    # the same responses, each cut into two rows of which the second carries the outcome
    half = lambda tensor, keep: torch.where(keep, tensor, torch.zeros((), dtype=tensor.dtype))  # noqa: E731
    early = torch.arange(16)[None] < 5
    outcome, process, ids, mask, log_probs, index = batch
    doubled = (
        torch.cat([torch.full_like(outcome, 7.0), outcome]),
        process.repeat(2, 1),
        ids.repeat(2, 1),
        torch.cat([half(mask, early), half(mask, ~early)]),
        log_probs.repeat(2, 1),
        np.concatenate([index, index]),
    )
    found = function(*doubled, length_share=0.5, max_length=16, session=np.concatenate([session, session]))
    torch.testing.assert_close(found[:8] + found[8:], whole)


def test_a_question_that_is_never_solved_pays_an_nth_of_one_that_always_is():
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]] * 2)
    outcome, index = torch.tensor([1.0, 1.0, 0.0, 0.0]), np.array(["solved"] * 2 + ["never"] * 2, dtype=object)
    batch = outcome, torch.zeros(4, 0), torch.full((4, 3), -1), mask, torch.zeros(4, 3), index
    found = credit.adaptive_length_penalty_advantages(*batch, length_cost=0.6, max_length=3)[:, 0]
    torch.testing.assert_close(found, torch.tensor([0.2, -0.2, 0.1, -0.1]))


@pytest.mark.parametrize("seed", range(20))
def test_loops(seed):
    batch = random_batch(seed)
    close = {"atol": 1e-9, "rtol": 2e-7}
    torch.testing.assert_close(credit.paper_advantages(*batch, alpha=0.8), paper_loop(*batch, 0.8), **close)
    for whose, cost in (("all", 0.3), ("correct", 0.3), ("correct", 0.0)):
        priced = {"alpha": 0.8, "length_cost": cost, "max_length": 16, "length_cost_for": whose}
        for function, loop in ((credit.episode_advantages, episode_loop), (credit.shaped_advantages, shaped_loop)):
            torch.testing.assert_close(function(*batch, **priced), loop(*batch, 0.8, cost, 16, whose == "correct"), **close)
    found = credit.length_penalty_advantages(*batch, length_penalty=0.4)
    torch.testing.assert_close(found, length_penalty_loop(batch[0], batch[3], batch[5], 0.4), **close)
    found = credit.adaptive_length_penalty_advantages(*batch, length_cost=0.4, max_length=16)
    torch.testing.assert_close(found, adaptive_length_penalty_loop(batch[0], batch[3], batch[5], 0.4, 16), **close)


@pytest.mark.parametrize("seed", range(10))
def test_process_part_of_episode_sums_to_zero_over_a_group_s_episode_tokens(seed):
    batch = random_batch(seed)
    for options in ({}, {"gamma": 0.9}):
        part = credit.episode_advantages(*batch, alpha=1.0, **options) - credit.episode_advantages(*batch, alpha=0.0)
        for name in set(batch[5]):
            rows = rows_of(batch[5], name)
            inside = (batch[2][rows] >= 0) & (batch[3][rows] > 0)
            assert abs(part[rows][inside].sum().item()) < 1e-9
            assert part[rows][~inside].abs().max().item() == 0.0 if (~inside).any() else True


@pytest.mark.parametrize("seed", range(10))
def test_shaped_does_not_depend_on_where_episodes_are_cut(seed):
    """Splitting an episode (the gains of its halves sum to its gain) leaves G, and so A, of its first half alone."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, 5, generator=generator).double()  # J_0 … J_4 at tokens 0, 3, 6, 9, 12
    ones, index = torch.ones(2, 12), np.array(["a", "a"], dtype=object)
    fine = torch.arange(12).div(3, rounding_mode="floor").expand(2, 12)
    coarse = torch.where(fine < 2, 0, 1)
    cuts = scores[:, [0, 2, 4]]
    returns = []
    for ids, values in ((fine, scores), (coarse, cuts)):
        gains = values.diff(dim=1)
        shaped = credit.shaped_advantages(
            torch.zeros(2).double(), gains, ids, ones, -ones, index, alpha=1.0, max_length=12, std_floor=1e6
        )
        # with the floor as divisor A·floor = G − m; the difference to the last token's cancels m
        returns.append(shaped * 1e6)
        expected = values[:, -1:] - values.gather(1, ids)
        torch.testing.assert_close(returns[-1] - returns[-1][:, -1:], expected - expected[:, -1:])
        # the first token's G is J_K − J_0 whatever the segmentation
        torch.testing.assert_close(expected[:, 0], scores[:, -1] - scores[:, 0])


@pytest.mark.parametrize("name", CREDITS)
@pytest.mark.parametrize("seed", range(5))
def test_permuting_rollouts_permutes_advantages(name, seed):
    batch = random_batch(seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    moved = [part[order] if isinstance(part, torch.Tensor) else part[order.numpy()] for part in batch]
    torch.testing.assert_close(CREDITS[name](*moved, alpha=0.8), CREDITS[name](*batch, alpha=0.8)[order])


@pytest.mark.parametrize("name", CREDITS)
@pytest.mark.parametrize("seed", range(5))
def test_padding_and_masked_tokens_get_nothing_and_change_nothing(name, seed):
    outcome, process, ids, mask, log_probs, index = random_batch(seed)
    found = CREDITS[name](outcome, process, ids, mask, log_probs, index, alpha=0.8)
    assert (found[mask == 0] == 0).all()
    pad = lambda tensor, value: torch.nn.functional.pad(tensor, (0, 3), value=value)  # noqa: E731
    noise = torch.where(mask == 0, float("nan"), log_probs)
    wider = CREDITS[name](outcome, pad(process, 0.0), pad(ids, -1), pad(mask, 0), pad(noise, -9.0), index, alpha=0.8)
    torch.testing.assert_close(wider[:, :16], found)
    assert (wider[:, 16:] == 0).all()


@given(
    data=st.data(),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    norm=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_alpha_0_is_verl_s_grpo_to_the_last_bit(data, sizes, norm, dtype):
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    names = [name for name, size in enumerate(sizes) for _ in range(size)]
    order = data.draw(st.permutations(range(len(names))))
    index = np.array([str(names[i]) for i in order], dtype=object)
    numbers = st.floats(-10, 10, width=32) | st.sampled_from([0.0, 1.0])
    outcome = torch.tensor(data.draw(st.lists(numbers, min_size=len(names), max_size=len(names))), dtype=dtype)
    mask = torch.tensor([[1, i % 2, 0] for i in range(len(names))])
    rewards = torch.zeros(len(names), 3, dtype=dtype)
    rewards[:, 0] = outcome
    expected, _ = compute_grpo_outcome_advantage(rewards, mask, index, norm_adv_by_std_in_grpo=norm)
    arguments = (outcome, torch.randn(len(names), 2), torch.zeros(len(names), 3, dtype=torch.int64), mask, -rewards, index)
    for function in (CREDITS["episode"], CREDITS["shaped"]):
        found = function(*arguments, alpha=0.0, norm_by_std=norm)
        assert found.dtype == dtype
        assert torch.equal(found, expected)


def test_alpha_0_is_verl_s_grpo_for_large_groups():
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    print("seed 5")
    outcome = torch.randn(5000, generator=torch.Generator().manual_seed(5))
    index = np.array([str(i % 3 if i < 4000 else i % 700) for i in range(5000)], dtype=object)
    ones = torch.ones(5000, 1)
    expected, _ = compute_grpo_outcome_advantage(outcome[:, None].clone(), ones, index)
    found = credit.shaped_advantages(
        outcome, torch.zeros(5000, 0), -ones.long(), ones, -ones, index, alpha=0.0, max_length=1
    )
    assert torch.equal(found, expected)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64) | st.sampled_from([0.0, 1.0, -0.0, 1e-300, 3e38])
LOG_PROBS = st.floats(max_value=0, allow_nan=False) | st.sampled_from([float("nan"), float("-inf"), 1e-3, 0.0])


@pytest.mark.parametrize("name", CREDITS)
@given(data=st.data())
def test_always_finite(name, data):
    rows, tokens, episodes = (data.draw(st.integers(low, high)) for low, high in ((1, 5), (1, 6), (0, 3)))
    table = lambda what, width: [data.draw(st.lists(what, min_size=width, max_size=width)) for _ in range(rows)]  # noqa: E731
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    numbers = NUMBERS if dtype == torch.float64 else st.floats(allow_nan=False, allow_infinity=False, width=32)
    outcome = torch.tensor(table(numbers, 1), dtype=dtype)[:, 0]
    process = torch.tensor(table(NUMBERS, episodes), dtype=torch.float64).reshape(rows, episodes)
    ids = torch.tensor(table(st.integers(-1, episodes - 1), tokens))
    mask = torch.tensor(table(st.integers(0, 1), tokens))
    log_probs = torch.tensor(table(LOG_PROBS, tokens), dtype=dtype)
    index = np.array(data.draw(st.lists(st.sampled_from("ab"), min_size=rows, max_size=rows)), dtype=object)
    found = CREDITS[name](outcome, process, ids, mask, log_probs, index, alpha=data.draw(st.floats(0, 100)))
    assert torch.isfinite(found).all()
    assert (found[mask == 0] == 0).all()


@pytest.mark.parametrize("name", CREDITS)
@pytest.mark.parametrize("result", [0.0, 1.0])
def test_groups_that_are_all_right_or_all_wrong_still_tell_their_rollouts_apart(name, result):
    process = torch.tensor([[0.4], [0.1]])
    ids, ones = torch.tensor([[0, 0], [0, 0]]), torch.ones(2, 2)
    index = np.array(["a", "a"], dtype=object)
    found = CREDITS[name](torch.full((2,), result), process, ids, ones, -ones, index, alpha=0.8)
    assert found[0, 0] > found[1, 0]
    none = CREDITS[name](torch.full((2,), result), torch.zeros(2, 1), ids, ones, -ones, index, alpha=0.8)
    assert none.abs().max() == 0  # nothing to tell them apart by

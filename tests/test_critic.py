"""The credits `critic` and `guided`: against loops that spell them out; the critic's fit, its memory, its calibration."""

import itertools
import math

import numpy as np
import pytest
import torch
from test_credit_properties import random_batch

from l2t_verl import credit
from l2t_verl.credit.critic import PRIOR, critic_states
from l2t_verl.credit.inputs import check_rollouts
from l2t_verl.credit.logistic import fit_logistic

WEIGHTS = torch.tensor([0.7, 0.4, -0.3, 0.2, 0.1], dtype=torch.float64)


def batch_with_scores(seed: int):
    """Random rollouts and their J_0 … J_K, padded with the last."""
    batch = random_batch(seed)
    scores = torch.rand(8, 5, generator=torch.Generator().manual_seed(seed + 1000), dtype=torch.float64)
    return batch, scores


def logit(p: float) -> float:
    p = min(max(p, 1e-3), 1 - 1e-3)
    return math.log(p / (1 - p))


def values_loop(outcome, ids, mask, index, scores, weights):
    """V_0 … V_{K_i} of each row, in plain Python."""
    found = []
    for i in range(len(outcome)):
        others = [outcome[j].item() for j in range(len(outcome)) if index[j] == index[i] and j != i]
        chance = (sum(others) + 0.5) / (len(others) + 1)
        count = max([int(ids[i, t]) + 1 for t in range(ids.shape[1]) if mask[i, t]], default=0)
        row = []
        for k in range(count + 1):
            score = logit(scores[i, k].item())
            x = [score, logit(chance), k / 10, score * k / 10, 1.0]
            z = sum(a * b for a, b in zip(x, weights.tolist(), strict=True)) if count else logit(chance)
            row.append(1 / (1 + math.exp(-z)))
        found.append(row)
    return found


def critic_loop(batch, scores, weights, decay, cost, longest, only_correct):
    outcome, _, ids, mask, _, index = batch
    result = torch.zeros(mask.shape, dtype=torch.float64)
    for i, values in enumerate(values_loop(outcome, ids, mask, index, scores, weights)):
        deltas = [b - a for a, b in itertools.pairwise(values)] + [outcome[i].item() - values[-1]]
        for t in range(mask.shape[1]):
            if mask[i, t]:
                k = int(ids[i, t]) if ids[i, t] >= 0 else len(deltas) - 1
                result[i, t] = sum(decay ** (j - k) * deltas[j] for j in range(k, len(deltas)))
    return priced_loop(scaled_loop(result, mask > 0), batch, cost, longest, only_correct)


def scaled_loop(result, counted):
    sampled = result[counted].tolist()
    return result / max(math.sqrt(sum(v * v for v in sampled) / max(len(sampled), 1)), 1e-3)


def priced_loop(result, batch, cost, longest, only_correct):
    outcome, _, _, mask, _, index = batch
    for name in set(index):
        rows = [i for i, other in enumerate(index) if other == name]
        correct = [i for i in rows if outcome[i] > 0]
        charged = (correct if len(correct) > 1 else []) if only_correct else rows
        for i in charged:
            others = [j for j in charged if j != i]
            for t in range(mask.shape[1]):
                if mask[i, t]:
                    base = sum(mask[j, t:].sum().item() for j in others) / len(others) if others else 0.0
                    result[i, t] -= cost / longest * (mask[i, t:].sum().item() - base)
    return result


@pytest.mark.parametrize("decay", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_loops(seed, decay):
    batch, scores = batch_with_scores(seed)
    for cost, whose in ((0.0, "correct"), (2.0, "correct"), (2.0, "all")):
        settings = {"decay": decay, "length_cost": cost, "length_cost_for": whose, "max_length": 16}
        found = credit.critic_advantages(*batch, scores=scores, weights=WEIGHTS, **settings)
        torch.testing.assert_close(found, critic_loop(batch, scores, WEIGHTS, decay, cost, 16, whose == "correct"))


def guided_loop(batch, scores, weights, decay, alpha, floor, cost, longest, only_correct):
    """Group by group: the critic's advantages where one is right, and own gains by the share that is wrong."""
    outcome, process, ids, mask, _, index = batch
    groups = {name: [i for i, other in enumerate(index) if other == name] for name in set(index)}
    right = {name: sum(outcome[i].item() > 0 for i in rows) / len(rows) for name, rows in groups.items()}
    counted = torch.tensor([[right[name] > 0] for name in index]) & (mask > 0)
    result = critic_loop(batch, scores, weights, decay, 0.0, longest, only_correct)
    result = scaled_loop(torch.where(counted, result, 0.0), counted)
    for name, rows in groups.items():
        inside = [(i, t) for i in rows for t in range(mask.shape[1]) if mask[i, t] and ids[i, t] >= 0]
        gains = [process[i, ids[i, t]].item() for i, t in inside]
        mean = sum(gains) / max(len(gains), 1)
        spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / max(len(gains), 1))
        least = floor if right[name] else max(floor, 1 / math.sqrt(len(rows)))
        for (i, t), gain in zip(inside, gains, strict=True):
            result[i, t] += alpha * (1 - right[name]) * (gain - mean) / max(spread, least)
    return priced_loop(result, batch, cost, longest, only_correct)


@pytest.mark.parametrize(("alpha", "floor"), [(0.8, 0.05), (2.0, 0.6)])
@pytest.mark.parametrize("seed", range(10))
def test_the_guided_one_in_loops(seed, alpha, floor):
    batch, scores = batch_with_scores(seed)
    for cost, whose in ((0.0, "correct"), (2.0, "correct"), (2.0, "all")):
        settings = {"decay": 0.9, "length_cost": cost, "length_cost_for": whose, "max_length": 16, "std_floor": floor}
        found = credit.guided_advantages(*batch, scores=scores, weights=WEIGHTS, alpha=alpha, **settings)
        expected = guided_loop(batch, scores, WEIGHTS, 0.9, alpha, floor, cost, 16, whose == "correct")
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("seed", range(10))
def test_where_all_or_none_are_right_one_part_is_left(seed):
    """None right: own gains alone, as `episode` has them. All right: the critic alone, whatever the gains are."""
    (_, process, *rest), scores = batch_with_scores(seed)
    settings = {"scores": scores, "weights": WEIGHTS, "alpha": 0.8}
    none, ones = torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    found = credit.guided_advantages(none, process, *rest, **settings)
    torch.testing.assert_close(found, credit.episode_advantages(none, process, *rest, alpha=0.8))
    found = credit.guided_advantages(ones, process, *rest, **settings)
    torch.testing.assert_close(found, credit.critic_advantages(ones, process, *rest, scores=scores, weights=WEIGHTS))


@pytest.mark.parametrize("seed", range(10))
def test_the_whole_telescopes_to_the_outcome_minus_v_0(seed):
    """λ = 1: the first token gets r − V_0, whatever J says in between; without weights V_0 is the others' mean outcome."""
    batch, scores = batch_with_scores(seed)
    outcome, _, ids, mask, _, index = batch
    for weights in (WEIGHTS, PRIOR):
        found = credit.critic_advantages(*batch, scores=scores, weights=weights, decay=1.0)
        values = values_loop(outcome, ids, mask, index, scores, weights)
        firsts = [(i, int(mask[i].argmax())) for i in range(8) if mask[i].any() and ids[i, int(mask[i].argmax())] <= 0]
        ratios = [found[i, t].item() / (outcome[i].item() - values[i][0]) for i, t in firsts if ids[i, t] == 0]
        assert len(ratios) > 1 and ratios == pytest.approx([ratios[0]] * len(ratios))  # all divided by one scale
    unlearned = credit.critic_advantages(*batch, scores=scores, decay=1.0)
    torch.testing.assert_close(unlearned, credit.critic_advantages(*batch, scores=scores, weights=PRIOR, decay=1.0))


def test_an_episode_that_changes_nothing_gets_what_follows_it():
    """Once the outcome is certain, nothing follows, and nothing is paid or punished."""
    index = np.array(["a", "a"], dtype=object)
    ids = torch.tensor([[0, 1, 2, -1], [0, 1, 2, -1]])
    scores = torch.tensor([[0.5, 0.9, 0.9, 0.9], [0.5, 0.1, 0.1, 0.1]], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    ones = torch.ones(2, 4)
    batch = (torch.tensor([1.0, 0.0]).double(), torch.zeros(2, 3).double(), ids, ones, -ones, index)
    found = credit.critic_advantages(*batch, scores=scores, weights=weights, decay=0.0)
    assert found[:, 1:3].abs().max() < 1e-9 and found[0, 0] > 3 * found[0, 3] > 0
    assert torch.allclose(found[0], -found[1])


def test_sessions_are_one_rollout():
    """Two outputs of a session have its last one's outcome, and neither counts among the others of the other."""
    index, session = np.array(["a"] * 3, dtype=object), np.array(["x", "x", "y"], dtype=object)
    ids, ones = torch.zeros(3, 1).long(), torch.ones(3, 1)
    batch = (torch.tensor([0.0, 1.0, 0.0]).double(), torch.zeros(3, 1).double(), ids, ones, -ones, index)
    found = credit.critic_advantages(*batch, scores=torch.full((3, 2), 0.5), decay=1.0, session=session)
    assert found[:, 0].tolist() == pytest.approx([1.0, 1.0, -1.0])  # V = 1/4, 1/4, 3/4
    gains = torch.tensor([[0.5], [0.5], [-1.0]], dtype=torch.float64)
    settings = {"scores": torch.full((3, 2), 0.5), "decay": 1.0, "alpha": 1.0, "session": session}
    guided = credit.guided_advantages(batch[0], gains, *batch[2:], **settings)
    ratio = 1 / math.sqrt(0.5)  # of the gains' spread; half of the two rollouts are wrong
    assert guided[:, 0].tolist() == pytest.approx([1 + 0.25 * ratio, 1 + 0.25 * ratio, -1 - 0.5 * ratio])


def test_the_fit_is_the_minimum():
    """The gradient vanishes, and a plain descent on the same sum arrives there."""
    print("seed 3")
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    y = (torch.rand(200, generator=generator) < torch.sigmoid(x @ WEIGHTS)).double()
    found = fit_logistic(x, y, PRIOR, 2.0)
    slow = PRIOR.clone()
    for _ in range(5000):
        slow = slow - 0.01 * (x.T @ (torch.sigmoid(x @ slow) - y) + 2.0 * (slow - PRIOR))
    torch.testing.assert_close(found, slow, atol=1e-6, rtol=1e-6)


def test_the_fit_survives_separable_rows_and_none_at_all():
    assert torch.equal(fit_logistic(torch.zeros(0, 5), torch.zeros(0), PRIOR, 1.0), PRIOR)
    x = torch.linspace(-50, 50, 40)[:, None].repeat(1, 5)
    found = fit_logistic(x, (x[:, 0] > 0).double(), PRIOR, 1e-6)
    assert torch.isfinite(found).all()
    gradient = x.double().T @ (torch.sigmoid(x.double() @ found) - (x[:, 0] > 0).double()) + 1e-6 * (found - PRIOR)
    assert gradient.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 5), torch.zeros(2), PRIOR, 0.0), "ridge must be above 0"),
        ((torch.zeros(2, 5), torch.zeros(3), PRIOR, 1.0), r"outcomes \[N\]"),
        ((torch.zeros(2, 5), torch.tensor([0.0, 1.5]), PRIOR, 1.0), r"must lie in \[0, 1\]"),
    ],
)
def test_impossible_fits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic(*arguments)


def test_impossible_scores_are_named():
    batch, scores = batch_with_scores(0)
    with pytest.raises(ValueError, match=r"scores must have shape \[B, K\+1\] with B=8, K=4; got \[8, 4\]"):
        credit.critic_advantages(*batch, scores=scores[:, 1:])
    scores[3, 1] = float("nan")
    with pytest.raises(ValueError, match="scores of row 3 are not finite"):
        credit.critic_advantages(*batch, scores=scores)


# ---- what it remembers


def step(seed: int):
    batch, scores = batch_with_scores(seed)
    return check_rollouts(*batch), scores


def test_the_weights_are_fitted_on_the_last_steps_alone():
    critic = credit.Critic()
    for seed in range(4):
        critic = credit.learn(critic, *step(seed), ridge=1.0, steps=2)
    assert len(critic.history) == 2
    states, outcomes = [], []
    for seed in (2, 3):
        rollouts, scores = step(seed)
        x = critic_states(rollouts, scores)
        for i in range(8):
            count = int(credit.episodes_of(rollouts)[i])
            for k in range(count + 1) if count else ():
                states.append(x[i, k].float())
                outcomes.append(rollouts.outcome[i].float())
    torch.testing.assert_close(critic.weights, fit_logistic(torch.stack(states), torch.stack(outcomes), PRIOR, 1.0))


def test_what_is_judged_is_not_in_the_fit_that_judges_it():
    """The values of a group do not move when its own rollouts' outcomes do, but for the others' mean that each has."""
    critic = credit.learn(credit.Critic(), *step(0), ridge=1.0, steps=5)
    rollouts, scores = step(1)
    before = credit.critic_values(rollouts, scores, critic.weights)
    turned = rollouts.outcome.clone()
    turned[3] = 1 - turned[3]  # a group of one: nobody's mean
    batch = batch_with_scores(1)[0]
    after = credit.critic_values(check_rollouts(turned, *batch[1:]), scores, critic.weights)
    assert torch.equal(before, after)


def test_it_comes_back_from_its_file(tmp_path):
    critic = credit.learn(credit.Critic(), *step(0), ridge=1.0, steps=5)
    critic.save(tmp_path / "critic.pt")
    found = credit.Critic.load(tmp_path / "critic.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["critic.pt"]
    assert torch.equal(found.weights, critic.weights)
    both = [credit.learn(one, *step(1), ridge=1.0, steps=5).weights for one in (critic, found)]
    assert torch.equal(*both)


def test_it_learns_that_j_tells_right_from_wrong():
    """J follows the outcome from the second episode on: V does so too, on rollouts that it has not seen."""

    def rollouts(seed):
        generator = torch.Generator().manual_seed(seed)
        right = (torch.rand(64, generator=generator) < 0.5).double()
        noise = 0.1 * torch.rand(64, 3, generator=generator, dtype=torch.float64)
        scores = torch.stack([torch.full((64,), 0.4).double(), 0.3 + 0.3 * right, 0.1 + 0.7 * right], 1) + noise
        index = np.repeat(np.arange(8), 8).astype(str).astype(object)
        ids, ones = torch.tensor([0, 0, 1, 1, -1]).expand(64, 5), torch.ones(64, 5)
        return check_rollouts(right, torch.zeros(64, 2).double(), ids, ones, -ones, index), scores

    critic = credit.Critic()
    for seed in range(3):
        critic = credit.learn(critic, *rollouts(seed), ridge=1.0, steps=5)
    unseen, scores = rollouts(3)
    values = credit.critic_values(unseen, scores, critic.weights)
    found = credit.calibration(values, unseen.outcome, credit.episodes_of(unseen))
    assert found["auc_middle"] > 0.95 and found["auc_end"] > 0.99 and found["reliability"] < 0.15
    assert found["auc_start"] < 0.7


# ---- calibration


def test_calibration_by_hand():
    """Two bins: two states at .25 of which one is right, and one at .75 that is wrong; pairs with a tie count half."""
    values = torch.tensor([[0.25, 0.75], [0.25, 0.25], [0.9, 0.9]])
    found = credit.calibration(values[:, :2], torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1, 1, 0]))
    # states of the rows with episodes: .25 wrong, .75 wrong, .25 right, .25 right
    assert found["reliability"] == pytest.approx((abs(3 * 0.25 - 2) + 0.75) / 4)
    assert (found["auc_start"], found["auc_end"]) == (0.5, 0.0)
    nothing = credit.calibration(values, torch.ones(3), torch.zeros(3).long())
    assert all(math.isnan(value) for value in nothing.values())


def test_the_area_is_the_share_of_pairs():
    print("seed 4")
    generator = torch.Generator().manual_seed(4)
    values = torch.randint(0, 5, (30, 1), generator=generator) / 5
    right = torch.rand(30, generator=generator) < 0.4
    pairs = [(a.item(), b.item()) for a in values[right, 0] for b in values[~right, 0]]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    both = torch.cat([values, values], 1)
    assert credit.calibration(both, right.double(), torch.ones(30).long())["auc_end"] == pytest.approx(expected)

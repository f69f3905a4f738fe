"""The estimator as verl calls it: through its registry, on batches with padding, sessions, KL and rollout correction."""

import dataclasses

import numpy as np
import pytest
import torch
import verl  # noqa: F401  (first, as in every process of a run: it loads the plugin)
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import FixedKLController, get_adv_estimator_fn
from verl.trainer.ppo.ray_trainer import apply_kl_penalty
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from l2t_verl import credit
from l2t_verl.config import load_config
from l2t_verl.plugin.driver.estimator import CreditContext, credit_context

T, K, LONGEST = 9, 3, 16
WEIGHTS = torch.tensor([0.8, 0.5, -0.2, 0.3, 0.1], dtype=torch.float64)
WITHOUT = {"alpha": 0.0, "credit": {"method": "shaped"}}  # GRPO's advantages, whatever the length cost
CREDITS = {
    "paper": {"credit": {"method": "paper"}},
    "paper, clipped": {"credit": {"method": "paper", "ratio_clip": 1.5}},
    "episode": {"credit": {"method": "episode"}},
    "episode, returns": {"credit": {"method": "episode", "gamma": 0.5, "surprise_weights": True, "std_floor": 0.2}},
    "length penalty": {"credit": {"method": "length_penalty"}},
    "length penalty, strong": {"credit": {"method": "length_penalty", "length_penalty": 0.6}},
    "adaptive length penalty": {"credit": {"method": "adaptive_length_penalty"}},
    "overlong": {"credit": {"method": "overlong", "length_share": 0.3}},
    "truncation": {"credit": {"method": "truncation", "length_share": 0.3}},
    "LASER-D": {"credit": {"method": "laser_d", "length_share": 0.3}},
    "shaped": {"credit": {"method": "shaped"}},
    "shaped, floor": {"alpha": 2.5, "credit": {"method": "shaped", "std_floor": 0.7}},
    "episode, all charged, by surprise": {
        "credit": {"method": "episode", "length_cost_for": "all", "surprise_weights": True}
    },
    "critic": {"credit": {"method": "critic"}},
    "critic, outcome minus V": {"credit": {"method": "critic", "critic_decay": 1.0}},
    "critic, all charged": {"credit": {"method": "critic", "length_cost_for": "all"}},
    "guided": {"credit": {"method": "guided"}},
    "guided, light": {"alpha": 0.3, "credit": {"method": "guided", "std_floor": 0.7}},
    "shaped, all charged": {"credit": {"method": "shaped", "length_cost_for": "all"}},
}


@dataclasses.dataclass
class Batch:
    """Rows as verl has them when it computes advantages, in the order of `keys`."""

    keys: list[str]
    is_padding: torch.Tensor
    rewards: torch.Tensor
    mask: torch.Tensor
    old_log_probs: torch.Tensor
    process: torch.Tensor
    episode_ids: torch.Tensor
    scores: torch.Tensor

    def taken(self, rows) -> "Batch":
        rows = torch.as_tensor(rows)
        tensors = [getattr(self, field.name)[rows] for field in dataclasses.fields(self)[1:]]
        return Batch([self.keys[row] for row in rows.tolist()], *tensors)

    def index(self) -> np.ndarray:
        return np.array([key.rsplit("_", 2)[0] for key in self.keys], dtype=object)

    def sessions(self) -> np.ndarray:
        return np.array([key.rsplit("_", 1)[0] for key in self.keys], dtype=object)

    def outputs(self) -> np.ndarray:
        return np.array([int(key.rsplit("_", 1)[1]) for key in self.keys])

    def context(self, settings: dict, **changes) -> CreditContext:
        values = {
            "length_cost": 0.3,
            "max_length": LONGEST,
            "norm_by_std": True,
            "scores": self.scores,
            "critic_weights": WEIGHTS,
            "cost": torch.zeros_like(self.process),
            "process": self.process,
        } | changes
        return CreditContext(
            load_config(settings),
            episode_ids=self.episode_ids,
            old_log_probs=self.old_log_probs,
            is_padding=self.is_padding,
            sessions=self.sessions(),
            outputs=self.outputs(),
            **values,
        )

    def proto(self) -> DataProto:
        tensors = {"token_level_rewards": self.rewards, "response_mask": self.mask, "old_log_probs": self.old_log_probs}
        return DataProto.from_dict(tensors, non_tensors={"uid": self.index()})


def rollouts(seed: int, outputs: int = 1, padding: int = 0, shuffled: bool = False) -> Batch:
    """Random rows of five prompts with one to four sessions; the outcome stands on the last token, as verl writes it."""
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    keys = [
        f"prompt{prompt}_{session}_{output}"
        for prompt in range(5)
        for session in range(1 + prompt % 4)
        for output in range(generator.integers(1, outputs + 1))
    ]
    keys += [f"pad{seed}_{row}_0" for row in range(padding)]
    rows = len(keys)
    lengths = torch.from_numpy(generator.integers(1, T + 1, rows))
    mask = (torch.arange(T) < lengths[:, None]).long()
    scores = dict(zip((key.rsplit("_", 1)[0] for key in keys), generator.random(rows), strict=True))
    rewards = torch.zeros(rows, T)
    for row, key in enumerate(keys):  # all outputs of a session have its score
        rewards[row, lengths[row] - 1] = scores[key.rsplit("_", 1)[0]]
    ids = torch.from_numpy(np.sort(generator.integers(0, K, (rows, T)), axis=1))
    ids = torch.where(torch.arange(T) < lengths[:, None] - 1, ids, -1)
    batch = Batch(
        keys,
        torch.tensor([key.startswith("pad") for key in keys]),
        rewards,
        mask,
        -torch.from_numpy(generator.exponential(1.0, (rows, T))).float() * mask,
        torch.from_numpy(generator.normal(0, 0.3, (rows, K))),
        ids,
        torch.from_numpy(generator.random((rows, K + 1))),
    )
    return batch.taken(generator.permutation(rows)) if shuffled else batch


def advantages(batch: Batch, settings: dict, **changes) -> torch.Tensor:
    """The advantages that verl's trainer would get."""
    with credit_context(batch.context(settings, **changes)):
        data = compute_advantage_for_multi_trajectories(batch.proto(), batch.keys, "l2t", config=OmegaConf.create())
    assert torch.equal(data.batch["returns"], data.batch["advantages"])
    return data.batch["advantages"]


def grpo(batch: Batch, norm_by_std: bool = True) -> torch.Tensor:
    """What verl's own GRPO makes of the same rows."""
    data = compute_advantage_for_multi_trajectories(
        batch.proto(), batch.keys, "grpo", norm_adv_by_std_in_grpo=norm_by_std, config=OmegaConf.create()
    )
    return data.batch["advantages"]


def pure(batch: Batch, settings: dict, norm_by_std: bool = True) -> torch.Tensor:
    """The pure function that a configuration names, called without the plugin; each row a session of its own."""
    config = load_config(settings)
    method = config.credit.method
    alpha = {"alpha": config.alpha}
    whose = config.credit.length_cost_for
    grouped = {"norm_by_std": norm_by_std, "std_floor": config.credit.std_floor, **alpha}
    priced = {"length_cost": 0.3, "length_cost_for": whose, "max_length": LONGEST}
    grouped |= priced
    bounded = {"length_share": config.credit.length_share, "max_length": LONGEST}
    judged = {"scores": batch.scores, "weights": WEIGHTS, "decay": config.credit.critic_decay, **priced}
    own = {
        "paper": {"ratio_clip": config.credit.ratio_clip, **alpha},
        "episode": {"gamma": config.credit.gamma, "surprise_weights": config.credit.surprise_weights, **grouped},
        "shaped": grouped,
        "critic": judged,
        "guided": {**judged, "std_floor": config.credit.std_floor, **alpha},
        "length_penalty": {"length_penalty": config.credit.length_penalty},
        "adaptive_length_penalty": {"length_cost": 0.3, "max_length": LONGEST},
        "overlong": {**bounded, "norm_by_std": norm_by_std},
        "truncation": bounded,
        "laser_d": {**bounded, "norm_by_std": norm_by_std},
    }[method]
    rows = (batch.rewards.sum(-1), batch.process, batch.episode_ids, batch.mask, batch.old_log_probs, batch.index())
    return getattr(credit, f"{method}_advantages")(*rows, **own)


def test_without_the_trainer_it_says_which_option_to_set():
    batch = rollouts(0)
    arguments = {"token_level_rewards": batch.rewards, "response_mask": batch.mask, "index": batch.index()}
    with pytest.raises(RuntimeError, match=r"trainer\.v1\.trainer_mode=l2t_sync \(and trainer\.use_v1=true\)"):
        get_adv_estimator_fn("l2t")(**arguments, config=None)


@pytest.mark.parametrize("settings", CREDITS.values(), ids=CREDITS)
@pytest.mark.parametrize("seed", range(3))
def test_each_credit_is_the_pure_function(settings, seed):
    """Every setting reaches it: with another credit, alpha, floor, clip, discount or price the result differs."""
    batch = rollouts(seed, shuffled=True)
    found = advantages(batch, settings)
    assert torch.equal(found, pure(batch, settings))
    assert found.dtype == torch.float32
    others = [pure(batch, other) for other in CREDITS.values() if other != settings]
    assert not any(torch.allclose(found, other) for other in others)


@pytest.mark.parametrize(
    ("method", "configured", "charged"),
    [
        ("shaped", None, False),
        ("episode", None, False),
        ("shaped", True, True),
        ("paper", None, True),
        ("paper", False, False),
    ],
)
def test_where_none_is_right_the_penalty_does_not_count(method, configured, charged):
    """The first prompt's rollouts are wrong, padding and order whatever they are; the others' rewards stay as they were."""
    batch = rollouts(3, outputs=2, padding=3, shuffled=True)
    wrong = torch.tensor([key.startswith("prompt3_") for key in batch.keys])
    batch.rewards[wrong] = 0.0
    cost = torch.rand(batch.process.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    settings = {"credit": {"method": method}, "compression": {"in_wrong_groups": configured}}
    with credit_context(batch.context(settings, cost=cost)) as context:
        compute_advantage_for_multi_trajectories(batch.proto(), batch.keys, "l2t", config=OmegaConf.create())
    spared = batch.process if charged else torch.where(wrong[:, None], batch.process + cost, batch.process)
    assert wrong.any() and torch.equal(context.process, spared)
    real = ~batch.is_padding
    assert context.charged == pytest.approx(1.0 if charged else 1.0 - (wrong & real).sum().item() / real.sum().item())
    assert torch.equal(
        context.advantages, advantages(dataclasses.replace(batch, process=spared), {"credit": {"method": method}})
    )


@pytest.mark.parametrize("settings", CREDITS.values(), ids=CREDITS)
def test_padding_rows_get_nothing_and_change_nothing(settings):
    """verl's balancing puts them anywhere. Theirs are the worst rewards, so that a leak would show."""
    batch = rollouts(7, outputs=2, padding=5, shuffled=True)
    batch.rewards[batch.is_padding] = 100.0
    batch.process[batch.is_padding] = -100.0
    batch.mask[batch.is_padding] = 1
    found = advantages(batch, settings)
    assert found[batch.is_padding].abs().max() == 0
    real = batch.taken((~batch.is_padding).nonzero().flatten())
    assert torch.equal(found[~batch.is_padding], advantages(real, settings))
    assert found[~batch.is_padding].abs().max() > 0


def test_padding_in_a_real_prompts_group_changes_nothing_either():
    """The tag decides, not the name."""
    batch = rollouts(8, padding=1)
    real = batch.taken((~batch.is_padding).nonzero().flatten())
    batch.keys[-1] = "prompt3_99_0"
    batch.rewards[-1] = 50.0
    assert torch.equal(advantages(batch, CREDITS["shaped"])[:-1], advantages(real, CREDITS["shaped"]))


@pytest.mark.parametrize("settings", CREDITS.values(), ids=CREDITS)
def test_the_order_of_the_rows_does_not_matter(settings):
    """verl's balancing moves a session's outputs apart and turns their order round."""
    batch = rollouts(9, outputs=3, padding=2)
    order = torch.randperm(len(batch.keys), generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(advantages(batch.taken(order), settings), advantages(batch, settings)[order])


@pytest.mark.parametrize("method", ["episode", "shaped"])
@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_at_alpha_0_it_is_verls_grpo_bit_for_bit(method, norm_by_std, seed):
    """Also with sessions of several outputs, in any order: the last one's outcome is the session's and counts once."""
    settings = {"alpha": 0.0, "credit": {"method": method}}
    for batch in (rollouts(seed), rollouts(seed, outputs=3), rollouts(seed, outputs=3, padding=3, shuffled=True)):
        batch.rewards = batch.rewards * torch.arange(1, len(batch.keys) + 1)[:, None]  # tells a session's outputs apart
        found, real = advantages(batch, settings, norm_by_std=norm_by_std, length_cost=0.0), ~batch.is_padding
        assert torch.equal(found[real], grpo(batch, norm_by_std)[real])


def test_grpo_tells_sessions_from_rows():
    """What the test above compares with is not what verl computes row by row."""
    batch = rollouts(0, outputs=3)
    by_row, _ = get_adv_estimator_fn("grpo")(batch.rewards, batch.mask, batch.index())
    assert not torch.allclose(grpo(batch), by_row)


@pytest.mark.parametrize("method", ["episode", "shaped"])
def test_norm_by_std_is_honoured(method):
    """Only the outcome's part changes by it."""
    batch = rollouts(11, outputs=2, shuffled=True)
    settings = {"alpha": 0.8, "credit": {"method": method}}
    with_std, without = (advantages(batch, settings, norm_by_std=norm) for norm in (True, False))
    torch.testing.assert_close(with_std - without, grpo(batch, True) - grpo(batch, False))
    assert not torch.allclose(with_std, without)


@pytest.mark.parametrize("name", ["overlong", "LASER-D"])
def test_norm_by_std_reaches_the_baselines_that_divide_by_it(name):
    batch = rollouts(11)
    found = advantages(batch, CREDITS[name], norm_by_std=False)
    torch.testing.assert_close(found, pure(batch, CREDITS[name], norm_by_std=False))
    assert not torch.allclose(found, advantages(batch, CREDITS[name], norm_by_std=True))


def test_kl_in_the_reward_is_part_of_the_outcome():
    """verl's own penalty writes on every token; the outcome is their sum."""
    batch = rollouts(12)
    data = batch.proto()
    data.batch["token_level_scores"] = batch.rewards
    data.batch["ref_log_prob"] = batch.old_log_probs - 0.2 * torch.arange(T)
    data, _ = apply_kl_penalty(data, FixedKLController(0.1), "kl")
    penalised = dataclasses.replace(batch, rewards=data.batch["token_level_rewards"])
    assert (penalised.rewards != 0).sum() > 2 * len(batch.keys)
    context = penalised.context(CREDITS["shaped"])
    with credit_context(context):
        get_adv_estimator_fn("l2t")(penalised.rewards, penalised.mask, penalised.index())
    kl = 0.1 * 0.2 * (torch.arange(T) * batch.mask).sum(-1)
    torch.testing.assert_close(context.outcome, batch.rewards.sum(-1) - kl)
    assert torch.equal(context.advantages, pure(penalised, CREDITS["shaped"]))
    assert torch.equal(advantages(penalised, WITHOUT), grpo(penalised))


@pytest.mark.parametrize("settings", CREDITS.values(), ids=CREDITS)
def test_rejected_tokens_get_nothing(settings):
    """verl's rollout correction drops tokens from the mask; advantages and statistics follow the new one."""
    batch = rollouts(13)
    data = batch.proto()
    noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(13))
    data.batch["rollout_log_probs"] = batch.old_log_probs + 0.5 * noise
    correction = OmegaConf.create({"rollout_rs": "token_k1", "rollout_rs_threshold": "0.7_1.4"})
    data, _ = compute_rollout_correction_and_add_to_batch(data, correction)
    mask = data.batch["response_mask"]
    rejected = (batch.mask > 0) & (mask == 0)
    assert 0 < rejected.sum() < batch.mask.sum() / 2
    context = batch.context(settings)
    with credit_context(context):
        data = compute_advantage_for_multi_trajectories(data, batch.keys, "l2t", config=OmegaConf.create())
    assert data.batch["advantages"][rejected].abs().max() == 0
    assert torch.equal(data.batch["advantages"], pure(dataclasses.replace(batch, mask=mask), settings).float())
    assert torch.equal(context.response_mask, mask)  # what the metrics go by


def test_the_context_is_gone_after_its_block_also_after_an_error():
    batch = rollouts(14)
    call = {"token_level_rewards": batch.rewards, "response_mask": batch.mask, "index": batch.index()}
    estimator = get_adv_estimator_fn("l2t")
    context, inner = batch.context(CREDITS["shaped"]), batch.context(WITHOUT)
    with credit_context(context) as entered:
        assert entered is context
        shaped, _ = estimator(**call)
        with pytest.raises(KeyError), credit_context(inner):
            estimator(**call)
            raise KeyError("an error in between")
        assert torch.equal(estimator(**call)[0], shaped)  # the outer one again
    assert torch.equal(inner.advantages, grpo(batch))
    with pytest.raises(RuntimeError, match="trainer_mode=l2t_sync"):
        estimator(**call)
    broken = batch.context(CREDITS["shaped"])
    broken.process = torch.full_like(broken.process, float("nan"))
    with pytest.raises(ValueError, match="process of row 0 is not finite"), credit_context(broken):
        estimator(**call)
    with pytest.raises(RuntimeError, match="trainer_mode=l2t_sync"):
        estimator(**call)


def test_rows_without_any_episode():
    """K = 0: what is left is the outcome, and the price of the tokens."""
    batch = rollouts(15, outputs=2)
    batch.process, batch.episode_ids = torch.zeros(len(batch.keys), 0), torch.full_like(batch.episode_ids, -1)
    assert torch.equal(advantages(batch, CREDITS["episode"], length_cost=0.0), grpo(batch))
    assert torch.equal(advantages(batch, CREDITS["shaped"], length_cost=0.0), grpo(batch))
    assert not torch.equal(advantages(batch, CREDITS["shaped"]), grpo(batch))

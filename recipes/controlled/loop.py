"""The training loop in one process: this project's scores and estimator, verl's advantages, loss and KL.

Ray, the rollout engine and FSDP are left out; what a step computes is verl's (a test compares them).
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, kl_penalty
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

from l2t_verl.compression.beta import with_beta_per_nat
from l2t_verl.config import L2TConfig, load_config
from l2t_verl.credit import CreditInputs, Critic, LengthCost, advantage_health, taught, update_length_cost
from l2t_verl.packing import PackedRow, packed_forward
from l2t_verl.plugin.driver.estimator import CreditContext, credit_context, l2t_advantages
from l2t_verl.plugin.driver.metrics import critic_calibration
from l2t_verl.registry import CRITICS
from recipes.controlled.sampling import Rollout, sample
from recipes.controlled.scoring import Scored, score
from recipes.controlled.settings import FORCING, Settings
from recipes.controlled.task import Problem, problems

CLIP = 1.0  # largest norm of the gradient, as in verl
WEIGHT_DECAY = 0.01


def method(settings: Settings) -> L2TConfig:
    """The method's configuration of a run."""
    tree = dict(settings.l2t)
    config = load_config(tree | {"gain": FORCING | tree.get("gain", {})})
    return with_beta_per_nat(config, settings.limit)


def train(
    settings: Settings,
    model: torch.nn.Module,
    tokenizer: Any,
    report: Callable[[str], None] = print,
    source: Iterator[Problem] | None = None,
) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """Train a start.

    Args:
        settings: of the run.
        model: the start; trained in place.
        tokenizer: its tokenizer.
        report: where a line for each tenth step goes.
        source: of the problems; None: the comparison's training problems, by the seed.

    Returns:
        The start as it was, in the precision of the computation, and what was measured in each step.
    """
    policy = computing(model, settings)
    reference = copy.deepcopy(policy).requires_grad_(False)
    config, loss_config = method(settings), actor_config(settings)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    source = source or problems("train", 1_000_000 + settings.seed)  # the starts were trained on other draws
    curve, length_cost, critic = [], LengthCost.fixed(config.credit.first_length_cost), Critic()
    for step in range(settings.steps):
        started = time.perf_counter()
        asked = [problem for problem in itertools.islice(source, settings.prompts) for _ in range(settings.group)]
        torch.manual_seed(1000 * settings.seed + step)
        rollouts = sample(policy, tokenizer, asked, limit=settings.limit, log_probs=takes_rounding_off(settings, config))
        scored = score(
            policy, reference, tokenizer, rollouts, config, change=settings.change, seed=1000 * settings.seed + step
        )
        advantages, inputs = credited(settings, config, scored, length_cost.value, critic)
        loss = update(policy, optimiser, loss_config, rollouts, scored, advantages, model)
        measured = _measures(rollouts, scored, advantages) | loss | {"length cost": length_cost.value}
        if inputs is not None and config.credit.method in CRITICS:
            measured |= {f"critic {name}": value for name, value in critic_calibration(inputs).items()}
            critic = taught(critic, inputs)
        curve.append(measured | {"seconds": time.perf_counter() - started})
        if (budget := config.credit.token_budget) is not None:
            length_cost = update_length_cost(
                length_cost, mean_correct_tokens(scored), budget, config.credit.length_cost_rate
            )
        if (step + 1) % 10 == 0:
            last = {name: sum(point[name] for point in curve[-10:]) / 10 for name in ("accuracy", "tokens", "kl")}
            report(
                f"{settings.name}: step {step + 1} of {settings.steps}, "
                + ", ".join(f"{k} {v:.3g}" for k, v in last.items())
            )
    return reference, curve


def takes_rounding_off(settings: Settings, config: L2TConfig) -> bool:
    """Whether the penalty is corrected for rounding: as configured, else below float32, as in verl's pipeline."""
    configured = config.compression.rounding_correction
    return settings.compute != "float32" if configured is None else configured


def mean_correct_tokens(scored: Scored) -> float | None:
    """Mean length of the right responses, in tokens; None if there is none."""
    lengths = scored.mask.sum(dim=1)[scored.outcome > 0]
    return lengths.double().mean().item() if len(lengths) else None


def computing(model: torch.nn.Module, settings: Settings) -> torch.nn.Module:
    """The model that computes: `model` itself, or a bfloat16 copy of its weights.

    As with FSDP's mixed precision in verl, only parameters are cast: the tables of positions stay float32.
    """
    if settings.compute == "float32":
        return model
    policy = copy.deepcopy(model)
    for weight in policy.parameters():
        weight.data = weight.data.bfloat16()
    return policy


def compute_advantages(
    settings: Settings, config: L2TConfig, scored: Scored, length_cost: float | None = None
) -> torch.Tensor:
    """[B, T] advantages of the run's estimator as at its first step; λ as configured where none is given."""
    return credited(settings, config, scored, length_cost, Critic())[0]


def credited(
    settings: Settings, config: L2TConfig, scored: Scored, length_cost: float | None, critic: Critic
) -> tuple[torch.Tensor, CreditInputs | None]:
    """[B, T] advantages of the run's estimator, by verl's hook, and what this project's credit was made of, if it is one."""
    rows, index = len(scored.outcome), group_index(settings, len(scored.outcome))
    lengths = scored.mask.sum(dim=1)
    outcome = scored.outcome / lengths if settings.change == "length_factor" else scored.outcome
    rewards = torch.zeros(scored.mask.shape)
    rewards[torch.arange(rows), lengths - 1] = outcome
    if settings.kl_in_reward:
        rewards -= settings.kl_in_reward * kl_penalty(scored.old_log_probs, scored.ref_log_probs, "kl") * scored.mask
    if settings.estimator == "grpo":
        norm = {"norm_adv_by_std_in_grpo": settings.norm_by_std}
        return compute_grpo_outcome_advantage(rewards, scored.mask, index, **norm)[0], None
    context = CreditContext(
        config=config,
        process=scored.process,
        cost=scored.cost,
        episode_ids=scored.episode_ids,
        old_log_probs=scored.old_log_probs,
        is_padding=torch.zeros(rows, dtype=torch.bool),
        sessions=np.arange(rows).astype(str).astype(object),
        outputs=np.zeros(rows, dtype=int),
        length_cost=config.credit.first_length_cost if length_cost is None else length_cost,
        max_length=settings.limit,
        norm_by_std=settings.norm_by_std,
        scores=scored.scores,
        critic_weights=critic.weights,
    )
    with credit_context(context):
        return l2t_advantages(rewards, scored.mask, index)[0], context.inputs


def group_index(settings: Settings, rows: int) -> np.ndarray:
    """Which problem each row answers."""
    return np.repeat(np.arange(rows // settings.group), settings.group).astype(str).astype(object)


def actor_config(settings: Settings) -> ActorConfig:
    """What verl's loss reads."""
    return ActorConfig(
        strategy="fsdp2",
        rollout_n=settings.group,
        ppo_mini_batch_size=settings.prompts,
        ppo_micro_batch_size_per_gpu=settings.prompts * settings.group,
        use_kl_loss=settings.kl_loss > 0,
        kl_loss_coef=settings.kl_loss,
        loss_agg_mode=settings.loss_agg_mode,
        loss_scale_factor=settings.limit if settings.loss_agg_mode == "seq-mean-token-sum-norm" else None,
    )


def update(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    config: ActorConfig,
    rollouts: list[Rollout],
    scored: Scored,
    advantages: torch.Tensor,
    master: torch.nn.Module | None = None,
) -> dict[str, float]:
    """One step on all rollouts, by verl's loss.

    Args:
        model: computes the loss and its gradient.
        optimiser: of the weights of `master`.
        config: what verl's loss reads.
        rollouts: whole groups.
        scored: of these rollouts.
        advantages: [B, T].
        master: float32 weights that take the gradient and are then copied to `model`; None: the model's own.
    """
    master = model if master is None else master
    rows = [PackedRow([*r.prompt, *r.response], first=len(r.prompt)) for r in rollouts]
    model.train()
    tokens = packed_forward(model, rows).tokens
    # verl's engines give a value for each position: the log-prob of the token after it
    whole = [torch.nn.functional.pad(values, (len(r.prompt) - 1, 1)) for r, values in zip(rollouts, tokens, strict=True)]
    lengths = [len(r.response) for r in rollouts]
    of_rows = lambda tensor: [values[:n] for values, n in zip(tensor.to(tokens[0].device), lengths, strict=True)]  # noqa: E731
    columns = {
        "prompts": [torch.tensor(r.prompt, device=tokens[0].device) for r in rollouts],
        "responses": [torch.tensor(r.response, device=tokens[0].device) for r in rollouts],
        "response_mask": of_rows(scored.mask),
        "old_log_probs": of_rows(scored.old_log_probs),
        "advantages": of_rows(advantages),
        "ref_log_prob": of_rows(scored.ref_log_probs),
    }
    nested = lambda parts: torch.nested.as_nested_tensor(parts, layout=torch.jagged)  # noqa: E731
    data = TensorDict({name: nested(parts) for name, parts in columns.items()}, batch_size=len(rollouts))
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=sum(lengths), global_batch_size=len(rollouts))
    loss, _ = ppo_loss(config, {"log_probs": nested(whole)}, data)
    optimiser.zero_grad()
    loss.backward()
    pairs = [] if master is model else list(zip(master.parameters(), model.parameters(), strict=True))
    for weight, computed in pairs:
        weight.grad = None if computed.grad is None else computed.grad.float()
        computed.grad = None
    norm = torch.nn.utils.clip_grad_norm_(master.parameters(), CLIP)
    optimiser.step()
    with torch.no_grad():
        for weight, computed in pairs:
            computed.copy_(weight)
    return {"loss": loss.item(), "gradient norm": norm.item()}


def _measures(rollouts: list[Rollout], scored: Scored, advantages: torch.Tensor) -> dict[str, float]:
    counts = torch.tensor([len(ends) for ends in scored.ends]).double()
    mask, rows = scored.mask > 0, torch.arange(len(rollouts))
    health = advantage_health(advantages, scored.process, scored.episode_ids, scored.mask)
    return {
        "accuracy": scored.outcome.mean().item(),
        "tokens": mask.sum().item() / len(rollouts),
        "correct tokens": float("nan") if (tokens := mean_correct_tokens(scored)) is None else tokens,
        "episodes": counts.mean().item(),
        "J start": scored.scores[:, 0].mean().item(),
        "J end": scored.scores[rows, counts.long()].mean().item(),
        "gain": scored.gains.sum().item() / max(counts.sum().item(), 1.0),
        "penalty": scored.penalty.sum().item() / max(counts.sum().item(), 1.0),
        "kl": ((scored.old_log_probs - scored.ref_log_probs) * scored.mask).sum().item() / len(rollouts),
        "entropy": -scored.old_log_probs[mask].mean().item(),
    } | {f"advantage {name}": value for name, value in health.items()}

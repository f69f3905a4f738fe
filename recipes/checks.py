"""What can be known of a recipe's configuration before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from l2t_verl.registry import BASELINES
from recipes.arithmetic import GIB, GPUS, ModelShape, Plan, lora_rank, memory, shape_of

SUFFIX = 32  # tokens of a forcing suffix, at most
MOVED = (0.001, 0.01)  # nats a token by which a policy has moved early and late in a run, for the penalty's sums
LARGE_SHARE = 0.9  # of the penalty in the reward, early
WITHOUT_PROCESS_REWARDS = ("critic", *BASELINES)  # credits that the penalty is no part of


def gpus_of(name: str) -> float:
    """Bytes of one GPU, from its name or from GiB.

    Raises:
        SystemExit: neither.
    """
    try:
        return GPUS.get(name, 0) * GIB or float(name) * GIB
    except ValueError:
        raise SystemExit(f"launch: --gpu {name}: known are {', '.join(GPUS)}; else give GiB") from None


def plan_of(config: Any, gpu_memory: float) -> Plan:
    """What the arithmetic needs of verl's configuration."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    longest = config.data.max_prompt_length + config.data.max_response_length
    l2t, ref = config.algorithm.get("l2t") or {}, config.actor_rollout_ref.ref
    return Plan(
        gpus=config.trainer.nnodes * config.trainer.n_gpus_per_node,
        memory=gpu_memory,
        tensor_parallel=rollout.tensor_model_parallel_size,
        utilization=rollout.gpu_memory_utilization,
        update_tokens=actor.ppo_max_token_len_per_gpu,
        scoring_tokens=(l2t.get("gain") or {}).get("max_tokens_per_micro_batch", 16384),
        longest=longest,
        rank=lora_rank(config),
        log_prob_tokens=rollout.log_prob_max_token_len_per_gpu,
        scaled=rollout.temperature != 1,
        chunked=actor.fsdp_config.entropy_from_logits_with_chunking,
        reference=(actor.use_kl_loss or l2t.get("beta", 1.2) > 0)
        and ref.strategy != "fsdp2"
        and not ref.fsdp_config.param_offload,
        offloaded=actor.fsdp_config.param_offload and actor.fsdp_config.optimizer_offload,
    )


def memory_lines(config: Any, gpu_memory: float) -> list[str]:
    """The memory of one GPU, as text."""
    path = config.actor_rollout_ref.model.path
    model = shape_of(path)
    if model is None:
        return [f"memory: the shape of {path} is not known here, so nothing is worked out; a local folder's would be read"]
    plan = plan_of(config, gpu_memory)
    lines = [
        f"memory of one GPU of {plan.gpus}, {gpu_memory / GIB:.0f} GiB each, for {model.parameters / 1e9:.2f} billion "
        "parameters (arithmetic, recipes/arithmetic.py):"
    ]
    return lines + [f"  {value / GIB:8.1f} GiB  {name}" for name, value in memory(model, plan).items()]


def penalty_lines(config: Any) -> list[str]:
    """What share of the process reward the penalty has by arithmetic, as text; nothing where it is not trained with."""
    from l2t_verl.compression.beta import beta_per_nat
    from l2t_verl.plugin.settings import read_config

    l2t, longest = read_config(config), config.data.max_response_length
    if config.algorithm.adv_estimator != "l2t" or l2t.credit.method in WITHOUT_PROCESS_REWARDS or l2t.beta == 0:
        return []
    beta = beta_per_nat(l2t, longest)
    costs = [beta * nats * longest for nats in MOVED]
    shares = [cost / (cost + 1) for cost in costs]  # against gains of 1, the most that those of a response can sum to
    sums = "; ".join(
        f"at a KL of {nats} nats a token {cost:.2g} J, {share:.0%} of the reward"
        for nats, cost, share in zip(MOVED, costs, shares, strict=True)
    )
    lines = [f"penalty: {beta:.3g} J per nat; a response of {longest} tokens costs, against gains of 1 J at most, {sums}"]
    if shares[0] > LARGE_SHARE:
        lines.append(
            f"note: the reward will be nearly all penalty; lower algorithm.l2t.beta={l2t.beta:g}, or set "
            "algorithm.l2t.beta_unit=length"
        )
    return lines


def problems_of(config: Any, gpu_memory: float) -> list[str]:
    """Why this would not train, each with what to set."""
    from l2t_verl.config import ConfigError
    from l2t_verl.plugin.driver.refusals import check_verl_config
    from l2t_verl.plugin.settings import read_config

    problems = []
    try:
        check_verl_config(config, read_config(config))
    except ConfigError as error:
        problems.append(str(error))
    model = shape_of(config.actor_rollout_ref.model.path)
    problems += _batches(config, model)
    problems += _lengths(config, model)
    if model is not None:
        problems += _memory(model, plan_of(config, gpu_memory))
    return problems


def _batches(config: Any, model: ModelShape | None) -> Iterator[str]:
    data, rollout, mini = config.data, config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor.ppo_mini_batch_size
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if data.train_batch_size * rollout.n % gpus:
        yield (
            f"data.train_batch_size={data.train_batch_size} × rollout.n={rollout.n} rollouts do not divide by {gpus} GPUs; "
            f"take a batch that is a multiple of {gpus}"
        )
    if data.train_batch_size % mini:
        yield f"data.train_batch_size={data.train_batch_size} is no multiple of actor.ppo_mini_batch_size={mini}"
    if mini * rollout.n % gpus:
        yield f"actor.ppo_mini_batch_size={mini} × rollout.n={rollout.n} does not divide by {gpus} GPUs"
    if gpus % rollout.tensor_model_parallel_size:
        yield f"rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not divide {gpus} GPUs"
    if model is not None and model.heads % rollout.tensor_model_parallel_size:
        yield (
            f"rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not divide the model's "
            f"{model.heads} heads; take one of {', '.join(str(n) for n in range(1, 17) if model.heads % n == 0)}"
        )


def _lengths(config: Any, model: ModelShape | None) -> Iterator[str]:
    data, rollout, actor = config.data, config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    from l2t_verl.plugin.settings import sequence_parallel_size

    longest = data.max_prompt_length + data.max_response_length
    gain = (config.algorithm.get("l2t") or {}).get("gain") or {}
    sampled = gain.get("kind") == "monte_carlo"
    needed = longest + (SUFFIX + gain.get("sample_tokens", 32) if sampled else 0)
    if rollout.max_model_len is not None and rollout.max_model_len < needed:
        what = "prompt, response and a forced answer" if sampled else "prompt and response"
        yield (
            f"rollout.max_model_len={rollout.max_model_len} is less than {what} ({needed}); "
            f"set actor_rollout_ref.rollout.max_model_len={needed}"
        )
    if actor.use_dynamic_bsz and actor.ppo_max_token_len_per_gpu * sequence_parallel_size(config) < longest:
        yield (
            f"actor.ppo_max_token_len_per_gpu={actor.ppo_max_token_len_per_gpu} is less than the longest sequence "
            f"({longest}); set it to {longest} or more"
        )
    if model is not None and longest > model.positions:
        yield f"prompt and response ({longest} tokens) are more than the model's {model.positions} positions"


def _memory(model: ModelShape, plan: Plan) -> Iterator[str]:
    remedies = {
        "margin, updating": "lower actor.ppo_max_token_len_per_gpu, or take more GPUs",
        "margin, old log-probs": "set actor_rollout_ref.actor.entropy_from_logits_with_chunking=True, or lower "
        "rollout.log_prob_max_token_len_per_gpu",
        "margin, scoring": "lower algorithm.l2t.gain.max_tokens_per_micro_batch",
        "margin, sampling": "lower rollout.gpu_memory_utilization, or offload the actor meanwhile: shrink=offload",
        "margin, KV cache for one response": "raise rollout.gpu_memory_utilization or tensor_model_parallel_size",
    }
    held = memory(model, plan)
    for name, remedy in remedies.items():
        if held[name] < 0:
            missing = f"{-held[name] / GIB:.1f} GiB are missing ({name.removeprefix('margin, ')})"
            yield f"a GPU of {plan.memory / GIB:.0f} GiB is too small: {missing}; {remedy}"

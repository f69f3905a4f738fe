"""What is refused before anything is started, and what is warned of: verl's whole configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from l2t_verl.compression import ESTIMATORS
from l2t_verl.config import ConfigError, L2TConfig
from l2t_verl.patches import on_cpu_platform
from l2t_verl.plugin import settings
from l2t_verl.plugin.driver import checkpoints

logger = logging.getLogger(__name__)

REFUSED_PACKED = (
    "algorithm.l2t.gain.backend=packed: {}, so rows cannot be packed; leave it out, or set it to expanded, and each forced "
    "answer is a sequence of its own, some 15 times as slow"
)


WITHOUT_CORRECTION = (
    "or algorithm.l2t.beta=0; algorithm.l2t.compression.rounding_correction=False takes the penalty with its rounding, "
    "which in bfloat16 is most of it"
)
NO_LOG_PROBS = (
    "the rollouts came without rollout_log_probs, which take rounding off the penalty: let the agent loop return them, "
    + WITHOUT_CORRECTION
)
# What leaves the rollout engine's log-probs those of the actor's distribution
WHOLE_SOFTMAX = {"top_p": 1, "top_k": -1, "logprobs_mode": "processed_logprobs"}


def check_verl_config(config: DictConfig, l2t: L2TConfig) -> None:
    """Refuse what could not train, all in one message; warn of what trains but is probably not meant.

    Raises:
        ConfigError: each problem with the option to set.
    """
    from verl.trainer.ppo.utils import need_reference_policy  # heavy, and the launcher's dry run reads this too

    problems = list(_problems(config, l2t))
    if problems:
        raise ConfigError("L2T cannot train with this configuration:\n" + "\n".join(f"  {line}" for line in problems))
    if OmegaConf.select(config, "algorithm.filter_groups.enable", default=False):
        logger.warning(
            "algorithm.filter_groups drops groups whose outcomes are all equal; the process reward still tells their "
            "rollouts apart. Set algorithm.filter_groups.enable=False to train on them."
        )
    if config.algorithm.adv_estimator != "l2t":
        logger.warning(
            "algorithm.adv_estimator=%s: L2T's rewards are measured and reported, but not trained with",
            config.algorithm.adv_estimator,
        )
    provided = l2t.beta > 0 and l2t.compression.estimator in ESTIMATORS
    beside = (provided or need_reference_policy(config)) and config.actor_rollout_ref.get("hybrid_engine", True)
    if l2t.diagnostics.displacement and (settings.uses_lora(config) or not beside):
        logger.warning(
            "algorithm.l2t.diagnostics.displacement will be NaN: there is no reference policy beside the actor to compare "
            "its weights with (LoRA, no hybrid engine, or neither KL nor a penalty from log-ratios)"
        )
    if l2t.alpha == 0:
        logger.warning("algorithm.l2t.alpha=0: the process reward has no weight")


def _problems(config: DictConfig, l2t: L2TConfig) -> Iterator[str]:
    select = lambda path, default=None: OmegaConf.select(config, path, default=default)  # noqa: E731
    wanted = {"name": "l2t", "source": "register"}
    if any(select(f"reward.reward_manager.{key}") != value for key, value in wanted.items()):
        options = " ".join(f"reward.reward_manager.{key}={value}" for key, value in wanted.items())
        yield f"the episodes come from L2T's reward manager, but another is configured; set {options}"
    if select("reward.reward_model.enable", False) and not (
        select("reward.reward_model.enable_resource_pool", False) and select("reward.custom_reward_function.path")
    ):
        yield (
            "reward.reward_model.enable=True by-passes the reward manager; use it from a "
            "reward.custom_reward_function.path, with reward.reward_model.enable_resource_pool=True"
        )
    mode = settings.base_mode(select("trainer.v1.trainer_mode", "sync"))
    hybrid = select("actor_rollout_ref.hybrid_engine", True)
    if not hybrid and mode != "separate_async":
        yield "actor_rollout_ref.hybrid_engine=False works with l2t_separate_async only; set it to True"
    elif not hybrid and logging.getLogger("verl.trainer.ppo.v1.trainer_separate_async").isEnabledFor(logging.INFO):
        yield (
            "actor_rollout_ref.hybrid_engine=False: verl 0.9.1 logs a line there with an argument that logging refuses, and "
            "ends; set VERL_LOGGING_LEVEL=WARN in the environment"
        )
    if mode != "sync" and not select("actor_rollout_ref.rollout.calculate_log_probs", False):
        yield (
            "rollouts may be older than the weights that they train, and count by the log-probs that they were sampled "
            "with: set actor_rollout_ref.rollout.calculate_log_probs=True"
        )
    if l2t.checkpoints.keep_last is not None and select("trainer.max_actor_ckpt_to_keep") is not None:
        yield "algorithm.l2t.checkpoints.keep_last and verl's trainer.max_actor_ckpt_to_keep are both set; leave one at null"
    if problem := checkpoints.world_size_problem(config.trainer):
        yield problem
    if settings.asks_for_packed(l2t) and (reason := settings.why_no_packed_engine(config)):
        yield REFUSED_PACKED.format(reason)
    if l2t.gain.fused and (reason := settings.why_not_fused(config, l2t)):
        yield f"algorithm.l2t.gain.fused=True: {reason}; leave it at null"
    strategy = select("actor_rollout_ref.actor.strategy")
    diagnostics = [f"algorithm.l2t.diagnostics.{name}" for name, is_set in l2t.diagnostics if is_set]
    if diagnostics and strategy != "fsdp2":
        yield (
            f"{', '.join(diagnostics)}: reads the parameters of an FSDP2 engine, but "
            f"actor_rollout_ref.actor.strategy={strategy}; set it to False, or the strategy to fsdp2"
        )
    attention = select("actor_rollout_ref.model.override_config.attn_implementation", "flash_attention_2")
    if (size := settings.sequence_parallel_size(config)) > 1 and attention in ("sdpa", "eager"):
        yield (
            f"actor_rollout_ref.model.override_config.attn_implementation={attention}: under Ulysses over {size} ranks verl "
            "exchanges the parts of a sequence in flash-attention only, and each rank would attend to its own part alone, "
            "without a word: set it to flash_attention_2, or actor_rollout_ref.actor.ulysses_sequence_parallel_size=1 and "
            "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=1"
        )
    rollout = config.actor_rollout_ref.rollout
    for name, value in WHOLE_SOFTMAX.items() if settings.corrects_rounding(config, l2t) else ():
        if rollout.get(name, value) != value:
            yield (
                f"actor_rollout_ref.rollout.{name}={rollout[name]}: the rollout engine's log-probs are then not the "
                f"actor's, and rounding cannot be told from the penalty; set it to {value}, {WITHOUT_CORRECTION}"
            )
    estimator = l2t.compression.estimator
    if estimator not in ESTIMATORS and l2t.beta > 0:
        if strategy != "fsdp2":
            yield (
                f"algorithm.l2t.compression.estimator={estimator} shifts the parameters of an FSDP2 engine, but "
                f"actor_rollout_ref.actor.strategy={strategy}; set it to fsdp2, or take log_ratio"
            )
        ranks = select("trainer.n_gpus_per_node", 1) * select("trainer.nnodes", 1)
        if (size := settings.sequence_parallel_size(config)) > 1:
            yield (
                f"algorithm.l2t.compression.estimator={estimator} needs log-probs on every rank, but Ulysses over {size} "
                "ranks leaves them on one of them: set actor_rollout_ref.actor.ulysses_sequence_parallel_size=1 and "
                "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=1, or take log_ratio"
            )
        if estimator == "exact" and ranks > 1:
            yield (
                f"algorithm.l2t.compression.estimator=exact works on one rank only, but there are {ranks}: FSDP averages "
                "gradients over ranks; take directional"
            )
    if on_cpu_platform() and strategy != "fsdp2":
        yield f"actor_rollout_ref.actor.strategy={strategy} needs a GPU (VERL_PLATFORM=cpu is set); set it to fsdp2"
    if l2t.credit.token_budget is not None and l2t.credit.token_budget > select("data.max_response_length"):
        yield (
            f"algorithm.l2t.credit.token_budget={l2t.credit.token_budget} is above "
            f"data.max_response_length={select('data.max_response_length')}; no response can exceed it"
        )


def check_versions(found: list[str], expected: str) -> None:
    """Refuse to train with different versions of the plugin on different nodes.

    Raises:
        RuntimeError: naming the versions and the remedy.
    """
    others = sorted({version for version in found if version != expected})
    if others:
        raise RuntimeError(
            f"l2t_verl {expected} runs in the trainer, but {', '.join(others)} on a worker's node: install the same "
            "version on every node"
        )

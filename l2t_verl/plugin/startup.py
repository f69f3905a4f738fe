"""Checks of verl's whole configuration before anything is started, and the changes that L2T needs in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from l2t_verl import sandbox
from l2t_verl.compression import ESTIMATORS
from l2t_verl.config import ConfigError, L2TConfig, load_config, why_no_forward_to_share
from l2t_verl.gain import ForcingTemplate, answer_target
from l2t_verl.grading import GradeResult, grade_code_score, grade_math_score
from l2t_verl.patches import on_cpu_platform
from l2t_verl.plugin import fields, rounding

logger = logging.getLogger(__name__)

REFUSED_PACKED = (
    "algorithm.l2t.gain.backend=packed: {}, so rows cannot be packed; leave it out, or set it to expanded, and each forced "
    "answer is a sequence of its own, some 15 times as slow"
)
LONGEST_GRADED = 200  # characters of a ground truth that is an answer
SAMPLING_MANAGER = "l2t_verl.plugin.agent_loop.L2TAgentLoopManager"


def read_config(config: DictConfig) -> L2TConfig:
    """The method's configuration from `algorithm.l2t` of verl's.

    Raises:
        ConfigError: see `l2t_verl.config.load_config`.
    """
    node = OmegaConf.select(config, "algorithm.l2t")
    raw: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return load_config(raw)


def check_verl_config(config: DictConfig, l2t: L2TConfig) -> None:
    """Refuse what could not train, all in one message; warn of what trains but is probably not meant.

    Raises:
        ConfigError: each problem with the option to set.
    """
    from verl.trainer.ppo.utils import need_reference_policy  # heavy, and the reward workers import this module too

    problems = [*_problems(config, l2t), *rounding.problems(config, l2t)]
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
    if l2t.diagnostics.displacement and (uses_lora(config) or not beside):
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
    mode = base_mode(select("trainer.v1.trainer_mode", "sync"))
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
    if asks_for_packed(l2t) and (reason := _why_no_packed_engine(config)):
        yield REFUSED_PACKED.format(reason)
    if l2t.gain.fused and (reason := why_not_fused(config, l2t)):
        yield f"algorithm.l2t.gain.fused=True: {reason}; leave it at null"
    strategy = select("actor_rollout_ref.actor.strategy")
    diagnostics = [f"algorithm.l2t.diagnostics.{name}" for name, is_set in l2t.diagnostics if is_set]
    if diagnostics and strategy != "fsdp2":
        yield (
            f"{', '.join(diagnostics)}: reads the parameters of an FSDP2 engine, but "
            f"actor_rollout_ref.actor.strategy={strategy}; set it to False, or the strategy to fsdp2"
        )
    estimator = l2t.compression.estimator
    if estimator not in ESTIMATORS and l2t.beta > 0:
        if strategy != "fsdp2":
            yield (
                f"algorithm.l2t.compression.estimator={estimator} shifts the parameters of an FSDP2 engine, but "
                f"actor_rollout_ref.actor.strategy={strategy}; set it to fsdp2, or take log_ratio"
            )
        ranks = select("trainer.n_gpus_per_node", 1) * select("trainer.nnodes", 1)
        if (size := sequence_parallel_size(config)) > 1:
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


def why_not_fused(config: DictConfig, l2t: L2TConfig) -> str | None:
    """Why scores and verl's old log-probs cannot come from one forward; None if they can."""
    if bypasses_old_log_probs(config):
        return "verl's bypass mode computes no old log-probs"
    return _why_no_packed_engine(config) or why_no_forward_to_share(l2t)


def _why_no_packed_engine(config: DictConfig) -> str | None:
    strategy = config.actor_rollout_ref.actor.strategy
    if strategy not in ("fsdp", "fsdp2"):
        return f"the {strategy} engine has a forward of its own"
    return "Ulysses splits the sequence over ranks" if sequence_parallel_size(config) > 1 else None


def asks_for_packed(l2t: L2TConfig) -> bool:
    """Whether packed rows were asked for in so many words, and are not the default; sampled answers have no rows."""
    return l2t.gain.backend == "packed" and "backend" in l2t.gain.model_fields_set and l2t.gain.kind != "monte_carlo"


def check_data(
    datasets: Mapping[str, Any], config: DictConfig, l2t: L2TConfig, tokenizer: Any, context_length: int | None
) -> None:
    """Refuse data that could not be scored, all in one message; warn of what could be scored in part only.

    Rows without a ground truth are refused, unless a custom reward function is there to grade them; so are images, and
    prompts or answers that the model has no positions for.

    Args:
        datasets: verl's datasets by the name of the option that they come from; one without a `dataframe` (a custom
            class) is not looked at.
        config: verl's whole configuration.
        l2t: the method's.
        tokenizer: the model's.
        context_length: the longest sequence that the model has positions for, in tokens; None if it does not say.

    Raises:
        ConfigError: each problem with the rows and the remedy.
    """
    problems: list[str] = []
    answers: list[str] = []
    examples: dict[str, tuple[str, Any]] = {}  # an answer of each data source with its tests, where answers are sampled
    custom = config.reward.custom_reward_function.path is not None
    for option, dataset in datasets.items():
        frame = getattr(dataset, "dataframe", None)
        if frame is None:
            logger.warning("%s: %s has no dataframe; its rows are not checked", option, type(dataset).__name__)
            continue
        found, missing = _ground_truths(frame)
        answers += found
        if l2t.gain.kind == "monte_carlo" and {"data_source", "reward_model"} <= set(frame.column_names):
            examples |= _examples(frame)
        if not custom:
            problems += _tests_problems(option, frame, l2t)
        if missing:
            text = f"{option}: {len(missing)} of {len(frame)} rows have no ground truth (rows {_some(missing)})"
            if not custom:
                problems.append(f"{text}; fill reward_model.ground_truth or drop them")
            else:
                logger.warning("%s; they get no process reward and count in l2t/skipped/no_ground_truth", text)
        pictured = [key for key in ("image_key", "video_key", "audio_key") if _has_media(frame, config.data.get(key))]
        if pictured:
            problems.append(f"{option}: rows carry {config.data[pictured[0]]}; L2T scores text only, drop the column")
    if context_length is not None and answers:
        problems += _room_problems(config, l2t, tokenizer, context_length, answers)
    if not custom:
        problems += _grading_problems(l2t, examples)
    if problems:
        raise ConfigError("L2T cannot train on this data:\n" + "\n".join(f"  {line}" for line in problems))


def _ground_truths(frame: Any) -> tuple[list[str], list[int]]:
    """The accepted answers of all rows, and the rows that have none."""
    if "reward_model" not in frame.column_names:
        return [], list(range(len(frame)))
    accepted = [fields.accepted_answers(fields.ground_truth_of(item)) for item in frame["reward_model"]]
    return [text for texts in accepted for text in texts], [row for row, texts in enumerate(accepted) if not texts]


def _examples(frame: Any) -> dict[str, tuple[str, Any]]:
    """The first answer of each data source, with its tests."""
    found: dict[str, tuple[str, Any]] = {}
    for source, item, tests in zip(frame["data_source"], frame["reward_model"], _tests(frame), strict=True):
        if source not in found and (accepted := fields.accepted_answers(fields.ground_truth_of(item))):
            found[source] = accepted[0], tests
    return found


def _tests(frame: Any) -> list[Any]:
    """The tests of each row; None where it has none."""
    rows = frame["extra_info"] if "extra_info" in frame.column_names else [None] * len(frame)
    return [(row or {}).get("tests") for row in rows]


def _tests_problems(option: str, frame: Any, l2t: L2TConfig) -> Iterator[str]:
    """Whether rows that are graded by tests have some, and whether this machine can run them."""
    if l2t.outcome.grader not in ("auto", "tests"):
        return
    tests = _tests(frame)
    without = [row for row, of in enumerate(tests) if not of]
    if l2t.outcome.grader == "tests" and without:
        yield (
            f"{option}: {len(without)} of {len(tests)} rows have no extra_info.tests (rows {_some(without)}) for "
            "algorithm.l2t.outcome.grader=tests; build the data with python -m l2t_verl.data, or take another grader"
        )
    if len(without) < len(tests):
        try:
            sandbox.require()
        except sandbox.SandboxError as error:
            yield f"{option}: rows have tests, and {error}"


def _grading_problems(l2t: L2TConfig, examples: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    """Whether a right answer, forced and closed as samples are, is graded as right: else J would always be 0."""
    from l2t_verl.plugin.reward_manager import knows, verl_score

    for source, (answer, tests) in examples.items():
        text = f"{l2t.gain.forcing_suffix}{answer}{l2t.gain.closing}"
        by_tests = tests and l2t.outcome.grader in ("auto", "tests")
        if len(answer) > LONGEST_GRADED and not by_tests:  # tests of a program, not an answer to be written down
            continue
        by_verl = l2t.outcome.grader == "verl" or (l2t.outcome.grader == "auto" and knows(source))
        try:
            if by_tests:
                result = grade_code_score(text, tests)
            else:
                result = verl_score(source, text, answer, None) if by_verl else grade_math_score(text, [answer])
            accuracy = GradeResult.of(result).accuracy
        except Exception as error:
            logger.warning("the forced answer %r of %s could not be graded: %s", text, source, error)
            continue
        if accuracy <= 0:
            grader = "the sandbox" if by_tests else "verl's scorer" if by_verl else "math-verify"
            yield (
                f"data source {source}: {grader} grades the right answer as wrong when it is forced ({text!r}), so "
                "gain.kind=monte_carlo would always score 0; set algorithm.l2t.gain.forcing_suffix and closing to what it "
                "reads, or algorithm.l2t.outcome.grader=math_verify"
            )


def _has_media(frame: Any, column: str | None) -> bool:
    return column in frame.column_names and any(item is not None and len(item) > 0 for item in frame[column])


def _room_problems(
    config: DictConfig, l2t: L2TConfig, tokenizer: Any, context_length: int, answers: list[str]
) -> Iterator[str]:
    """Whether prompt, response and forced answer fit the model's positions together."""
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    if prompt >= context_length:
        yield f"data.max_prompt_length={prompt} leaves no room for a response: the model has {context_length} positions"
        return
    template = ForcingTemplate.from_config(l2t.gain)
    longest = max(answers, key=len)
    target = answer_target(tokenizer, longest, suffix=template.forcing("none"), closing=template.closing)
    needed = len(target.suffix_ids) + len(target.answer_ids)
    if prompt + needed > context_length:
        yield (
            f"the longest ground truth ({longest[:40]!r}) takes {needed} tokens when it is forced, which do not fit after "
            f"data.max_prompt_length={prompt}: the model has {context_length} positions; lower it, or drop such rows"
        )
    elif prompt + response + needed > context_length:
        logger.warning(
            "a response of data.max_response_length=%d may leave no room for its answer (%d tokens): the model has %d "
            "positions. Such rows get no process reward and count in l2t/skipped/answer_too_long.",
            *(response, needed, context_length),
        )


def context_length(model_config: Any) -> int | None:
    """The longest sequence that the model of verl's `HFModelConfig` has positions for; None if it does not say.

    Positions that are scaled (YaRN and the like) reach as far as the factor takes the original ones.
    """
    config = model_config.hf_config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(config, "max_position_embeddings", None)
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if positions is None or not isinstance(scaling, Mapping) or not scaling.get("factor"):
        return positions
    original = scaling.get("original_max_position_embeddings") or positions
    return max(positions, int(original * scaling["factor"]))


def _some(rows: list[int], most: int = 5) -> str:
    return ", ".join(map(str, rows[:most])) + (", …" if len(rows) > most else "")


def sequence_parallel_size(config: DictConfig) -> int:
    """Ranks over which Ulysses splits the actor's sequences; verl takes the first of two keys that is above 1."""
    actor = config.actor_rollout_ref.actor
    outer, inner = (
        OmegaConf.select(actor, f"{node}ulysses_sequence_parallel_size", default=1) or 1 for node in ("", "fsdp_config.")
    )
    return outer if outer > 1 else inner


def bypasses_old_log_probs(config: DictConfig) -> bool:
    """Whether verl takes the rollout engine's log-probs for the old ones instead of computing them."""
    return bool(OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode", default=False))


def uses_lora(config: DictConfig) -> bool:
    """Whether an adapter is trained; the reference policy is then the base model, inside the actor."""
    model = config.actor_rollout_ref.model
    rank = model.get("lora", {}).get("rank", 0) or model.get("lora_rank", 0)
    return rank > 0 or model.get("lora_adapter_path") is not None


def provide_agent_loop_manager(config: DictConfig, l2t: L2TConfig) -> None:
    """Let the agent loops sample answers where J is made of them."""
    if l2t.gain.kind != "monte_carlo":
        return
    agent = config.actor_rollout_ref.rollout.agent
    configured = agent.get("agent_loop_manager_class")
    if configured in (None, SAMPLING_MANAGER):
        with open_dict(agent):
            agent.agent_loop_manager_class = SAMPLING_MANAGER
    else:
        logger.warning(
            "algorithm.l2t.gain.kind=monte_carlo: agent_loop_manager_class=%s has to sample the answers itself, as %s does; "
            "rows without them count in l2t/skipped/not_sampled",
            configured,
            SAMPLING_MANAGER,
        )


def provide_reference_config(config: DictConfig) -> None:
    """Give the reference policy the batch size of the actor's log-probs where the configuration has none."""
    ref, rollout = config.actor_rollout_ref.ref, config.actor_rollout_ref.rollout
    with open_dict(ref):
        if ref.get("log_prob_micro_batch_size_per_gpu") is None and ref.get("log_prob_micro_batch_size") is None:
            ref.log_prob_micro_batch_size_per_gpu = rollout.log_prob_micro_batch_size_per_gpu
        if not ref.get("log_prob_use_dynamic_bsz") and rollout.get("log_prob_use_dynamic_bsz"):
            ref.log_prob_use_dynamic_bsz = True
            ref.log_prob_max_token_len_per_gpu = rollout.log_prob_max_token_len_per_gpu


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


def base_mode(name: str) -> str:
    """Verl's own name of an L2T trainer mode.

    Example:
        >>> base_mode("l2t_sync")
        'sync'
    """
    return re.sub(r"^l2t_", "", name)

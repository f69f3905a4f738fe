"""The configuration tree, read from `algorithm.l2t` of verl's configuration.

Every field has a sentence, a unit where it has one, and bounds. `load_config` reports all problems of a
configuration in one message, each under its dotted path, so that nobody fixes them one failed start at a time.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from l2t_verl.registry import (
    CREDITS,
    CRITICS,
    GRADERS,
    KINDS,
    NO_FALLBACKS,
    PENALTIES,
    SEGMENTERS,
    load_plugins,
    option_models,
)

ROOT = "algorithm.l2t"


class ConfigError(ValueError):
    """A configuration that cannot be trained with; the message lists every problem with its dotted path."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _visible(text: str) -> str:
    if not text.strip():
        raise ValueError("must hold more than white space")
    return text


def _regular(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return text


Real = Annotated[float, AfterValidator(_finite)]
Mark = Annotated[str, AfterValidator(_visible)]
Pattern = Annotated[str, AfterValidator(_regular)]


def _kind(name: str) -> str:
    return KINDS.check(name, beside=["monte_carlo"])


def _estimator(name: str) -> str:
    return PENALTIES.check(name, beside=["directional", "exact"])


def _grader(name: str) -> str:
    return GRADERS.check(name, beside=["auto", "math_verify", "tests", "verl"])


def _fallback(name: str) -> str:
    if name in NO_FALLBACKS:
        raise ValueError("episode_tags leads to a fallback, and surprise needs none; name another segmenter, or null")
    return SEGMENTERS.check(name)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EpisodesConfig(_Section):
    """How a response is cut into episodes."""

    method: Annotated[str, AfterValidator(SEGMENTERS.check)] = Field(
        "episode_tags",
        description="Segmenter: `episode_tags` (the paper's), `think_blocks`, `paragraphs`, `discourse_markers`, "
        "`fixed_tokens`, `surprise`, or one of `plugins`.",
    )
    fallback: Annotated[str, AfterValidator(_fallback)] | None = Field(
        "paragraphs", description="Segmenter used where tags do not parse; null leaves such a response without episodes."
    )
    max_episodes: int = Field(30, ge=1, le=1024, description="Most episodes in one response; the rest joins the last.")
    min_episode_tokens: int = Field(
        1, ge=1, le=65536, description="Shortest episode, in tokens; a shorter one joins the next."
    )
    markers: tuple[Mark, ...] | None = Field(
        None, description="Sentence openings that start an episode (`discourse_markers`); null takes the built-in list."
    )
    tokens_per_episode: int = Field(256, ge=1, le=65536, description="Length of an episode, in tokens (`fixed_tokens`).")
    surprise_threshold: Real = Field(
        4.0, gt=0, le=100, description="Surprise -log p from which a token opens an episode, in nats (`surprise`)."
    )
    answer_markers: tuple[Mark, ...] | None = Field(
        None, description="Texts that open the final answer where there is no `</think>`; null takes the built-in list."
    )


class GainConfig(_Section):
    """How the reference answer is scored after each episode."""

    kind: Annotated[str, AfterValidator(_kind)] = Field(
        "smoothed_logprob",
        description="What J is made of: exp of the mean log p of the answer's tokens (`geometric`), exp of their sum "
        "(`probability`), the mean of their p (`mean_probability`), of log(1 + 20 p) over log 21 (`smoothed_logprob`), the "
        "mean log p itself (`mean_logprob`), the accuracy of sampled answers (`monte_carlo`), or one of `plugins`.",
    )
    backend: Literal["packed", "expanded"] = Field(
        "packed",
        description="How the K+1 prefixes are run: `packed`, sharing what they have in common where the engine can, "
        "and set by hand it has to; `expanded`, one plain sequence each.",
    )
    fused: bool | None = Field(
        None,
        description="Whether one forward gives verl's old log-probs and the scores (`packed`); null: where the actor "
        "computes in float32, so that another kernel's rounding does not matter.",
    )
    forcing_suffix: str = Field(
        "\n\nThe final answer is \\boxed{", description="Text put before the reference answer to force it."
    )
    closing: str = Field("}", min_length=1, description="Text put after the reference answer.")
    think_open: Mark = Field("<think>", description="Text that opens thinking.")
    think_close: Mark = Field("\n</think>", description="Text that closes an open thought before forcing.")
    thinks: bool | None = Field(
        None,
        description="Whether the model thinks before it answers; null: if `</think>` is one token of its vocabulary. Set "
        "false for instruct models that only share that vocabulary.",
    )
    max_tokens_per_micro_batch: int = Field(
        16384, ge=64, description="Most tokens in one scoring forward of one worker, in tokens."
    )
    samples: int = Field(4, ge=1, le=1024, description="Answers sampled after each prefix (`monte_carlo`).")
    sample_temperature: Real = Field(1.0, ge=0, le=10, description="Temperature of sampled answers (`monte_carlo`).")
    sample_tokens: int = Field(32, ge=1, le=65536, description="Longest sampled answer, in tokens (`monte_carlo`).")


class CompressionConfig(_Section):
    """How the compression penalty is estimated."""

    estimator: Annotated[str, AfterValidator(_estimator)] = Field(
        "log_ratio",
        description="Estimator of the penalty C, in nats: from log-ratios to the reference policy (`log_ratio`, "
        "`log_ratio_episode`, or one of `plugins`); `directional`, from derivatives along a low-rank displacement of the "
        "weights; `exact`, the same by one gradient an episode.",
    )
    rank_fraction: Real = Field(
        0.05,
        gt=0,
        le=1,
        description="Rank of the displacement's proxy, as a share of each matrix's full rank (`directional`, `exact`).",
    )
    refresh_steps: int = Field(
        10, ge=1, description="Batches from one decomposition of the displacement to the next (`directional`, `exact`)."
    )
    parameters: Pattern = Field(
        r"\.layers\.\d+\.",
        description="Regular expression of the parameters that are displaced (`directional`, `exact`); with LoRA the "
        "adapter is, whatever stands here.",
    )
    damping: Real = Field(
        1e-5, ge=0, description="Fisher damping: adds ½ damping ‖Δθ‖² to every episode's penalty (`directional`, `exact`)."
    )
    shift: Real | None = Field(
        None,
        gt=0,
        le=1,
        description="Root mean square change of a token's log-prob that the finite shift makes, in nats (`directional`); "
        "null: 0.001 where the actor computes in float32, else 0.05.",
    )
    rounding_correction: bool | None = Field(
        None,
        description="Whether the rollout engine's log-probs take rounding off the penalty (`log_ratio`, "
        "`log_ratio_episode`); null: where the actor computes below float32. False is the paper's own, in bfloat16 mostly "
        "rounding.",
    )
    in_wrong_groups: bool | None = Field(
        None,
        description="Whether the penalty counts in groups without a right response, where it would be most of what tells "
        "responses apart; null: with the credit `paper`, as published, and with no other.",
    )


LENGTH_BOUNDS = {"overlong": 0.8, "truncation": 0.5, "laser_d": 0.25}  # credits with one, and what stands for null


class CreditConfig(_Section):
    """How episode rewards become token advantages."""

    method: Annotated[str, AfterValidator(CREDITS.check)] = Field(
        "guided",
        description="Credit: `paper` as published, `episode` adds each episode's reward to GRPO's advantage, `shaped` the "
        "return from each token on, `critic` what each episode changes in the chance of being right, as J tells it, "
        "`guided` that and, the fewer of a group are right, each episode's own reward; "
        "`length_penalty`, `adaptive_length_penalty`, `overlong`, `truncation` and `laser_d` are baselines without process "
        "rewards; or one of `plugins`.",
    )
    std_floor: Real = Field(
        0.05,
        gt=0,
        description="Smallest standard deviation that process rewards are divided by, in units of J; in a group of n "
        "rollouts, none of which is right, 1/√n at least.",
    )
    gamma: Real | None = Field(
        None,
        ge=0,
        le=1,
        description="Discount of the return-to-go per episode (`episode`); null takes immediate rewards.",
    )
    surprise_weights: bool = Field(
        False, description="Spread an episode's reward over its tokens by their surprise (`episode`)."
    )
    ratio_clip: Real | None = Field(
        None, gt=0, description="Bound on a token's share of its rollout's reward (`paper`); null is the paper's: none."
    )
    length_cost: Real | None = Field(
        None,
        ge=0,
        description="Cost λ of a response of the longest length, in units of the advantage (`shaped`: before α; `critic`, "
        "`guided`: of their root mean square; `adaptive_length_penalty`: of the outcome); null: 4 with `guided`, as it was "
        "measured, 1 with `adaptive_length_penalty`, which is nothing else, and 0 with the others.",
    )
    length_cost_for: Literal["all", "correct"] = Field(
        "correct", description="Whose length costs: of `all` rollouts, or of the `correct` ones among each other."
    )
    length_penalty: Real = Field(
        0.2, ge=0, lt=1, description="Weight α of the length among a group's correct rollouts (`length_penalty`)."
    )
    length_share: Real | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the longest response above which a response is punished (`overlong`; null: 0.8, as "
        "published), or wrong (`truncation`; null: 0.5); or the shortest target (`laser_d`; null: 0.25).",
    )
    critic_decay: Real = Field(
        0.95,
        ge=0,
        le=1,
        description="Decay λ of the advantages' estimate over episodes (GAE); 1 is the outcome minus V (`critic`, "
        "`guided`).",
    )
    critic_ridge: Real = Field(
        1.0,
        gt=0,
        description="Strength of the critic's prior, which is the mean outcome of the group's other rollouts (`critic`, "
        "`guided`).",
    )
    critic_steps: int = Field(5, ge=1, description="Steps whose rollouts the critic is fitted on (`critic`, `guided`).")
    token_budget: Real | None = Field(
        None,
        gt=0,
        description="Mean length of correct responses to reach, in tokens; adapts λ each step, by damped dual ascent.",
    )
    length_cost_rate: Real = Field(
        0.1, gt=0, le=10, description="Step η of the dual ascent on λ, in units of λ per unit of relative excess."
    )

    @property
    def first_length_cost(self) -> float:
        """λ of the first step, from which a token budget moves it."""
        if self.length_cost is not None:
            return self.length_cost
        return {"guided": 4.0, "adaptive_length_penalty": 1.0}.get(self.method, 0.0)

    @property
    def length_bound(self) -> float:
        """`length_share`, or what stands for null with this credit; 1 where it has no bound."""
        return self.length_share or LENGTH_BOUNDS.get(self.method, 1.0)


class OutcomeConfig(_Section):
    """How the final answer is graded."""

    grader: Annotated[str, AfterValidator(_grader)] = Field(
        "auto",
        description="`tests` runs the response's program on the row's `extra_info.tests` in a sandbox; `auto` takes them "
        "where a row has them, else verl's scorer for a data source that verl knows, else math-verify (`verl`, "
        "`math_verify`); or one of `plugins`.",
    )
    seconds_per_sample: Real = Field(10.0, gt=0, le=600, description="Time limit for grading one sample, in seconds.")
    workers: int = Field(2, ge=1, le=64, description="Grading processes of one reward worker.")


class DiagnosticsConfig(_Section):
    """Measurements that cost time and are off by default."""

    compare_grpo: bool = Field(
        False,
        description="Also measure the gradient norm that plain GRPO has on the same rollouts (one extra backward).",
    )
    displacement: bool = Field(
        False, description="Also measure how far the weights have moved from the reference policy's, relative to them."
    )


class CheckpointsConfig(_Section):
    """Which checkpoints stay on the disk."""

    keep_last: int | None = Field(
        None, ge=1, description="Newest checkpoints that stay, with the best by validation beside them; null: all of them."
    )


class L2TConfig(_Section):
    """The whole configuration of the method, `algorithm.l2t`.

    Example:
        >>> load_config({"alpha": 0.5, "credit": {"method": "episode"}}).credit.method
        'episode'
    """

    alpha: Real = Field(0.8, ge=0, le=100, description="Weight of the process reward against the outcome.")
    beta: Real = Field(
        1.2,
        ge=0,
        le=100,
        description="Weight of the penalty against the gain, in units of J per nat for responses of at most 150 tokens; for "
        "others see `beta_unit`.",
    )
    beta_unit: Literal["length", "nat", "paper"] = Field(
        "length",
        description="Unit of `beta`: `length` divides it by the longest response over 150 tokens, as penalties add up over "
        "tokens and gains do not; `nat` takes it at every length; `paper`, too, for a penalty without its half (0.6).",
    )
    episodes: EpisodesConfig = Field(default_factory=EpisodesConfig)
    gain: GainConfig = Field(default_factory=GainConfig)
    compression: CompressionConfig = Field(default_factory=CompressionConfig)
    credit: CreditConfig = Field(default_factory=CreditConfig)
    outcome: OutcomeConfig = Field(default_factory=OutcomeConfig)
    diagnostics: DiagnosticsConfig = Field(default_factory=DiagnosticsConfig)
    checkpoints: CheckpointsConfig = Field(default_factory=CheckpointsConfig)
    plugins: tuple[Mark, ...] = Field(
        (), description="Modules that register segmenters, kinds of J, penalties, credits or graders; see the page on them."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of those parts that have some, by the part's name."
    )


def load_config(raw: Mapping[str, Any] | None) -> L2TConfig:
    """Read and check the configuration tree.

    Args:
        raw: the node `algorithm.l2t` as a plain mapping (lists for tuples are accepted), or None for the defaults.

    Returns:
        The checked, frozen configuration.

    Raises:
        ConfigError: unknown keys, wrong types, values out of bounds and contradictions, all in one message.

    Example:
        >>> load_config({"alpha": -1, "gain": {"knd": "geometric"}})
        Traceback (most recent call last):
        ...
        l2t_verl.config.ConfigError: the L2T configuration has 2 problems:
          algorithm.l2t.alpha: Input should be greater than or equal to 0 (got -1)
          algorithm.l2t.gain.knd: unknown key; known here: kind, backend, fused, forcing_suffix, closing, think_open, \
think_close, thinks, max_tokens_per_micro_batch, samples, sample_temperature, sample_tokens
    """
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{ROOT} must be a mapping of settings, got {type(raw).__name__} ({raw!r})")
    values = _lists_to_tuples(raw or {})  # a copy
    problems = _plug_in(values)
    config = None
    while config is None:  # each round drops the offending keys, so that the rest can be checked together
        try:
            config = L2TConfig.model_validate(values)
        except ValidationError as error:
            found = [(item, _existing_path(values, item["loc"])) for item in error.errors()]
            for item, path in found:
                position = "".join(f"[{part}]" for part in item["loc"][len(path) :] if isinstance(part, int))
                problems.setdefault(".".join((ROOT, *path)) + position, _describe(item, path))
                _drop(values, path)
            if any(path == () for _, path in found):  # of all of it, such as a name that is no text: nothing to drop
                raise _refusal(problems) from None
    config, of_options = _with_options(config)
    problems.update(of_options)
    problems.update(_contradictions(config, broken=problems.keys()))
    if problems:
        raise _refusal(problems)
    return config


def _refusal(problems: Mapping[str, str]) -> ConfigError:
    plural = "problem" if len(problems) == 1 else "problems"
    lines = "\n".join(f"  {path}: {text}" for path, text in problems.items())
    return ConfigError(f"the L2T configuration has {len(problems)} {plural}:\n{lines}")


def _plug_in(values: dict[str, Any]) -> dict[str, str]:
    """Import the modules of `plugins`, so that names that they register are known; the problem if one cannot be."""
    modules = values.get("plugins")
    if not isinstance(modules, tuple) or not all(isinstance(name, str) for name in modules):
        return {}  # pydantic says what is wrong with it
    try:
        load_plugins(modules)
    except ValueError as error:
        return {f"{ROOT}.plugins": str(error)}
    return {}


def _with_options(config: L2TConfig) -> tuple[L2TConfig, dict[str, str]]:
    """The configuration with `options` as the models that the parts were registered with, and what is wrong with them."""
    try:
        models = option_models()
    except ValueError as error:
        return config, {f"{ROOT}.options": str(error)}
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name in config.options.keys() - models.keys():
        known = f"known: {', '.join(models)}" if models else "none has any; is its module in plugins?"
        problems[f"{ROOT}.options.{name}"] = f"no part of that name has settings; {known}"
    for name, model in models.items():
        try:
            found[name] = model.model_validate(config.options.get(name, {}))
        except ValidationError as error:
            for item in error.errors():
                path = ".".join(map(str, item["loc"]))
                problems[f"{ROOT}.options.{name}.{path}"] = f"{item['msg']} (got {item['input']!r})"
    return config.model_copy(update={"options": found}), problems


def why_no_forward_to_share(config: L2TConfig) -> str | None:
    """Say why the scores cannot come from the forward that gives the old log-probs, as far as these settings decide it.

    Returns:
        The reason; None if they can.

    Example:
        >>> why_no_forward_to_share(load_config({"gain": {"backend": "expanded"}}))
        'gain.backend=expanded runs sequences of its own'
    """
    if config.gain.backend == "expanded":
        return "gain.backend=expanded runs sequences of its own"
    if config.gain.kind == "monte_carlo":
        return "gain.kind=monte_carlo samples answers instead"
    if config.episodes.method == "surprise":
        return "episodes.method=surprise needs the old log-probs before there are episodes"
    return None


def _contradictions(config: L2TConfig, broken: Set[str]) -> dict[str, str]:
    """What no single field shows: settings that exclude each other or would have no effect.

    Args:
        config: a configuration with the defaults in the place of the broken fields.
        broken: paths of those fields; what depends on them cannot be judged.
    """
    found: dict[str, str] = {}
    credit, episodes = config.credit, config.episodes
    charging = ("length_cost", "length_cost_for", "token_budget")
    users = {
        "paper": ("ratio_clip",),
        "episode": ("gamma", "surprise_weights", *charging),
        "shaped": charging,
        **dict.fromkeys(CRITICS, (*charging, "critic_decay", "critic_ridge", "critic_steps")),
        "adaptive_length_penalty": ("length_cost", "token_budget"),
        "length_penalty": ("length_penalty",),
        **dict.fromkeys(LENGTH_BOUNDS, ("length_share",)),
    }
    free = credit.model_copy(update={"length_cost": credit.length_cost or None})  # a cost of 0 is as good as none
    found |= _unused(free, "credit", "method", users, broken)
    if credit.method in CRITICS and config.gain.kind == "mean_logprob":
        found[f"{ROOT}.gain.kind"] = (
            f"credit.method={credit.method} takes the logit of J, which mean_logprob has not; take smoothed_logprob"
        )
    found |= _unused(
        config.gain, "gain", "kind", {"monte_carlo": ("samples", "sample_temperature", "sample_tokens")}, broken
    )
    along = ("rank_fraction", "refresh_steps", "parameters", "damping")
    ratios = ("rounding_correction",)
    users = {"log_ratio": ratios, "log_ratio_episode": ratios, "directional": (*along, "shift"), "exact": along}
    found |= _unused(config.compression, "compression", "estimator", users, broken)
    methods_known = not broken & {f"{ROOT}.episodes.method", f"{ROOT}.episodes.fallback"}
    unused = "discourse_markers" not in (episodes.method, episodes.fallback)
    if episodes.markers is not None and unused and methods_known:
        found[f"{ROOT}.episodes.markers"] = (
            f"only episodes.method=discourse_markers uses it, but episodes.method={episodes.method}"
        )
    if episodes.markers == ():
        found[f"{ROOT}.episodes.markers"] = "needs at least one marker"
    if episodes.method == "think_blocks" and episodes.fallback == "think_blocks":
        found[f"{ROOT}.episodes.fallback"] = "is the same as episodes.method; name another or null"
    if episodes.method == "surprise" and config.gain.kind == "monte_carlo":
        found[f"{ROOT}.gain.kind"] = (
            "monte_carlo samples answers during the rollout, but episodes.method=surprise cuts episodes after it"
        )
    if config.gain.fused and (reason := why_no_forward_to_share(config)):
        found[f"{ROOT}.gain.fused"] = f"{reason}; leave it at null"
    return found


def _unused(
    section: _Section, name: str, selector: str, users: Mapping[str, tuple[str, ...]], broken: Set[str]
) -> dict[str, str]:
    """Settings of a section that are not at their defaults, though nothing that the selector may choose uses them."""
    chosen = getattr(section, selector)
    if f"{ROOT}.{name}.{selector}" in broken:
        return {}
    found = {}
    for setting in dict.fromkeys(itertools.chain(*users.values())):
        owners = [user for user, used in users.items() if setting in used]
        if chosen not in owners and getattr(section, setting) != type(section).model_fields[setting].default:
            found[f"{ROOT}.{name}.{setting}"] = (
                f"only {name}.{selector}={' or '.join(owners)} uses it, but {name}.{selector}={chosen}"
            )
    return found


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _lists_to_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _existing_path(values: Mapping[str, Any], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The part of pydantic's location that names keys (it also names union branches and list positions)."""
    path: list[str] = []
    node: Any = values
    for part in location:
        if not isinstance(node, Mapping) or part not in node:
            break
        path.append(str(part))
        node = node[part]
    return tuple(path)


def _drop(values: dict[str, Any], path: tuple[str, ...]) -> None:
    node = values
    for part in path[:-1]:
        node = node.get(part, {})
    if path:
        node.pop(path[-1], None)


def _describe(item: Mapping[str, Any], path: tuple[str, ...]) -> str:
    if item["type"] == "extra_forbidden":
        section: Any = L2TConfig
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key; known here: {', '.join(section.model_fields)}"
    message = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return f"{message} (got {item['input']!r})"

"""What verl's configuration says, read in one place: the driver, the workers and the rollout all ask here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from l2t_verl.config import L2TConfig, load_config, why_no_forward_to_share
from l2t_verl.registry import SQUARED_LOG_RATIOS


def read_config(config: DictConfig) -> L2TConfig:
    """The method's configuration from `algorithm.l2t` of verl's.

    Raises:
        ConfigError: see `l2t_verl.config.load_config`.
    """
    node = OmegaConf.select(config, "algorithm.l2t")
    raw: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return load_config(raw)


def base_mode(name: str) -> str:
    """Verl's own name of an L2T trainer mode.

    Example:
        >>> base_mode("l2t_sync")
        'sync'
    """
    return re.sub(r"^l2t_", "", name)


def asks_for_packed(l2t: L2TConfig) -> bool:
    """Whether packed rows were asked for in so many words, and are not the default; sampled answers have no rows."""
    return l2t.gain.backend == "packed" and "backend" in l2t.gain.model_fields_set and l2t.gain.kind != "monte_carlo"


def why_not_fused(config: DictConfig, l2t: L2TConfig) -> str | None:
    """Why scores and verl's old log-probs cannot come from one forward; None if they can."""
    if bypasses_old_log_probs(config):
        return "verl's bypass mode computes no old log-probs"
    return why_no_packed_engine(config) or why_no_forward_to_share(l2t)


def why_no_packed_engine(config: DictConfig) -> str | None:
    """Why no engine of this configuration can pack rows; None if one may."""
    strategy = config.actor_rollout_ref.actor.strategy
    if strategy not in ("fsdp", "fsdp2"):
        return f"the {strategy} engine has a forward of its own"
    return "Ulysses splits the sequence over ranks" if sequence_parallel_size(config) > 1 else None


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


def corrects_rounding(config: DictConfig, l2t: L2TConfig) -> bool:
    """Whether rounding is taken off the penalty: as configured, else where the actor computes below float32.

    What another engine than FSDP computes in is not known here, and taken to be bfloat16.
    """
    if l2t.beta == 0 or l2t.compression.estimator not in SQUARED_LOG_RATIOS:
        return False
    if l2t.compression.rounding_correction is not None:
        return l2t.compression.rounding_correction
    actor = config.actor_rollout_ref.actor
    precision = OmegaConf.select(actor, "fsdp_config.mixed_precision.param_dtype", default="bf16")
    return not (actor.strategy in ("fsdp", "fsdp2") and str(precision) in ("fp32", "float32", "32"))


def uses_lora(config: DictConfig) -> bool:
    """Whether an adapter is trained; the reference policy is then the base model, inside the actor."""
    model = config.actor_rollout_ref.model
    rank = model.get("lora", {}).get("rank", 0) or model.get("lora_rank", 0)
    return rank > 0 or model.get("lora_adapter_path") is not None

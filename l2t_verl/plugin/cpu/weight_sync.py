"""Proof at the start of a run that the rollout computes with the weights that the trainer sends.

vLLM on CPUs may keep a packed copy of a weight and go on computing with the old one in silence. With unchanged weights
both sides agree anyway, so all of them, the output head included, are moved, sent, compared and put back.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

from l2t_verl.patches import on_cpu_platform

logger = logging.getLogger(__name__)

PERTURBATION = 0.1  # of each parameter's root mean square
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.5}  # nats, largest difference over the probe's tokens
PROBE = "Natalia sold clips to 48 of her friends. How many clips"
TOKENS = 8


def check(trainer: Any, send: Callable[[], None]) -> None:
    """Compare rollout and actor on the same tokens after an update that changes every weight (CPU platform only).

    Args:
        trainer: the trainer.
        send: sends the actor's weights to the rollout.

    Raises:
        RuntimeError: they disagree; the message has both lists of log-probs.
    """
    if not on_cpu_platform():
        return
    workers = trainer.actor_rollout_wg
    workers.l2t_perturb_weights(PERTURBATION)
    try:
        trainer.checkpoint_manager.sleep_replicas()
        send()
        prompt = trainer.tokenizer.encode(PROBE, add_special_tokens=False)
        tokens, sampled = _sample(trainer, prompt)
        actor = workers.l2t_log_probs([prompt + tokens])[0][0][-len(tokens) :]
    finally:
        workers.l2t_restore_weights()
    trainer.checkpoint_manager.sleep_replicas()
    send()
    worst = max(abs(a - b) for a, b in zip(actor, sampled, strict=True))
    tolerance = TOLERANCE.get(str(trainer.config.actor_rollout_ref.rollout.dtype), TOLERANCE["bfloat16"])
    if not worst <= tolerance:
        raise RuntimeError(
            f"the rollout does not compute with the weights that it was sent: after an update its log-probs differ from "
            f"the actor's by up to {worst:.3g} nats (allowed {tolerance}). actor {actor}, rollout {sampled}. On a CPU "
            "this is vLLM's weight repacking: install the versions in constraints-cpu.txt."
        )
    logger.info("l2t: rollout follows the trained weights (largest difference %.2g nats)", worst)
    print(f"l2t_verl: weight update checked, largest log-prob difference {worst:.2g} nats", flush=True)


def _sample(trainer: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """A few sampled tokens and the log-probs that the rollout engine gives them."""
    parameters = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True, "max_tokens": TOKENS}
    client = trainer.get_llm_client()
    output = asyncio.run(client.generate(request_id=uuid.uuid4().hex, prompt_ids=list(prompt), sampling_params=parameters))
    return list(output.token_ids), list(output.log_probs)

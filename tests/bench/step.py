"""A training step with L2T and one with GRPO, on the same rollouts and real FSDP2 engines, as in the quickstart.

Old log-probs, reference log-probs, advantages and the update; the sampling, which is the same for both, is left out, and so
are verl's queue and Ray: all of that pulls the ratio of a run towards 1.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import in_turn
from transformers import LlamaConfig, LlamaForCausalLM

GROUPS, GROUP, PROMPT, RESPONSE, EPISODES = 2, 4, 128, 160, 6  # the quickstart's rollouts, all of the longest length
SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True}  # fmt: skip
VOCABULARY = 49_152  # SmolLM2-135M's


def run(repeats: int, vocabulary: int = VOCABULARY, shape: dict | None = None) -> dict:
    """Seconds of a step of each kind and of the log-ratio penalty alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in rank.items()})
    sys.path.insert(0, str(Path(__file__).parent.parent))
    with tempfile.TemporaryDirectory() as folder:
        step = Step(Path(folder), vocabulary, shape or SHAPE)
        ways = {"grpo": step.grpo, "l2t": lambda: step.l2t(fused=True), "l2t, scores apart": lambda: step.l2t(fused=False)}
        seconds, _ = in_turn(ways, repeats, "cpu")
        alone, _ = in_turn({"log_ratio": step.penalty}, repeats, "cpu")
    return {
        "rollouts": GROUPS * GROUP,
        "tokens": PROMPT + RESPONSE,
        "episodes": EPISODES,
        "seconds": seconds | alone,
        "l2t / grpo": seconds["l2t"] / seconds["grpo"],
        "l2t, scores apart / grpo": seconds["l2t, scores apart"] / seconds["grpo"],
        "log_ratio / step": alone["log_ratio"] / seconds["l2t"],
    }


class Step:
    """The workers of the actor and of the reference policy, and a batch."""

    def __init__(self, folder: Path, vocabulary: int, shape: dict):
        from cluster import composed
        from tiny import byte_tokenizer

        from l2t_verl.config import load_config
        from l2t_verl.plugin.workers.worker import L2TWorker

        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape)).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        whole = composed(
            f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=2"
        )
        config = whole.actor_rollout_ref
        self.config, self.gain = config, load_config({"gain": {"forcing_suffix": "\n#### ", "closing": "<|im_end|>"}}).gain
        self.actor, self.reference = L2TWorker(config, role="actor"), L2TWorker(config, role="ref")
        self.actor.init_model()
        self.reference.init_model()
        generator = torch.Generator().manual_seed(0)
        rows = GROUPS * GROUP
        self.ids = torch.randint(0, 250, (rows, PROMPT + RESPONSE), generator=generator)
        self.ends = [RESPONSE * (k + 1) // (EPISODES + 1) for k in range(EPISODES)]
        self.mask = torch.ones(rows, RESPONSE, dtype=torch.int64)
        self.outcome = (torch.rand(rows, generator=generator) < 0.5).float()
        self.index = np.repeat(np.arange(GROUPS), GROUP).astype(str).astype(object)
        self.deltas = 0.01 * torch.randn(rows, RESPONSE, generator=generator)

    def batch(self, settings: dict, **columns: torch.Tensor):
        """The rollouts as verl's workers get them."""
        from verl.utils import tensordict_utils as tu

        from l2t_verl.plugin import fields

        nested = lambda tensor: torch.nested.as_nested_tensor(list(tensor), layout=torch.jagged)  # noqa: E731
        rows = len(self.ids)
        tensors = {
            "input_ids": nested(self.ids),
            "position_ids": nested(torch.arange(self.ids.shape[1]).expand_as(self.ids)),
            "prompts": nested(self.ids[:, :PROMPT]),
            "responses": nested(self.ids[:, PROMPT:]),
            "response_mask": nested(self.mask),
            "loss_mask": nested(self.mask),
            fields.BOUNDARIES: nested(torch.tensor([0, *self.ends]).expand(rows, -1)),
            "reward_model": [{"ground_truth": "72"}] * rows,
        }
        tensors |= {name: nested(column) for name, column in columns.items()}
        return tu.get_tensordict(tensors, non_tensor_dict={"temperature": 1.0} | settings)

    def log_probs(self, worker_call, **settings) -> tuple[torch.Tensor, object]:
        output = worker_call(self.batch({"calculate_entropy": True, "compute_loss": False} | settings))
        return torch.stack([row[PROMPT - 1 : -1] for row in output["log_probs"].unbind()]), output

    def grpo(self) -> None:
        """What verl does with a KL to the reference."""
        from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

        old, _ = self.log_probs(self.actor.compute_log_prob)
        self.log_probs(self.reference.compute_ref_log_prob, calculate_entropy=False)
        rewards = torch.zeros(self.mask.shape)
        rewards[:, -1] = self.outcome
        self.update(old, compute_grpo_outcome_advantage(rewards, self.mask, self.index)[0])

    def l2t(self, fused: bool) -> None:
        """The same with scores, penalty and shaped credit."""
        from l2t_verl import compression, credit, episodes, gain
        from l2t_verl.plugin import fields

        settings = self.gain.model_dump()
        if fused:
            old, output = self.log_probs(self.actor.compute_log_prob, l2t_fused=settings)
        else:
            old, _ = self.log_probs(self.actor.compute_log_prob)
            output = self.actor.l2t_answer_scores(self.batch({"l2t_gain": settings}))
        reference, _ = self.log_probs(self.reference.compute_ref_log_prob, calculate_entropy=False)
        scores = torch.stack(list(output[fields.ANSWER_SCORES].unbind())).double()
        ids = episodes.episode_ids([self.ends] * len(self.ids), RESPONSE)
        deltas = compression.log_ratio_deltas(old, reference, self.mask)
        penalty = compression.compression_penalty(deltas, ids, self.mask, num_episodes=EPISODES)
        process = compression.process_rewards(gain.fitting_gains(scores), penalty, 1.2)
        arguments = (self.outcome, process, ids, self.mask, old, self.index)
        self.update(old, credit.shaped_advantages(*arguments, alpha=0.8, max_length=RESPONSE))

    def penalty(self) -> None:
        """The log-ratio penalty alone."""
        from l2t_verl import compression, episodes

        ids = episodes.episode_ids([self.ends] * len(self.ids), RESPONSE)
        deltas = compression.log_ratio_deltas(self.deltas, torch.zeros_like(self.deltas), self.mask)
        compression.compression_penalty(deltas, ids, self.mask, num_episodes=EPISODES)

    def update(self, old: torch.Tensor, advantages: torch.Tensor) -> None:
        rows = len(self.ids)
        settings = {"calculate_entropy": False, "distillation_use_topk": False, "distillation_only": False,
                    "global_batch_size": rows, "mini_batch_size": rows, "epochs": 1, "seed": 0,
                    "dataloader_kwargs": {"shuffle": False}}  # fmt: skip
        data = self.batch(settings, old_log_probs=old, advantages=advantages)
        data.pop("reward_model")
        self.actor.update_actor(data)

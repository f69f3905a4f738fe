"""Ranks of a real L2TWorker under Ulysses, on gloo: verl's exchange of heads and tokens, with torch in flash-attn's place.

verl exchanges them where transformers calls `_flash_attention_forward`, and nowhere else (verl 0.9.1,
models/transformers/monkey_patch.py: put there in line 551; line 146 calls flash-attn). So the ranks run transformers' way
to flash-attention and verl's exchange as they are; only the kernel below both, which is CUDA's, is computed by torch.
"""

from pathlib import Path

import torch
from worker_process import LONG, NO_EPISODES, NO_ROOM, SHORT, batch

NAME = "attention_by_torch"  # transformers would look for a name with flash in it on the hub
ROWS = [LONG, SHORT, NO_EPISODES, NO_ROOM]  # of both ranks, which share every sequence


def attention_by_torch(query, key, value, attention_mask, query_length, *, position_ids, softmax_scale, **_):
    """What flash-attn's kernel gives for packed sequences [1, L, heads, size]: causal, none sees another."""
    sequence = (position_ids[0] == 0).cumsum(0)
    order = torch.arange(len(sequence))
    visible = (sequence[:, None] == sequence) & (order[:, None] >= order)
    heads = (tensor.transpose(1, 2) for tensor in (query, key, value))
    found = torch.nn.functional.scaled_dot_product_attention(
        *heads, attn_mask=visible, scale=softmax_scale, enable_gqa=query.shape[2] != key.shape[2]
    )
    return found.transpose(1, 2)


def ulysses_main(rank: int, world: int, model: Path, attention: str, result: Path) -> None:
    from cluster import composed
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.masking_utils import flash_attention_mask
    from verl.models.transformers import monkey_patch

    from l2t_verl.plugin import fields
    from l2t_verl.plugin.workers import collectives, scoring
    from l2t_verl.plugin.workers.worker import L2TWorker

    AttentionInterface.register(NAME, flash_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    monkey_patch._flash_attention_forward = attention_by_torch
    collectives.SEQUENCES_PER_CALL = 3  # several calls
    config = composed(
        f"actor_rollout_ref.model.path={model}",
        f"actor_rollout_ref.actor.ulysses_sequence_parallel_size={world}",
        "actor_rollout_ref.model.use_remove_padding=True",
        f"actor_rollout_ref.model.override_config.attn_implementation={attention}",
    )
    worker = L2TWorker(config.actor_rollout_ref, role="actor")
    worker.init_model()
    calls, infer_batch = [], worker.actor.infer_batch

    def counted(data):
        output = infer_batch(data)
        calls.append(output is not None)
        return output

    worker.actor.infer_batch = counted
    output = worker.l2t_answer_scores(batch(ROWS, "packed"))
    scores = None if output is None else [row.tolist() for row in output[fields.ANSWER_SCORES].unbind()]
    torch.save({"scores": scores, "calls": calls, "why": scoring.why_not_packed(worker.actor)}, result / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

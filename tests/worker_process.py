"""Ranks of a real L2TWorker (FSDP2 on gloo) without Ray: each builds it, scores its rows and writes what came out."""

import os
from pathlib import Path

import torch

GAIN = {"forcing_suffix": "\n#### ", "closing": "<|im_end|>", "max_tokens_per_micro_batch": 64}
# (prompt, response, episode ends, ground truth)
LONG = ([5, 6], [20] * 40, [10, 20, 30, 40], ["1/2", "0.5"])
SHORT = ([5, 6, 7], [8, 9, 10, 11, 12, 13], [2, 5], "72")
NO_EPISODES = ([9], [8, 9, 10], [], "7")
NO_ROOM = ([5, 6, 7], [8, 9], [2], "7" * 1100)  # longer than the model has positions
ROWS = {1: [[LONG, SHORT, NO_EPISODES, NO_ROOM]], 2: [[LONG, SHORT], [NO_EPISODES, NO_ROOM]]}  # by world size and rank


def batch(rows: list, backend: str) -> "TensorDict":  # noqa: F821
    """Rows as the TransferQueue hands them to the worker, with what a reference pass before may have left in them."""
    from verl.utils import tensordict_utils as tu

    from l2t_verl.plugin import fields

    nested = lambda lists: torch.nested.as_nested_tensor([torch.tensor(ids) for ids in lists], layout=torch.jagged)  # noqa: E731
    tensors = {
        "prompts": nested([prompt for prompt, _, _, _ in rows]),
        "responses": nested([response for _, response, _, _ in rows]),
        fields.BOUNDARIES: nested([[0, *ends] for _, _, ends, _ in rows]),
    }
    truths = [{"ground_truth": truth} for _, _, _, truth in rows]
    left_over = {"no_lora_adapter": True, "temperature": 0.5}
    data = tu.get_tensordict(
        tensors | {"reward_model": truths}, non_tensor_dict={"l2t_gain": GAIN | {"backend": backend}} | left_over
    )
    return data


def rank_main(rank: int, world: int, port: int, model: Path, overrides: list[str], result: Path) -> None:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()}, VERL_PLATFORM="cpu")
    torch.set_num_threads(1)
    from cluster import composed

    from l2t_verl.plugin import fields, scoring
    from l2t_verl.plugin.worker import L2TWorker

    scoring.SEQUENCES_PER_CALL = 3  # several calls, and not the same number of sequences on each rank
    config = composed(f"actor_rollout_ref.model.path={model}", *overrides)
    worker = L2TWorker(config.actor_rollout_ref, role="actor")
    worker.init_model()
    parameters = dict(worker.actor.engine.module.named_parameters())
    local = {name: p.to_local() if hasattr(p, "to_local") else p for name, p in parameters.items()}
    with torch.no_grad():
        for name, tensor in local.items():
            if "lora_B" in name:  # a fresh adapter is all zeros and changes nothing
                tensor.fill_(0.05)

    def scores(backend: str = "expanded") -> list[list[float]]:
        output = worker.l2t_answer_scores(batch(ROWS[world][rank], backend))
        return [row.tolist() for row in output[fields.ANSWER_SCORES].unbind()]

    assert scoring.why_not_packed(worker.actor) is None
    found = {"scores": scores(), "packed": scores("packed")}
    before = {name: tensor.detach().clone() for name, tensor in local.items()}
    worker.l2t_perturb_weights(0.1)
    found["perturbed"] = scores()
    worker.l2t_restore_weights()
    found["restored"] = all(torch.equal(before[name], local[name]) for name in local)
    found["log_probs"] = worker.l2t_log_probs([[5, 6, 7, 8], [9, 10]])
    whole = {name: (p.full_tensor() if hasattr(p, "full_tensor") else p) for name, p in parameters.items()}
    found["parameters"] = {name: p.detach().clone() for name, p in whole.items()}
    torch.save(found, result / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

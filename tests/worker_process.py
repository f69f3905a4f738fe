"""Ranks of a real L2TWorker (FSDP2 on gloo) without Ray: each builds it, scores its rows and writes what came out."""

from pathlib import Path

import torch

GAIN = {"kind": "geometric", "forcing_suffix": "\n#### ", "closing": "<|im_end|>", "max_tokens_per_micro_batch": 64}
# (prompt, response, episode ends, ground truth)
LONG = ([5, 6], [20] * 40, [10, 20, 30, 40], ["1/2", "0.5"])
SHORT = ([5, 6, 7], [8, 9, 10, 11, 12, 13], [2, 5], "72")
NO_EPISODES = ([9], [8, 9, 10], [], "7")
NO_ROOM = ([5, 6, 7], [8, 9], [2], "7" * 1100)  # longer than the model has positions
MASKED = 1  # position in each response
SEED = 20261127  # of a fresh adapter
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


def fused_and_plain(worker, rows: list) -> dict:
    """Old log-probs and entropies of verl's own forward, and those of the forward that also scores."""
    from verl.utils import tensordict_utils as tu

    from l2t_verl.plugin import fields

    found = {}
    for name in ("plain", "fused"):
        data = batch(rows, "packed")
        whole = [[*prompt, *response] for prompt, response, _, _ in rows]
        data["input_ids"] = torch.nested.as_nested_tensor([torch.tensor(ids) for ids in whole], layout=torch.jagged)
        positions = [torch.arange(len(ids)) for ids in whole]
        data["position_ids"] = torch.nested.as_nested_tensor(positions, layout=torch.jagged)
        data["loss_mask"] = torch.nested.as_nested_tensor([torch.ones(len(ids)) for ids in whole], layout=torch.jagged)
        settings = {"calculate_entropy": True, "compute_loss": False, "temperature": 0.7, "no_lora_adapter": False}
        if name == "fused":
            settings["l2t_fused"] = GAIN | {"backend": "packed"}
        tu.assign_non_tensor(data, **settings)
        output = worker.compute_log_prob(data)
        for field in ("log_probs", "entropy"):
            columns = zip(output[field].unbind(), rows, strict=True)
            found[f"{name}_{field}"] = [row[len(prompt) - 1 : -1] for row, (prompt, *_) in columns]
        if name == "fused":
            found["fused_scores"] = [row.tolist() for row in output[fields.ANSWER_SCORES].unbind()]
            found["fused_gaps"] = output[fields.SCORE_GAP].tolist()
    return found


def derivatives(worker, rows: list) -> list[list[float]]:
    from verl.utils import tensordict_utils as tu

    from l2t_verl.plugin import fields

    data = batch(rows, "packed")
    masks = [torch.ones(len(response), dtype=torch.int64) for _, response, _, _ in rows]
    for mask in masks:
        mask[MASKED] = 0  # as a tool's token: it counts in no episode
    data["response_mask"] = torch.nested.as_nested_tensor(masks, layout=torch.jagged)
    tu.assign_non_tensor(data, temperature=0.7, l2t_max_tokens=64)
    output = worker.l2t_derivatives(data)
    return [row.tolist() for row in output[fields.DERIVATIVES].unbind()]


def whole(parameters: dict) -> dict[str, torch.Tensor]:
    full = {name: (p.full_tensor() if hasattr(p, "full_tensor") else p) for name, p in parameters.items()}
    return {name: p.detach().clone() for name, p in full.items()}


def rank_main(rank: int, world: int, model: Path, overrides: list[str], result: Path) -> None:
    from cluster import composed

    from l2t_verl.config import CompressionConfig
    from l2t_verl.packing import head
    from l2t_verl.plugin import fields
    from l2t_verl.plugin.workers import collectives, scoring
    from l2t_verl.plugin.workers.worker import L2TWorker

    head.TOKENS_AT_ONCE = 7  # several pieces, and not the same number on each rank
    collectives.SEQUENCES_PER_CALL = 3  # several calls, and not the same number of sequences on each rank
    config = composed(f"actor_rollout_ref.model.path={model}", *overrides)
    worker = L2TWorker(config.actor_rollout_ref, role="actor")
    torch.manual_seed(SEED)  # a fresh adapter is drawn
    worker.init_model()
    parameters = dict(worker.actor.engine.module.named_parameters())
    local = {name: p.to_local() if hasattr(p, "to_local") else p for name, p in parameters.items()}
    with torch.no_grad():
        for name, tensor in local.items():
            if "lora_B" in name:  # a fresh adapter is all zeros and changes nothing
                tensor.fill_(0.2)

    def scores(backend: str = "expanded") -> list[list[float]]:
        output = worker.l2t_answer_scores(batch(ROWS[world][rank], backend))
        return [row.tolist() for row in output[fields.ANSWER_SCORES].unbind()]

    found = {"why_not_packed": scoring.why_not_packed(worker.actor), "scores": scores(), "packed": scores("packed")}
    found |= fused_and_plain(worker, ROWS[world][rank])
    settings = {"rank_fraction": 1.0, "parameters": ".", "damping": 0.0, "refresh_steps": 1}
    worker.l2t_keep_start(settings | {"estimator": "directional"})
    before = {name: tensor.detach().clone() for name, tensor in local.items()}
    found["undisplaced"] = derivatives(worker, ROWS[world][rank])
    worker.l2t_perturb_weights(0.01)
    found["parameters_displaced"] = whole(parameters)
    displaced = {name: tensor.detach().clone() for name, tensor in local.items()}
    found["directional"] = derivatives(worker, ROWS[world][rank])
    if world == 1:
        worker._l2t_displacement.settings = CompressionConfig(**settings, estimator="exact")
        found["exact"] = derivatives(worker, ROWS[world][rank])
    found["shift_undone"] = all(torch.equal(displaced[name], local[name]) for name in local)
    worker.l2t_restore_weights()
    worker.l2t_perturb_weights(0.1)
    found["perturbed"] = scores()
    worker.l2t_restore_weights()
    found["restored"] = all(torch.equal(before[name], local[name]) for name in local)
    found["log_probs"] = worker.l2t_log_probs([[5, 6, 7, 8], [9, 10]])
    found["parameters"] = whole(parameters)
    torch.save(found, result / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

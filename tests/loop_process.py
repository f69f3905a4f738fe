"""Identical rollouts through the controlled comparison's loop and through verl's workers (FSDP2 on gloo), without Ray."""

from pathlib import Path

import torch

STEPS = 3


def rank_main(rank: int, world: int, start: Path, settings: dict, others: dict, result: Path) -> None:
    import copy
    import itertools

    import verl  # noqa: F401  (first, as in every process of a run: it loads the plugin)
    from cluster import composed
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from l2t_verl.plugin.workers.worker import L2TWorker
    from recipes.controlled import loop, sampling, scoring, task
    from recipes.controlled.settings import Settings

    settings = Settings(**settings)
    config, loss_config = loop.method(settings), loop.actor_config(settings)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(start)
    reference = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=loop.WEIGHT_DECAY)
    actor = "actor_rollout_ref.actor"
    whole = composed(
        f"actor_rollout_ref.model.path={start}",
        f"{actor}.optim.lr={settings.learning_rate}",
        f"{actor}.optim.weight_decay={loop.WEIGHT_DECAY}",
        f"{actor}.optim.clip_grad={loop.CLIP}",
        f"{actor}.optim.lr_warmup_steps=0",
        f"{actor}.use_kl_loss=True",
        f"{actor}.kl_loss_coef={settings.kl_loss}",
        f"{actor}.kl_loss_type=low_var_kl",
        f"{actor}.ppo_mini_batch_size={settings.prompts}",
        f"{actor}.ppo_micro_batch_size_per_gpu={settings.prompts * settings.group}",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8",
        f"actor_rollout_ref.rollout.n={settings.group}",
    ).actor_rollout_ref
    workers = {"actor": L2TWorker(whole, role="actor"), "ref": L2TWorker(whole, role="ref")}
    for worker in workers.values():
        worker.init_model()
    found = {"loop": [], "verl": []}
    source = task.problems("train", settings.seed)
    for step in range(STEPS):
        asked = [problem for problem in itertools.islice(source, settings.prompts) for _ in range(settings.group)]
        torch.manual_seed(step)
        rollouts = sampling.sample(model, tokenizer, asked, limit=settings.limit)
        scored = scoring.score(model, reference, tokenizer, rollouts, config)
        own = verl_scores(workers, config, rollouts, scored)
        for side, of_side in (("loop", scored), ("verl", own)):
            advantages = {name: arm_advantages(other, of_side) for name, other in others.items()}
            found[side].append({"advantages": advantages})
        loss = loop.update(
            model, optimiser, loss_config, rollouts, scored, loop.compute_advantages(settings, config, scored)
        )
        found["loop"][-1]["loss"] = loss["loss"]
        advantages = loop.compute_advantages(settings, config, own)
        found["verl"][-1]["loss"] = verl_update(workers, rollouts, own, advantages)
    parameters = dict(workers["actor"].actor.engine.module.named_parameters())
    found["parameters"] = {
        name: (p.detach(), parameters[name].full_tensor().detach()) for name, p in model.named_parameters()
    }
    found["start"] = {name: p.detach() for name, p in reference.named_parameters()}
    torch.save(found, result / "found.pt")
    torch.distributed.destroy_process_group()


def arm_advantages(arm: dict, scored) -> torch.Tensor:
    from recipes.controlled import loop
    from recipes.controlled.settings import Settings

    settings = Settings(**arm)
    return loop.compute_advantages(settings, loop.method(settings), scored)


def batch(rollouts: list, extra: dict, columns: dict, ends: list | None = None):
    """Rollouts as verl's workers get them."""
    from verl.utils import tensordict_utils as tu

    from l2t_verl.plugin import fields

    nested = lambda rows: torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)  # noqa: E731
    lengths = [len(r.response) for r in rollouts]
    tensors = {
        "input_ids": nested([[*r.prompt, *r.response] for r in rollouts]),
        "position_ids": nested([torch.arange(len(r.prompt) + len(r.response)) for r in rollouts]),
        "prompts": nested([r.prompt for r in rollouts]),
        "responses": nested([r.response for r in rollouts]),
        "response_mask": nested([torch.ones(n, dtype=torch.int64) for n in lengths]),
        "loss_mask": nested([torch.ones(n, dtype=torch.int64) for n in lengths]),
    }
    tensors |= {name: nested([row[:n] for row, n in zip(table, lengths, strict=True)]) for name, table in columns.items()}
    if ends is not None:
        tensors[fields.BOUNDARIES] = nested([[0, *of_row] for of_row in ends])
        tensors["reward_model"] = [{"ground_truth": r.problem.answer} for r in rollouts]
    return tu.get_tensordict(tensors, non_tensor_dict={"temperature": 1.0} | extra)


def verl_scores(workers: dict, config, rollouts: list, scored):
    """Log-probs and answer scores of the same rollouts by verl's workers; only ends and outcome are taken over."""
    import dataclasses

    from l2t_verl import compression, gain
    from l2t_verl.plugin import fields

    def responses(column) -> torch.Tensor:
        rows = [row[len(r.prompt) - 1 : -1] for row, r in zip(column.unbind(), rollouts, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    fused = {"calculate_entropy": True, "compute_loss": False, "l2t_fused": config.gain.model_dump()}
    output = workers["actor"].compute_log_prob(batch(rollouts, fused, {}, scored.ends))
    plain = batch(rollouts, {"calculate_entropy": False, "compute_loss": False}, {})
    old, ref = responses(output["log_probs"]), responses(workers["ref"].compute_ref_log_prob(plain)["log_probs"])
    width = scored.scores.shape[1]
    of_rows = output[fields.ANSWER_SCORES].unbind()
    scores = torch.stack([torch.cat([row, row[-1:].expand(width - len(row))]) for row in of_rows]).double()
    scores[[not ends for ends in scored.ends]] = 0.0  # the worker scores no row without episodes
    penalty = compression.compression_penalty(
        compression.log_ratio_deltas(old, ref, scored.mask), scored.episode_ids, scored.mask, num_episodes=width - 1
    )
    process = compression.process_rewards(gain.fitting_gains(scores), penalty, config.beta)
    return dataclasses.replace(scored, old_log_probs=old, ref_log_probs=ref, process=process)


def verl_update(workers: dict, rollouts: list, scored, advantages: torch.Tensor) -> float:
    """One update by verl's actor; its loss."""
    from verl.utils import tensordict_utils as tu

    rows = len(rollouts)
    settings = {"calculate_entropy": False, "distillation_use_topk": False, "distillation_only": False,
                "global_batch_size": rows, "mini_batch_size": rows, "epochs": 1, "seed": 0,
                "dataloader_kwargs": {"shuffle": False}}  # fmt: skip
    columns = {"old_log_probs": scored.old_log_probs, "advantages": advantages, "ref_log_prob": scored.ref_log_probs}
    return tu.get(workers["actor"].update_actor(batch(rollouts, settings, columns)), "metrics")["loss"][0]

"""The actor's worker with the calls that L2T adds: answer scores, a gradient norm, a probe of the weight updates.

Scores go through the engine's own `infer_batch`, so every engine that verl trains with can serve them, with its
sharding, offload, attention and kernels. All ranks make the same number of forwards, or collectives would deadlock: verl
counts micro-batches over the data-parallel group, provided that every rank has as many sequences as there are of them
and the same bound on their tokens. The ranks agree on both first; the shorter of them add sequences of padding.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
import zmq
from tensordict import TensorDict
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker

import l2t_verl
from l2t_verl.config import GainConfig
from l2t_verl.gain import ForcingTemplate, answer_targets, best_of_answers, reduce_log_probs
from l2t_verl.plugin import fields
from l2t_verl.plugin.startup import context_length

WEIGHT_UPDATE_TIMEOUT_MS = 45_000


class L2TWorker(ActorRolloutRefWorker):
    """verl's hybrid worker; everything that verl calls is verl's own."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_version(self) -> str:
        """The version of this package on the worker's node."""
        return l2t_verl.__version__

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    async def update_weights(self, global_steps: int | None = None, mode: str = "auto") -> Any:
        """Verl's weight update, which waits for ever for a rollout engine that failed to take the weights.

        Raises:
            RuntimeError: the engine's own error, if it failed or did not answer within a minute.
        """
        calls: list[Any] = []
        execute, context = self.rollout._execute_method, zmq.Context.instance()

        async def remember(*args: Any, **kwargs: Any) -> Any:
            calls.append(await execute(*args, **kwargs))
            return calls[-1]

        self.rollout._execute_method = remember
        context.setsockopt(zmq.RCVTIMEO, WEIGHT_UPDATE_TIMEOUT_MS)  # for sockets made from now on
        try:
            return await super().update_weights(global_steps=global_steps, mode=mode)
        except zmq.Again as error:
            for call in calls:
                if isinstance(call, ray.ObjectRef):
                    ray.get(call, timeout=5)  # raises the engine's own error, if it has one
            raise RuntimeError(
                f"the rollout engine took no weights for {WEIGHT_UPDATE_TIMEOUT_MS / 1000:.0f} s; its own error stands "
                "above in the log"
            ) from error
        finally:
            context.setsockopt(zmq.RCVTIMEO, -1)
            self.rollout._execute_method = execute

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def l2t_answer_scores(self, data: TensorDict) -> TensorDict | None:
        """Score the reference answer after each episode boundary of each row, with the current policy.

        Args:
            data: rows with `prompts`, `responses`, `reward_model`, `l2t_boundaries` (nested int64 [K+1], from 0) and
                the non-tensor `l2t_gain` (the `GainConfig` as a dictionary).

        Returns:
            `l2t_answer_scores`, nested float32 [K+1] per row: J_0 … J_K. NaN in rows without an episode, and in rows
            whose longest prefix leaves no room for the answer within the model's context. None on ranks that hold no
            output (pipeline stages, tensor-parallel peers).
        """
        config = GainConfig(**tu.get_non_tensor_data(data, "l2t_gain", default=None))
        plan = _ScoringPlan(config, self.actor.model_config.tokenizer, context_length(self.actor.model_config))
        ground_truths = [fields.ground_truth_of(item) for item in fields.objects(data, "reward_model")]
        columns = (data["prompts"].unbind(), data["responses"].unbind(), data[fields.BOUNDARIES].unbind())
        for prompt, response, boundaries, truth in zip(*columns, ground_truths, strict=True):
            plan.add_row(prompt, response, boundaries[1:].tolist(), fields.accepted_answers(truth))
        output = self.actor.infer_batch(self._as_batch(plan.sequences, config.max_tokens_per_micro_batch))
        if output is None:
            return None
        return TensorDict({fields.ANSWER_SCORES: plan.scores(output["log_probs"])}, batch_size=len(ground_truths)).cpu()

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def l2t_grpo_grad_norm(self, data: TensorDict) -> TensorDict:
        """The norm of the policy gradient that the rows have with GRPO's advantages; no parameter moves.

        Args:
            data: rows as for `update_actor`, with `l2t_grpo_advantages` in the place of `advantages`.

        Returns:
            The norm as the non-tensor `grad_norm` (before clipping, over the whole batch as one mini-batch).
        """
        engine = self.actor.engine
        data["advantages"] = data.pop(fields.GRPO_ADVANTAGES)
        settings = {
            "use_remove_padding": self.actor.model_config.get("use_remove_padding", False),
            "use_dynamic_bsz": engine.engine_config.use_dynamic_bsz,
            "max_token_len_per_gpu": engine.engine_config.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": engine.engine_config.micro_batch_size_per_gpu,
            "use_fused_kernels": engine.engine_config.use_fused_kernels,
        }
        tu.assign_non_tensor(data, **settings)
        with engine.train_mode():  # leaves with the gradients cleared
            engine.optimizer_zero_grad()
            engine.forward_backward_batch(data, loss_function=self.actor.loss_fn, forward_only=False)
            norm = torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None])
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"grad_norm": float(norm)})

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_displacement(self) -> float:
        """‖θ − θ_0‖ / ‖θ_0‖, how far training has moved the weights from the reference policy's; NaN without one."""
        if self.ref is None:
            return float("nan")
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            pairs = zip(self.actor.engine.module.parameters(), self.ref.engine.module.parameters(), strict=True)
            for now, start in pairs:
                first = _local(start).double().cpu()
                sums += torch.stack([(_local(now).double().cpu() - first).square().sum(), first.square().sum()])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)  # a tensor on the CPU goes over gloo, which verl always sets up
        return (sums[0] / sums[1]).sqrt().item()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_perturb_weights(self, relative_size: float) -> None:
        """Add seeded noise to every trained parameter, in units of its root mean square; `l2t_restore_weights` undoes it."""
        generator = torch.Generator().manual_seed(0)
        self._l2t_saved = []
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, self.actor.engine.module.parameters()):
                local = _local(parameter)
                self._l2t_saved.append((local, local.clone()))
                noise = torch.randn(local.shape, generator=generator).to(local)
                size = local.float().pow(2).mean().sqrt().item() or 0.01  # a fresh LoRA adapter is all zeros
                local.add_(noise, alpha=relative_size * size)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_restore_weights(self) -> None:
        """Put the parameters back, bit for bit."""
        with torch.no_grad():
            for local, saved in self._l2t_saved:
                local.copy_(saved)
        self._l2t_saved = []

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_log_probs(self, sequences: list[list[int]]) -> list[list[float]]:
        """Log-probs of the tokens 1 … of each sequence (the first has no context), at temperature 1, in nats."""
        output = self.actor.infer_batch(self._as_batch([torch.tensor(ids) for ids in sequences]))
        return [row[:-1].tolist() for row in output["log_probs"].unbind()] if output is not None else []

    def _as_batch(self, sequences: list[torch.Tensor], max_tokens: int = 0) -> TensorDict:
        """Sequences as the rows that verl's engines take, with the settings of a plain forward of the policy itself."""
        bounds = torch.tensor([max(len(sequences), 1), max(max_tokens, 2, *map(len, sequences))], device=get_device_name())
        group = self.actor.engine.get_data_parallel_group()
        if group is not None:
            torch.distributed.all_reduce(bounds, op=torch.distributed.ReduceOp.MAX, group=group)
        count, budget = bounds.tolist()
        padding = torch.zeros(2, dtype=torch.int64)
        rows = sequences + [padding] * (count - len(sequences))
        nested = {
            "input_ids": rows,
            "position_ids": [torch.arange(len(ids)) for ids in rows],
            "loss_mask": [torch.ones(len(ids), dtype=torch.int64) for ids in rows],
        }
        tensors = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in nested.items()}
        settings = {
            "temperature": 1.0,
            "calculate_entropy": False,
            "compute_loss": False,
            "no_lora_adapter": False,  # a reference pass before may have left the adapter off
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": budget,
            "global_token_num": [len(ids) for ids in rows],
        }
        return tu.get_tensordict(tensor_dict=tensors, non_tensor_dict=settings)


class _ScoringPlan:
    """Rows become plain sequences (prompt, prefix, suffix, answer), and their log-probs become J again."""

    def __init__(self, config: GainConfig, tokenizer: Any, context_length: int | None):
        self.config, self.tokenizer, self.context_length = config, tokenizer, context_length
        self.template = ForcingTemplate.from_config(config)
        self.sequences: list[torch.Tensor] = []
        self._answer_lengths: list[int] = []
        self._rows: list[tuple[int, int]] = []  # for each row: accepted answers that fit, prefixes

    def add_row(self, prompt: torch.Tensor, response: torch.Tensor, ends: list[int], answers: list[str]) -> None:
        """Add the K+1 sequences of each accepted answer, as far as they fit the model's context."""
        scored = 0
        for answer in answers if ends else []:
            targets = answer_targets(self.tokenizer, prompt, response, ends, answer, self.template)
            sequences = [
                torch.cat([prompt, response[:end], torch.tensor([*target.suffix_ids, *target.answer_ids])])
                for end, target in zip([0, *ends], targets, strict=True)
            ]
            if self.context_length is not None and max(map(len, sequences)) > self.context_length:
                continue
            self.sequences += sequences
            self._answer_lengths += [len(target.answer_ids) for target in targets]
            scored += 1
        self._rows.append((scored, len(ends) + 1))

    def scores(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Reduce the engine's nested log-probs (position t predicts token t+1) to nested J, one entry per row."""
        answers = [row[-1 - n : -1].float() for row, n in zip(log_probs.unbind(), self._answer_lengths, strict=False)]
        if answers:
            lengths = torch.tensor(self._answer_lengths)
            padded = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True).cpu()
            values = reduce_log_probs(padded, lengths, kind=self.config.kind)
        rows, position = [], 0
        for scored, prefixes in self._rows:
            if scored:
                block = values[position : position + scored * prefixes].reshape(scored, prefixes)
                rows.append(best_of_answers(block))
                position += scored * prefixes
            else:
                rows.append(torch.full((prefixes,), float("nan")))
        return torch.nested.as_nested_tensor([row.float() for row in rows], layout=torch.jagged)


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter

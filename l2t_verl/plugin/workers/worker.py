"""The actor's worker with the calls that L2T adds: answer scores, a gradient norm, a probe of the weight updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
import torch
import zmq
from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.profiler import DistProfiler
from verl.workers.engine_workers import ActorRolloutRefWorker

import l2t_verl
from l2t_verl.config import CompressionConfig, GainConfig
from l2t_verl.patches import on_cpu_platform
from l2t_verl.plugin import fields
from l2t_verl.plugin.settings import context_length
from l2t_verl.plugin.workers import collectives, derivatives, scoring
from l2t_verl.plugin.workers.displacement import Displacement, local_part, reshard
from l2t_verl.plugin.workers.plan import ScoringPlan, as_verl
from l2t_verl.registry import load_plugins

WEIGHT_UPDATE_TIMEOUT_MS = 45_000

if TYPE_CHECKING:  # what the mixin is mixed into
    from verl.workers.engine_workers import ActorRolloutRefWorker as _Worker
else:
    _Worker = object


class L2TWorkerMixin(_Worker):
    """What L2T adds to one of verl's hybrid workers; what verl calls is verl's own, but for two methods.

    `compute_log_prob` also gives the answer scores where the trainer asks for them, and on the CPU platform a weight update
    ends its waiting.
    """

    _l2t_displacement: Displacement | None = None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_version(self) -> str:
        """The version of this package on the worker's node."""
        return l2t_verl.__version__

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_load_plugins(self, modules: tuple[str, ...]) -> None:
        """Import the modules that register kinds of J; the settings that come with a batch name them.

        Raises:
            ValueError: one cannot be imported on this node.
        """
        load_plugins(modules)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    async def update_weights(self, global_steps: int | None = None, mode: str = "auto") -> Any:
        """Verl's weight update; on the CPU platform with an end to its waiting for an engine that failed to take them.

        Raises:
            RuntimeError: the engine's own error, if it failed or did not answer within a minute (CPU platform only).
        """
        if not on_cpu_platform() or self.rollout is None:  # an engine elsewhere is sent weights by verl's checkpoint engine
            return await super().update_weights(global_steps=global_steps, mode=mode)
        calls: list[Any] = []
        execute = self.rollout._execute_method
        context: zmq.Context = zmq.Context.instance()

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
            whose longest prefix leaves no room for the answer within the model's context. With packed rows also
            `l2t_score_gap`, float32 [B]. None on ranks that hold no output (pipeline stages, tensor-parallel peers).
        """
        config = GainConfig(**tu.get_non_tensor_data(data, "l2t_gain", default=None))
        plan = self._plan(data, config)
        if self._packs(config):
            found = scoring.packed_pass(self.actor, plan.rows, config.max_tokens_per_micro_batch).answers
            return TensorDict(self._columns(plan, found), batch_size=len(plan.rows))
        answers = scoring.expanded_log_probs(self.actor, plan.rows, config.max_tokens_per_micro_batch)
        if answers is None:
            return None
        return TensorDict({fields.ANSWER_SCORES: plan.scores(answers)}, batch_size=len(plan.rows))

    def _columns(self, plan: ScoringPlan, answers: list[list[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """J of packed rows, and how far one row's is off by plain sequences: what of a difference in J is rounding."""
        again = scoring.expanded_log_probs(self.actor, plan.asked_twice(), plan.config.max_tokens_per_micro_batch)
        assert again is not None  # packed rows are of engines whose ranks all hold output
        return {fields.ANSWER_SCORES: plan.scores(answers), fields.SCORE_GAP: plan.score_gaps(answers, again)}

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def compute_log_prob(self, data: TensorDict) -> TensorDict | None:
        """Verl's; where the trainer asks for answer scores beside it, both come from the same forward.

        Args:
            data: verl's rows; with the non-tensor `l2t_fused`, also what `l2t_answer_scores` takes.

        Returns:
            verl's `log_probs` and `entropy`; with `l2t_fused` also `l2t_answer_scores`.
        """
        request = tu.get_non_tensor_data(data, "l2t_fused", default=None)
        if request is None:
            return super().compute_log_prob(data)
        config = GainConfig(**request)
        if not self._packs(config):
            output = super().compute_log_prob(data)
            plan = self._plan(data, config)
            answers = scoring.expanded_log_probs(self.actor, plan.rows, config.max_tokens_per_micro_batch)
            if output is None or answers is None:
                return None
            output[fields.ANSWER_SCORES] = plan.scores(answers)
            return output
        return self._fused(data, config)

    @DistProfiler.annotate(color="blue", role="actor_compute_log_prob")
    def _fused(self, data: TensorDict, config: GainConfig) -> TensorDict:
        """Old log-probs, entropies and answer scores from one forward."""
        plan = self._plan(data, config, own_tokens=True)
        engine = self.actor.engine_config
        bound = config.max_tokens_per_micro_batch
        if engine.use_dynamic_bsz:  # what verl's own forward is held to
            bound = min(bound, engine.infer_max_token_len_per_gpu)
        entropy = tu.get_non_tensor_data(data, "calculate_entropy", default=False)
        temperature = tu.get_non_tensor_data(data, "temperature", default=1.0)
        found = scoring.packed_pass(self.actor, plan.rows, bound, temperature=temperature, entropy=entropy)
        columns = {"log_probs": as_verl(plan.rows, found.tokens), **self._columns(plan, found.answers)}
        if entropy:
            columns["entropy"] = as_verl(plan.rows, found.entropies)
        return TensorDict(columns, batch_size=len(plan.rows))

    def _plan(self, data: TensorDict, config: GainConfig, own_tokens: bool = False) -> ScoringPlan:
        plan = ScoringPlan(config, self.actor.model_config.tokenizer, context_length(self.actor.model_config))
        ground_truths = [fields.ground_truth_of(item) for item in fields.objects(data, "reward_model")]
        columns = (data["prompts"].unbind(), data["responses"].unbind(), data[fields.BOUNDARIES].unbind())
        for prompt, response, boundaries, truth in zip(*columns, ground_truths, strict=True):
            answers = fields.accepted_answers(truth)
            plan.add_row(prompt, response, boundaries[1:].tolist(), answers, own_tokens=own_tokens)
        return plan

    def _packs(self, config: GainConfig) -> bool:
        return config.backend == "packed" and scoring.why_not_packed(self.actor) is None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_why_not_packed(self) -> str | None:
        """Why the answers of a response cannot branch off it in one forward; None if they can."""
        return scoring.why_not_packed(self.actor)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_fuses(self) -> bool:
        """Whether one forward may give old log-probs and scores without another rounding in what training compares."""
        strategy = self.actor.engine_config.strategy
        return strategy in ("fsdp", "fsdp2") and scoring.compute_dtype(self.actor.engine) == torch.float32

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_keep_start(self, settings: dict[str, Any]) -> None:
        """Keep a copy of the weights that the displacement is measured from: call it before a checkpoint is loaded.

        Args:
            settings: the `CompressionConfig` as a dictionary.
        """
        with self.actor.engine.eval_mode():
            self._l2t_displacement = Displacement(self.actor.engine.module, CompressionConfig(**settings))

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def l2t_derivatives(self, data: TensorDict) -> TensorDict:
        """d_k of each episode along the weights' displacement from the start, with the current policy.

        Args:
            data: rows with `prompts`, `responses`, `response_mask`, `l2t_boundaries` and the non-tensors `temperature` and
                `l2t_max_tokens`.

        Returns:
            `l2t_derivatives`, nested float64 [K+1] per row in nats, the first of them 0; and `l2t_displacement_norm`,
            float64 [B]: ‖Δθ̃‖².
        """
        assert self._l2t_displacement is not None  # the trainer called l2t_keep_start
        return derivatives.derivatives(self.actor, self._l2t_displacement, data)

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def l2t_grpo_grad_norm(self, data: TensorDict) -> TensorDict:
        """The norm of the policy gradient that the rows have with GRPO's advantages; no parameter moves.

        Args:
            data: rows as for `update_actor`, with `l2t_grpo_advantages` in the place of `advantages`.

        Returns:
            The norm as the non-tensor `grad_norm` (before clipping, over the whole batch as one mini-batch). The loss is
            the actor's own, so a KL or entropy term in it counts too.
        """
        engine = self.actor.engine
        data["advantages"] = data.pop(fields.GRPO_ADVANTAGES)
        tu.assign_non_tensor(data, **scoring.engine_settings(self.actor))
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
        now, start, sums = self.actor.engine, self.ref.engine, torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), now.eval_mode(), start.eval_mode():  # offloaded parameters are here and whole only inside
            reshard(now.module)  # else one may be gathered, and the other this rank's part
            reshard(start.module)
            for parameter, first in zip(now.module.parameters(), start.module.parameters(), strict=True):
                first = local_part(first).double().cpu()
                moved = local_part(parameter).double().cpu() - first
                sums += torch.stack([moved.square().sum(), first.square().sum()])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)  # a tensor on the CPU goes over gloo, which verl always sets up
        return (sums[0] / sums[1]).sqrt().item()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_perturb_weights(self, relative_size: float) -> None:
        """Add seeded noise to every trained parameter, in units of its root mean square; `l2t_restore_weights` undoes it."""
        generator = torch.Generator().manual_seed(0)
        self._l2t_saved = {}
        with torch.no_grad(), self.actor.engine.eval_mode():
            for name, local in self._trained_parts():
                self._l2t_saved[name] = local.cpu().clone()
                noise = torch.randn(local.shape, generator=generator).to(local)
                size = local.float().pow(2).mean().sqrt().item() or 0.01  # a fresh LoRA adapter is all zeros
                local.add_(noise, alpha=relative_size * size)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_restore_weights(self) -> None:
        """Put the parameters back, bit for bit; by name, for offloading moves them to other memory in between."""
        with torch.no_grad(), self.actor.engine.eval_mode():
            for name, local in self._trained_parts():
                local.copy_(self._l2t_saved[name])
        self._l2t_saved = {}

    def _trained_parts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's parts of the trained parameters as they lie now."""
        module = self.actor.engine.module
        reshard(module)
        return ((name, local_part(p)) for name, p in module.named_parameters() if p.requires_grad)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def l2t_log_probs(self, sequences: list[list[int]]) -> list[list[float]]:
        """Log-probs of the tokens 1 … of each sequence (the first has no context), at temperature 1, in nats."""
        log_probs = collectives.sequence_log_probs(self.actor, sequences)
        return [values.tolist() for values in log_probs] if log_probs is not None else []


class L2TWorker(L2TWorkerMixin, ActorRolloutRefWorker):
    """verl's worker of the trainers whose rollout shares the actor's devices."""


class L2TDetachWorker(L2TWorkerMixin, DetachActorWorker):
    """verl's worker of the trainer whose rollout has devices of its own."""

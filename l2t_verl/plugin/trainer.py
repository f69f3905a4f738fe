"""The trainer `l2t_sync`: verl's synchronous trainer with the process reward between log-probs and advantages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer

import l2t_verl
from l2t_verl.config import ConfigError
from l2t_verl.credit import update_length_cost
from l2t_verl.plugin import liveness, startup, step, weight_sync
from l2t_verl.plugin.estimator import credit_context
from l2t_verl.plugin.metrics import report
from l2t_verl.plugin.worker import L2TWorker

STATE_FILE = "l2t_state.json"


class L2TMixin:
    """Adds L2T to one of verl's V1 trainers. It wraps verl's methods and copies none."""

    def __init__(self, config: DictConfig):
        """Check the configuration and build verl's trainer.

        Raises:
            ConfigError: what cannot be trained with, all in one message.
        """
        self.l2t = startup.read_config(config)
        startup.check_verl_config(config, self.l2t)
        # verl compares this name with "sync" to choose the replay buffer, batch sizes and checkpoint layout.
        with open_dict(config):
            config.trainer.v1.trainer_mode = startup.base_mode(config.trainer.v1.trainer_mode)
        self.length_cost = self.l2t.credit.length_cost
        self.rollout_records: dict[str, dict] = {}
        self.cluster_watch: liveness.Watch | None = None
        super().__init__(config)
        self.needs_reference = self.l2t.beta > 0
        if self.needs_reference and not self.use_reference_policy:
            self.use_reference_policy = True
            startup.provide_reference_config(config)

    # ---- start

    def _init_dataloader(self) -> None:
        """Look at the data before anything heavy is started."""
        if hasattr(self.processor, "get_rope_index"):  # what verl asks to decide on positions in three dimensions
            raise ConfigError(
                f"L2T cannot score the model of {type(self.processor).__name__}: its positions have three dimensions; "
                "train a text model"
            )
        super()._init_dataloader()
        model = self.config.actor_rollout_ref.model.copy()
        with open_dict(model):
            model.load_tokenizer = False
        startup.check_data(
            {"data.train_files": self.train_dataset, "data.val_files": self.val_dataset},
            self.config,
            self.l2t,
            self.tokenizer,
            startup.context_length(omega_conf_to_dataclass(model)),
        )

    def _init_resource_pool_mgr(self) -> None:
        """Put our worker in the place of verl's, with a reference policy where the penalty needs one."""
        super()._init_resource_pool_mgr()
        roles, pools = self.role_worker_mapping, self.mapping
        provides_reference = self.use_reference_policy and not need_reference_policy(self.config)
        if provides_reference and Role.ActorRollout in roles and not startup.uses_lora(self.config):
            roles[Role.ActorRolloutRef] = roles.pop(Role.ActorRollout)
            pools[Role.ActorRolloutRef] = pools.pop(Role.ActorRollout)
        for role in (Role.ActorRollout, Role.ActorRolloutRef):
            if role in roles:
                roles[role] = ray.remote(L2TWorker)

    def _setup(self) -> None:
        with liveness.watch(self):
            super()._setup()
            startup.check_versions(self.actor_rollout_wg.l2t_version(), l2t_verl.__version__)

    def on_init_end(self) -> None:
        """Send the weights to the rollout and, on the CPU platform, prove that it computes with them."""
        with liveness.watch(self):
            super().on_init_end()
            weight_sync.check(self)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train; a dead rollout server or worker ends the run with its error."""
        with liveness.watch(self, only_present=True):
            super().fit(agent_loop_manager)

    def _build_replay_buffer(self) -> Any:
        return liveness.guard_buffer(super()._build_replay_buffer(), self)

    # ---- one step

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with marked_timer("l2t", self.timing_raw, color="magenta"):
            rewards = step.process_rewards(self, batch)
        with credit_context(rewards.credit_context(self)) as context:
            batch = super()._compute_advantage(batch, metrics)
        with marked_timer("l2t", self.timing_raw, color="magenta"):
            if context.advantages is None:  # another estimator's
                context.advantages, context.response_mask = step.token_advantages(batch)
            metrics.update(report(self, rewards, context))
            if self.l2t.diagnostics.compare_grpo:
                metrics["l2t/grpo_grad_norm"] = step.grpo_grad_norm(self, batch)
            if self.l2t.diagnostics.displacement:
                metrics["l2t/displacement"] = self.actor_rollout_wg.l2t_displacement()[0]
            if self.config.trainer.get("rollout_data_dir", None):
                self.rollout_records.update(step.rollout_records(self, rewards, context))
            self._adapt_length_cost(rewards)
        return batch

    def _adapt_length_cost(self, rewards: step.ProcessRewards) -> None:
        """One step of dual ascent on λ, where a token budget is set."""
        settings = self.l2t.credit
        if settings.token_budget is not None:
            self.length_cost = update_length_cost(
                self.length_cost, rewards.mean_correct_tokens(), settings.token_budget, settings.length_cost_rate
            )

    def _dump_generations(self, inputs: list, outputs: list, gts: list, scores: list, **kwargs: Any) -> None:
        """Add each rollout's episodes to verl's dump."""
        extra = kwargs.get("reward_extra_infos_dict", {})
        records = [self.rollout_records.pop(key, None) for key in extra.get("uid", [])]
        if any(record is not None for record in records):
            extra = extra | {"l2t": records}
        kwargs["reward_extra_infos_dict"] = extra
        super()._dump_generations(inputs=inputs, outputs=outputs, gts=gts, scores=scores, **kwargs)

    # ---- checkpoints

    def _save_checkpoint(self) -> None:
        """Keep λ beside verl's checkpoint; written first, because verl's last file marks the checkpoint as complete."""
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (STATE_FILE + ".partial")
        partial.write_text(json.dumps({"length_cost": self.length_cost, "version": l2t_verl.__version__}))
        os.replace(partial, folder / STATE_FILE)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        resumed = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
        state = Path(resumed or Path(trainer.default_local_dir) / f"global_step_{self.global_steps}") / STATE_FILE
        if state.exists():
            self.length_cost = json.loads(state.read_text())["length_cost"]


@register_trainer("l2t_sync")
class L2TTrainerSync(L2TMixin, PPOTrainerSync):
    """verl's synchronous trainer with L2T's rewards: `trainer.v1.trainer_mode=l2t_sync`."""

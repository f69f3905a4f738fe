"""The trainers `l2t_sync`, `l2t_colocate_async`, `l2t_separate_async`: verl's, with process rewards before advantages."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer

import l2t_verl
from l2t_verl.compression import ESTIMATORS
from l2t_verl.compression.beta import with_beta_per_nat
from l2t_verl.config import ConfigError
from l2t_verl.credit import CreditInputs, Critic, LengthCost, taught, update_length_cost
from l2t_verl.files import write_whole
from l2t_verl.plugin import settings, stopping
from l2t_verl.plugin.cpu import weight_sync
from l2t_verl.plugin.driver import changes, checkpoints, cluster, continued, data, liveness, records, refusals, step
from l2t_verl.plugin.driver.context import StepContext
from l2t_verl.plugin.driver.estimator import credit_context
from l2t_verl.plugin.driver.live import log_distributions
from l2t_verl.plugin.driver.metrics import report
from l2t_verl.plugin.driver.rewards import ProcessRewards
from l2t_verl.plugin.workers.worker import L2TDetachWorker, L2TWorker

logger = logging.getLogger(__name__)

STATE_FILE = "l2t_state.json"
CRITIC_FILE = "l2t_critic.pt"
LARGE_SHARE = 0.9  # of the penalty in the process reward

if TYPE_CHECKING:  # what the mixin is mixed into
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync as _Trainer
else:
    _Trainer = object


class L2TMixin(_Trainer):
    """Adds L2T to one of verl's V1 trainers. It wraps verl's methods and copies none.

    Attributes:
        packs_rows: whether a response and its forced answers share a forward; None where no answer is forced.
        fuses_scores: whether the answer scores come from the forward that gives the old log-probs.
    """

    worker_class: type = L2TWorker
    packs_rows: bool | None = None
    fuses_scores = False
    use_reference_policy: bool  # verl's
    total_training_steps: int  # verl's

    def __init__(self, config: DictConfig):
        """Check the configuration and build verl's trainer.

        Raises:
            ConfigError: what cannot be trained with, all in one message.
        """
        self.l2t = settings.read_config(config)
        refusals.check_verl_config(config, self.l2t)
        # verl compares this name with "sync" to choose the replay buffer, batch sizes and checkpoint layout.
        with open_dict(config):
            config.trainer.v1.trainer_mode = settings.base_mode(config.trainer.v1.trainer_mode)
        self.l2t = with_beta_per_nat(self.l2t, config.data.max_response_length)
        self.length_cost = LengthCost.fixed(self.l2t.credit.first_length_cost)
        self.critic = Critic()
        self.corrects_rounding = settings.corrects_rounding(config, self.l2t)
        if self.corrects_rounding:
            changes.provide_log_probs(config)
        self.penalty_drowns = False
        self.rollout_records: dict[str, dict] = {}
        self.cluster_watch: liveness.Watch | None = None
        self.step_saved: int | None = None  # the last one with a checkpoint
        self.step_to_count: int | None = None  # the same, until it is over
        self.mark_is_held = False
        self.metrics_file = continued.file_of_metrics(config.trainer)
        super().__init__(config)
        changes.provide_agent_loop_manager(config, self.l2t)
        self.displaces = self.l2t.beta > 0 and self.l2t.compression.estimator not in ESTIMATORS
        self.needs_reference = self.l2t.beta > 0 and not self.displaces
        if self.needs_reference and not self.use_reference_policy:
            self.use_reference_policy = True
            changes.provide_reference_config(config)

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
        data.check_data(
            {"data.train_files": self.train_dataset, "data.val_files": self.val_dataset},
            self.config,
            self.l2t,
            self.tokenizer,
            settings.context_length(omega_conf_to_dataclass(model)),
        )

    def _init_resource_pool_mgr(self) -> None:
        """Put our worker in the place of verl's, with a reference policy where the penalty needs one."""
        super()._init_resource_pool_mgr()
        roles, pools = self.role_worker_mapping, self.mapping
        provides_reference = self.use_reference_policy and not need_reference_policy(self.config)
        if provides_reference and Role.ActorRollout in roles and not settings.uses_lora(self.config):
            roles[Role.ActorRolloutRef] = roles.pop(Role.ActorRollout)
            pools[Role.ActorRolloutRef] = pools.pop(Role.ActorRollout)
        if provides_reference and Role.Actor in roles and not settings.uses_lora(self.config):
            roles[Role.RefPolicy], pools[Role.RefPolicy] = roles[Role.Actor], pools[Role.Actor]
        for role in (Role.Actor, Role.RefPolicy, Role.ActorRollout, Role.ActorRolloutRef):
            if role in roles:
                roles[role] = ray.remote(self.worker_class)

    def _setup(self) -> None:
        cluster.check(self.config)
        with liveness.watch(self):
            super()._setup()
            refusals.check_versions(self.actor_rollout_wg.l2t_version(), l2t_verl.__version__)
            self.actor_rollout_wg.l2t_load_plugins(self.l2t.plugins)
            self.packs_rows = self._packs_rows()
            self.fuses_scores = self._fuses_scores()

    def _packs_rows(self) -> bool | None:
        """Whether rows are packed; a fall-back is said here, and refused where `packed` was asked for.

        Raises:
            ConfigError: `gain.backend=packed` is set, and the workers' engine or model does not allow it.
        """
        if self.l2t.gain.kind == "monte_carlo":
            return None
        if self.l2t.gain.backend == "expanded":
            return False
        reason = next((why for why in self.actor_rollout_wg.l2t_why_not_packed() if why is not None), None)
        if reason is None:
            return True
        if settings.asks_for_packed(self.l2t):
            raise ConfigError(refusals.REFUSED_PACKED.format(reason))
        logger.warning(
            "l2t: rows are not packed, each forced answer is read as a sequence of its own, which takes some 15 times as "
            "long: %s. algorithm.l2t.gain.backend=expanded says that this is meant; packed, set there, refuses it",
            reason,
        )
        return False

    def _fuses_scores(self) -> bool:
        """Whether scores and old log-probs share a forward: as configured, else where the workers compute in float32."""
        reason = settings.why_not_fused(self.config, self.l2t)
        wanted = self.l2t.gain.fused
        if reason is not None or wanted is False:
            return False
        return bool(wanted) or all(self.actor_rollout_wg.l2t_fuses())

    def on_init_end(self) -> None:
        """Send the weights to the rollout and, on the CPU platform, prove that it computes with them."""
        with liveness.watch(self):
            super().on_init_end()
            weight_sync.check(self, super().on_init_end)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train; a dead rollout server or worker ends the run with its error, SIGTERM with a checkpoint."""
        if self.metrics_file is not None:
            continued.set_aside(self.metrics_file, self.global_steps)
        with liveness.watch(self, only_present=True):
            stopping.listen()
            super().fit(agent_loop_manager)
            self._step_is_over()
            stopping.deaf()

    def on_train_begin(self) -> None:
        """The logger has emptied its file by now: the steps before a restart go back into it."""
        if self.metrics_file is not None:
            self._write_whole_rows()
            continued.give_back(self.metrics_file, self.logger.logger["file"].fp.write)
        super().on_train_begin()

    def _write_whole_rows(self) -> None:
        """Let verl's logger, if there is one yet, not leave off within a row."""
        log = self.logger.logger.get("file") if hasattr(self, "logger") else None
        if log is not None and not isinstance(log.fp, continued.WholeRows):
            log.fp = continued.WholeRows(log.fp)

    def _build_replay_buffer(self) -> Any:
        return liveness.guard_buffer(super()._build_replay_buffer(), self)

    # ---- one step

    def on_step_begin(self) -> None:
        """The step before is logged by now."""
        self._step_is_over()
        super().on_step_begin()

    def on_step_end(self) -> None:
        """Save, and let this step be the last one, where the run is asked to end."""
        if stopping.asked() and self.global_steps < self.total_training_steps:
            if self.step_saved != self.global_steps:
                self._save_checkpoint()
            logger.warning("l2t: the run was asked to end: step %d is its last, and is saved", self.global_steps)
            self.total_training_steps = self.global_steps
        super().on_step_end()

    def _step_context(self) -> StepContext:
        rollouts = self.config.data.train_batch_size // self.parameter_sync_step * self.config.actor_rollout_ref.rollout.n
        return StepContext(
            l2t=self.l2t,
            config=self.config,
            workers=self.actor_rollout_wg,
            tokenizer=self.tokenizer,
            step=self.global_steps,
            length_cost=self.length_cost.value,
            needs_reference=self.needs_reference,
            corrects_rounding=self.corrects_rounding,
            displaces=self.displaces,
            packs_rows=self.packs_rows,
            fuses_scores=self.fuses_scores,
            rollouts=rollouts,
            critic_weights=self.critic.weights,
        )

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Verl's, whose forward also gives the answer scores where that is possible."""
        if not self.fuses_scores:
            return super()._compute_old_log_prob(batch, metrics)
        with marked_timer("l2t", self.timing_raw, color="magenta"):
            step.prepare_fused_scores(self._step_context(), batch)
        batch.extra_info["l2t_fused"] = self.l2t.gain.model_dump()
        result = super()._compute_old_log_prob(batch, metrics)
        for done in (batch, result):
            done.extra_info.pop("l2t_fused", None)
        return result

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with marked_timer("l2t", self.timing_raw, color="magenta"):
            context = self._step_context()
            rewards = step.process_rewards(context, batch)
        with credit_context(step.credit_inputs(context, rewards)) as credit:
            batch = super()._compute_advantage(batch, metrics)
        with marked_timer("l2t", self.timing_raw, color="magenta"):
            if credit.advantages is None:  # another estimator's
                credit.advantages, credit.response_mask = step.token_advantages(batch)
            rewards.process = credit.process  # as the credit took them
            metrics.update(report(context, rewards, credit))
            self._warn_of_penalty(metrics["l2t/compression/share"])
            log_distributions(self.logger.logger, rewards, self.global_steps)
            if self.l2t.diagnostics.compare_grpo:
                metrics["l2t/grpo_grad_norm"] = step.grpo_grad_norm(context, batch)
            if self.l2t.diagnostics.displacement:
                metrics["l2t/displacement"] = self.actor_rollout_wg.l2t_displacement()[0]
            if self.config.trainer.get("rollout_data_dir", None):
                self.rollout_records.update(records.rollout_records(context, rewards, credit))
            self._adapt_length_cost(rewards)
            self._teach_critic(credit.inputs)
        return batch

    def _warn_of_penalty(self, share: float) -> None:
        """Say once that the penalty drowns the gains; a share that is NaN says nothing."""
        if share > LARGE_SHARE and not self.penalty_drowns and self.l2t.beta > 0:
            self.penalty_drowns = True
            logger.warning(
                "l2t/compression/share is %.2f at step %d: the reward is nearly all penalty; lower algorithm.l2t.beta "
                "(%.3g J per nat here), and look at l2t/kl_floor, which rounding alone would show",
                share,
                self.global_steps,
                self.l2t.beta,
            )

    def _adapt_length_cost(self, rewards: ProcessRewards) -> None:
        """One step of dual ascent on λ, where a token budget is set."""
        settings = self.l2t.credit
        if settings.token_budget is not None:
            self.length_cost = update_length_cost(
                self.length_cost, rewards.mean_correct_tokens(), settings.token_budget, settings.length_cost_rate
            )

    def _teach_critic(self, inputs: CreditInputs | None) -> None:
        """Fit the critic on the step's rollouts too; nothing where another estimator or credit is chosen."""
        if inputs is not None:
            self.critic = taught(self.critic, inputs)

    def _dump_generations(self, inputs: list, outputs: list, gts: list, scores: list, **kwargs: Any) -> None:
        """Add each rollout's episodes to verl's dump."""
        extra = kwargs.get("reward_extra_infos_dict", {})
        records = [self.rollout_records.pop(key, None) for key in extra.get("uid", [])]
        if any(record is not None for record in records):
            extra = extra | {"l2t": records}
        kwargs["reward_extra_infos_dict"] = extra
        super()._dump_generations(inputs=inputs, outputs=outputs, gts=gts, scores=scores, **kwargs)

    def _write_generations(self, *columns: Any) -> None:
        """Verl's, in a thread of its own; a disk without room is named."""
        *_, folder, step = columns
        try:
            super()._write_generations(*columns)
        except OSError as error:
            file = str(Path(folder) / f"{step}.jsonl")
            raise OSError(error.errno, f"rollouts of step {step}: {error.strerror}", file) from error

    # ---- checkpoints

    def _save_checkpoint(self) -> None:
        """Keep λ and the critic beside verl's checkpoint; written first, for verl's last file marks it as complete.

        The mark is held back until the step's metrics and rollouts are on the disk.
        """
        every = Path(self.config.trainer.default_local_dir)
        folder = every / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {"length_cost": asdict(self.length_cost), "version": l2t_verl.__version__}
        write_whole(folder / STATE_FILE, json.dumps(state))
        if self.critic.history:
            self.critic.save(folder / CRITIC_FILE)
        before = checkpoints.marked(every)
        super()._save_checkpoint()
        self.step_saved = self.step_to_count = self.global_steps
        # one that is saved in the background has no mark yet, and verl may have removed the one before
        if checkpoints.marked(every) == str(self.global_steps) != before and checkpoints.keeps_two(self.config.trainer):
            checkpoints.hold_mark(every, before)
            self.mark_is_held = True

    def _step_is_over(self) -> None:
        """A logged and dumped step's checkpoint counts; older ones go, as far as `checkpoints.keep_last` says."""
        if self.step_to_count is None:
            return
        self.step_to_count = None
        every = Path(self.config.trainer.default_local_dir)
        if self.mark_is_held:
            for dump in list(self._dump_futures):
                dump.result()
            checkpoints.release_mark(every)
            self.mark_is_held = False
        if self.l2t.checkpoints.keep_last is not None:
            removed = checkpoints.remove_others(every, last=self.l2t.checkpoints.keep_last)
            logger.info("l2t: checkpoints of the steps %s removed", removed)

    def _validate(self) -> dict[str, float]:
        """Verl's; its score says which checkpoint is the best. The one before training is logged before it begins."""
        self._write_whole_rows()
        metrics = super()._validate()
        score = checkpoints.validation_score(metrics)
        checkpoints.keep_score(Path(self.config.trainer.default_local_dir), self.global_steps, score)
        return metrics

    def _load_checkpoint(self) -> None:
        if self.displaces:  # from where training began, which is not where it is resumed
            self.actor_rollout_wg.l2t_keep_start(self.l2t.compression.model_dump())
        trainer = self.config.trainer
        if trainer.resume_mode == "auto":
            checkpoints.mend_mark(Path(trainer.default_local_dir))
        try:
            super()._load_checkpoint()
            if self.global_steps > 0:
                resumed = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
                self._restore(Path(resumed or Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"))
        except Exception as error:  # torch's, Ray's and json's, of many kinds
            raise checkpoints.CheckpointError(
                f"the checkpoint of step {self.global_steps} cannot be loaded: {type(error).__name__}: {str(error)[-300:]}; "
                "go on from an older one by trainer.resume_mode=resume_path and trainer.resume_from_path=…/global_step_N"
            ) from error

    def _restore(self, folder: Path) -> None:
        """λ and the critic of a checkpoint; one that was written without L2T has neither."""
        if (state := folder / STATE_FILE).exists():
            kept = json.loads(state.read_text())["length_cost"]
            of = kept if isinstance(kept, dict) else {"multiplier": kept, "value": kept}
            self.length_cost = LengthCost(**{name: float(value) for name, value in of.items()})
        if (critic := folder / CRITIC_FILE).exists():
            self.critic = Critic.load(critic)


@register_trainer("l2t_sync")
class L2TTrainerSync(L2TMixin, PPOTrainerSync):
    """verl's synchronous trainer with L2T's rewards: `trainer.v1.trainer_mode=l2t_sync`."""


@register_trainer("l2t_colocate_async")
class L2TTrainerColocateAsync(L2TMixin, PPOTrainerColocateAsync):
    """verl's asynchronous trainer on shared devices, with L2T's rewards: `trainer.v1.trainer_mode=l2t_colocate_async`."""


@register_trainer("l2t_separate_async")
class L2TTrainerSeparateAsync(L2TMixin, PPOTrainerSeparateAsync):
    """verl's asynchronous trainer whose rollout has devices of its own: `trainer.v1.trainer_mode=l2t_separate_async`."""

    worker_class = L2TDetachWorker

"""Every symbol of verl, and of what comes with it, that the project relies on. A new release fails the test that names it.

Each failure says where in the project the symbol is used. What the code imports and which attributes of verl's trainer
it touches is read from the code itself, so that the list cannot fall behind. `VERL=folder bash tests/run.sh
tests/test_contracts.py` asks another checkout of verl.
"""

import ast
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import verl  # first, as in every process of a run: it loads the plugin
import yaml
from cluster import QUICKSTART
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from l2t_verl import plugin
from l2t_verl.plugin import fields

ROOT = QUICKSTART.parent.parent
FILES = [
    path for folder in ("l2t_verl/plugin", "patches", "recipes/quickstart") for path in sorted((ROOT / folder).rglob("*.py"))
]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
OTHERS = ("verl", "transfer_queue", "tensordict", "ray", "vllm", "zmq")


class OnDemand:
    """A module of the plugin. One that cannot be imported with this verl fails the tests that ask for it, and no others."""

    def __init__(self, name: str):
        self.name = f"l2t_verl.plugin.{name}"

    def __getattr__(self, attribute: str):
        try:
            module = importlib.import_module(self.name)
        except ImportError as error:  # pytest asks each name of this file for attributes, and takes no other error
            raise AttributeError(f"{self.name} cannot be imported with this verl: {error}") from error
        return getattr(module, attribute)


cpu_platform, liveness, rewards, trainer = map(
    OnDemand, ("cpu.platform", "driver.liveness", "driver.rewards", "driver.trainer")
)
agent_loop, reward_manager, worker = map(OnDemand, ("rollout.agent_loop", "rollout.reward_manager", "workers.worker"))


def found(path: str):
    """The object at `module:attribute.attribute`.

    Raises:
        Failed: it is not there; with the files of verl that define something of that name.
    """
    module, _, attributes = path.partition(":")
    name = module
    try:
        result = importlib.import_module(module)
        for name in filter(None, attributes.split(".")):
            result = getattr(result, name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{path} is gone ({error}){elsewhere(name.rpartition('.')[2])}", pytrace=False)
    return result


def elsewhere(name: str) -> str:
    """Where this verl has something of that name."""
    defined = re.compile(rf"^\s*(async def|def|class) {name}\b|^{name}\b.* = ", re.MULTILINE)
    files = [file for file, text in verl_files().items() if file.endswith(f"/{name}.py") or defined.search(text)]
    return f"; {name} is in {', '.join(files[:5])}" if files else f"; nothing in {Path(verl.__file__).parent} has its name"


def source(path: str) -> str:
    return inspect.getsource(inspect.unwrap(found(path)))


@cache
def verl_files() -> dict[str, str]:
    root = Path(verl.__file__).parent
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*.py"))}


# ---- what is imported


def imports() -> dict[str, str]:
    """`module:name` of everything that the project imports from others, with the files that do."""
    names: dict[str, list[str]] = {}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in OTHERS:
                for item in node.names:
                    names.setdefault(f"{node.module}:{item.name}", []).append(file)
            elif isinstance(node, ast.Import):
                for item in node.names:
                    if item.name.split(".")[0] in OTHERS:
                        names.setdefault(f"{item.name}:", []).append(file)
    return {name: ", ".join(sorted(set(files))) for name, files in sorted(names.items())}


@pytest.mark.parametrize(("path", "files"), imports().items(), ids=imports())
def test_imported(path, files):
    module, _, name = path.partition(":")
    holder = found(f"{module}:")
    is_module = hasattr(holder, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    if name and not hasattr(holder, name) and not is_module:
        pytest.fail(f"{path} is gone, and {files} import it{elsewhere(name)}", pytrace=False)


# ---- what is overridden: exactly these parameters, or a new one would be lost on its way through us

BASE = "verl.trainer.ppo.v1.trainer_base:PPOTrainer"
WORKER = "verl.workers.engine_workers:ActorRolloutRefWorker"
SYNC = "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync"
COLOCATE = "verl.trainer.ppo.v1.trainer_colocate_async:PPOTrainerColocateAsync"
SEPARATE = "verl.trainer.ppo.v1.trainer_separate_async:PPOTrainerSeparateAsync"
AGENT = "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ.__ray_metadata__.modified_class"
MANAGER = "verl.experimental.reward_loop.reward_manager.base:RewardManagerBase"
OVERRIDDEN = {
    f"{BASE}.__init__": ("self, config", "plugin/driver/trainer.py"),
    f"{BASE}._init_dataloader": ("self", "plugin/driver/trainer.py"),
    f"{BASE}._init_resource_pool_mgr": ("self", "plugin/driver/trainer.py"),
    f"{BASE}._setup": ("self", "plugin/driver/trainer.py"),
    f"{BASE}.fit": ("self, agent_loop_manager", "plugin/driver/trainer.py"),
    f"{BASE}._build_replay_buffer": ("self", "plugin/driver/trainer.py"),
    f"{BASE}._compute_old_log_prob": ("self, batch, metrics", "plugin/driver/trainer.py"),
    f"{BASE}._compute_advantage": ("self, batch, metrics", "plugin/driver/trainer.py"),
    f"{BASE}._dump_generations": (
        "self, inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path",
        "plugin/driver/trainer.py",
    ),
    f"{BASE}._write_generations": (
        "inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path, global_steps",
        "plugin/driver/trainer.py",
    ),
    f"{BASE}._validate": ("self", "plugin/driver/trainer.py"),
    f"{BASE}._save_checkpoint": ("self", "plugin/driver/trainer.py"),
    f"{BASE}._load_checkpoint": ("self", "plugin/driver/trainer.py"),
    f"{SYNC}.on_init_end": ("self", "plugin/driver/trainer.py"),
    f"{BASE}.on_train_begin": ("self", "plugin/driver/trainer.py"),
    f"{BASE}.on_step_begin": ("self", "plugin/driver/trainer.py"),
    f"{SYNC}.on_step_end": ("self", "plugin/driver/trainer.py"),
    f"{COLOCATE}.on_init_end": ("self", "plugin/driver/trainer.py"),
    f"{SEPARATE}.__init__": ("self, config", "plugin/driver/trainer.py"),
    f"{SEPARATE}._init_resource_pool_mgr": ("self", "plugin/driver/trainer.py"),
    f"{SEPARATE}._setup": ("self", "plugin/driver/trainer.py"),
    f"{SEPARATE}._compute_old_log_prob": ("self, batch, metrics", "plugin/driver/trainer.py"),
    f"{SEPARATE}.on_init_end": ("self", "plugin/driver/trainer.py"),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll": (
        "self, partition_id, last_debug_time",
        "plugin/driver/liveness.py",
    ),
    f"{WORKER}.compute_log_prob": ("self, data", "plugin/workers/worker.py"),
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.__init__": ("self, args, kwargs", "plugin/rollout/agent_loop.py"),
    f"{AGENT}._agent_loop_postprocess": ("self, output, validate, kwargs", "plugin/rollout/agent_loop.py"),
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score": (
        "self, outputs, kwargs",
        "plugin/rollout/agent_loop.py",
    ),
    f"{WORKER}.update_weights": ("self, global_steps, mode", "plugin/workers/worker.py"),
    f"{MANAGER}.__init__": ("self, config, tokenizer, compute_score", "plugin/rollout/reward_manager.py"),
    f"{MANAGER}.run_single": ("self, data", "plugin/rollout/reward_manager.py"),
    "verl.workers.rollout.vllm_rollout.vllm_rollout:ServerAdapter._execute_method": (
        "self, method, non_block, timeout, args, kwargs",
        "plugin/workers/worker.py",
    ),
    "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm": (
        "layer, remove_weight",
        "patches/vllm_cpu_weights.py",
    ),
}


@pytest.mark.parametrize(("path", "expected", "file"), [(k, *v) for k, v in OVERRIDDEN.items()], ids=OVERRIDDEN)
def test_overridden(path, expected, file):
    names = inspect.signature(inspect.unwrap(found(path))).parameters
    parameters = ", ".join(name for name in names if name != "_ray_trace_ctx")  # Ray's, once a test made an actor of it
    assert parameters == expected, f"{path} has other parameters than {file} hands on"


def bases() -> tuple[type, ...]:
    return found(SYNC), found(COLOCATE), found(SEPARATE)


def test_nothing_else_of_verls_trainer_is_overridden():
    """The list above is whole: an override that it does not name would go unpinned."""
    pinned = {path.rsplit(".", 1)[1] for path in OVERRIDDEN}
    pairs = [(trainer.L2TMixin, base) for base in bases()]
    pairs += [(worker.L2TWorkerMixin, base) for base in (worker.ActorRolloutRefWorker, worker.DetachActorWorker)]
    pairs += [(agent_loop.L2TAgentLoopWorker, found(AGENT)), (agent_loop.L2TAgentLoopManager, agent_loop.AgentLoopManagerTQ)]
    for ours, verls in pairs:
        names = {name for name, value in vars(ours).items() if callable(value) and hasattr(verls, name)}
        assert names - pinned == set(), f"{ours.__name__} overrides what OVERRIDDEN does not name"


# ---- what is called: with these arguments

CALLED = {
    "verl.trainer.ppo.core_algos:register_adv_est": (["l2t"], [], "plugin/driver/estimator.py"),
    "verl.trainer.ppo.core_algos:compute_grpo_outcome_advantage": (
        [None, None, None],
        ["norm_adv_by_std_in_grpo"],
        "plugin/driver/step.py",
    ),
    "verl.trainer.ppo.v1.trainer_base:register_trainer": (["l2t_sync"], [], "plugin/driver/trainer.py"),
    "verl.trainer.ppo.utils:need_reference_policy": ([None], [], "plugin/driver/trainer.py"),
    "verl.utils.config:omega_conf_to_dataclass": ([None], [], "plugin/driver/trainer.py"),
    "verl.utils.debug:marked_timer": (["l2t", {}], ["color"], "plugin/driver/trainer.py"),
    "verl.utils.reward_score:default_compute_score": ([None] * 4, [], "plugin/rollout/reward_manager.py"),
    "verl.experimental.reward_loop.reward_manager:register": (["l2t"], [], "plugin/rollout/reward_manager.py"),
    "verl.plugin.platform.platform_manager:PlatformRegistry.register": ([], ["platform"], "plugin/cpu/platform.py"),
    "verl.workers.engine.base:EngineRegistry.register": (
        [],
        ["model_type", "backend", "device"],
        "plugin/cpu/platform.py",
    ),
    "verl.single_controller.base.decorator:register": ([], ["dispatch_mode", "blocking"], "plugin/workers/worker.py"),
    "verl.single_controller.base.decorator:make_nd_compute_dataproto_dispatch_fn": (
        [],
        ["mesh_name"],
        "plugin/workers/worker.py",
    ),
    "verl.utils.tensordict_utils:get": ([None, ""], [], "plugin/driver/step.py"),
    "verl.utils.tensordict_utils:get_non_tensor_data": ([None, ""], ["default"], "plugin/workers/worker.py"),
    "verl.utils.tensordict_utils:assign_non_tensor": ([None], ["anything"], "plugin/workers/worker.py"),
    "verl.utils.tensordict_utils:get_tensordict": ([], ["tensor_dict", "non_tensor_dict"], "plugin/workers/worker.py"),
    "verl.workers.utils.padding:response_from_nested": ([None, None], [], "plugin/driver/step.py"),
    "verl.workers.utils.padding:response_to_nested": ([None, None], [], "plugin/driver/step.py"),
    "verl.workers.engine_workers:TrainingWorker.infer_batch": ([None, None], [], "plugin/workers/worker.py"),
    f"{WORKER}.compute_log_prob": ([None, None], [], "plugin/driver/step.py"),
    "verl.workers.engine.base:BaseEngine.train_mode": ([None], [], "plugin/workers/worker.py"),
    "verl.workers.engine.base:BaseEngine.optimizer_zero_grad": ([None], [], "plugin/workers/worker.py"),
    "verl.workers.engine.base:BaseEngine.forward_backward_batch": (
        [None, None],
        ["loss_function", "forward_only"],
        "plugin/workers/worker.py",
    ),
    "verl.checkpoint_engine:CheckpointEngineManager.sleep_replicas": ([None], [], "plugin/cpu/weight_sync.py"),
    f"{BASE}.get_llm_client": ([None], [], "plugin/cpu/weight_sync.py"),
    "verl.workers.rollout.llm_server:LLMServerClient.generate": (
        [None],
        ["request_id", "prompt_ids", "sampling_params"],
        "plugin/cpu/weight_sync.py",
    ),
    "verl.workers.rollout.llm_server:LLMServerClient._acquire_server": (
        [None, ""],
        ["prompt_ids"],
        "plugin/rollout/agent_loop.py",
    ),
    "verl.workers.rollout.llm_server:LLMServerClient._release_server": (
        [None, ""],
        ["request_id"],
        "plugin/rollout/agent_loop.py",
    ),
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.generate": (
        [None, [], {}, ""],
        [],
        "plugin/rollout/server.py",
    ),
    "verl.workers.rollout.llm_server:LLMServerManager.get_addresses": ([None], [], "plugin/driver/liveness.py"),
    "transfer_queue:kv_batch_get": ([], ["keys", "partition_id", "select_fields"], "plugin/driver/step.py"),
    "transfer_queue:kv_batch_put": ([], ["keys", "partition_id", "fields"], "plugin/driver/step.py"),
    "transfer_queue:KVBatchMeta": ([], ["keys", "tags", "partition_id", "fields", "extra_info"], "plugin/driver/step.py"),
    "ray._private.state:actors": ([], ["actor_state_name"], "plugin/driver/liveness.py"),
    "torch.distributed:init_process_group": ([], ["backend"], "patches/gloo_backend.py"),
    "torch.distributed.fsdp:CPUOffloadPolicy": ([], ["pin_memory"], "patches/unpinned_offload.py"),
    "vllm.model_executor.layers.utils:cpu_unquantized_gemm": ([None] * 4, [], "patches/vllm_cpu_weights.py"),
}


@pytest.mark.parametrize(("path", "args", "names", "file"), [(k, *v) for k, v in CALLED.items()], ids=CALLED)
def test_called(path, args, names, file):
    signature = inspect.signature(inspect.unwrap(found(path)))
    try:
        signature.bind(*args, **dict.fromkeys(names))
    except TypeError as error:
        pytest.fail(f"{file} calls {path} with other arguments than it takes: {error}; its signature is {signature}")


def test_a_reward_manager_is_built_with_these_arguments():
    """As `load_reward_manager` does it in the reward worker."""
    keywords = ["config", "tokenizer", "compute_score", "reward_router_address", "reward_model_tokenizer"]
    inspect.signature(reward_manager.L2TRewardManager).bind(**dict.fromkeys(keywords))
    call = source("verl.trainer.ppo.reward:load_reward_manager").rsplit("reward_manager_cls(", 1)[1]
    assert re.findall(r"(\w+)=", call) == keywords[:3], "plugin/rollout/reward_manager.py: other arguments"
    built = source("verl.experimental.reward_loop.reward_loop:RewardLoopWorker._init_reward_fn")
    assert all(f"{name}=" in built for name in keywords[3:]), "plugin/rollout/reward_manager.py: other arguments"


# ---- attributes of verl's trainer, by the files that touch them


def trainer_attributes() -> dict[str, str]:
    """What plugin code reads of a trainer and L2TMixin does not set itself, with the files that do."""
    mixin = next(
        node for node in ast.walk(TREES["l2t_verl/plugin/driver/trainer.py"]) if getattr(node, "name", "") == "L2TMixin"
    )
    own = {node.name for node in ast.walk(mixin) if isinstance(node, ast.FunctionDef)}
    own |= {name.id for node in mixin.body if isinstance(node, (ast.Assign, ast.AnnAssign))
            for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}  # fmt: skip
    names: dict[str, list[str]] = {}
    for file, tree in TREES.items():
        scope, holder = (mixin, "self") if file.endswith("plugin/driver/trainer.py") else (tree, "trainer")
        for node in ast.walk(scope):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == holder:
                if isinstance(node.ctx, ast.Store):
                    own.add(node.attr)
                names.setdefault(node.attr, []).append(file)
            elif isinstance(node, ast.Call) and ast.unparse(node).startswith(f"getattr({holder}, '"):
                names.setdefault(node.args[1].value, []).append(file)
    own -= {"use_reference_policy", "total_training_steps"}  # verl's own, which we change
    return {name: ", ".join(sorted(set(files))) for name, files in sorted(names.items()) if name not in own}


@pytest.mark.parametrize(("name", "files"), trainer_attributes().items(), ids=trainer_attributes())
def test_trainer_attribute(name, files):
    written = "".join(inspect.getsource(cls) for cls in found(SYNC).__mro__[:2])
    is_set = re.search(rf"self\.{name}\b(: [\w\[\], ]+)? = ", written) or all(hasattr(base, name) for base in bases())
    assert is_set, f"PPOTrainer sets no {name} any more; {files} read it"


def test_the_list_of_trainer_attributes_finds_what_is_there():
    names = trainer_attributes()
    assert {"use_reference_policy", "role_worker_mapping", "mapping", "actor_rollout_wg", "checkpoint_manager"} <= set(names)
    assert {"_rollout_server_managers", "timing_raw", "parameter_sync_step", "tokenizer", "global_steps"} <= set(names)


def test_the_list_for_a_port_is_what_the_code_needs():
    """No method and no attribute more or less than the plugin wraps and reads."""
    wrapped = {path.rsplit(".", 1)[1] for path, (_, file) in OVERRIDDEN.items() if file == "plugin/driver/trainer.py"}
    assert set(plugin.WRAPPED) == wrapped
    assert set(plugin.READ) == set(trainer_attributes())
    assert {name for name in vars(trainer.L2TMixin) if any(hasattr(base, name) for base in bases())} >= wrapped


# ---- lines of verl's code that ours stands on

SOURCES = {
    "the fields of an advantage": (
        f"{BASE}._compute_advantage",
        '["uid", "response_mask", "rm_scores", "rollout_log_probs", "old_log_probs", "ref_log_prob", "values"]',
        "plugin/driver/estimator.py takes everything else from its context",
    ),
    "the estimator is called for the whole batch": (
        f"{BASE}._compute_advantage",
        "compute_advantage_for_multi_trajectories(\n            data,\n            batch_keys=batch.keys,",
        "plugin/driver/estimator.py matches its context with verl's rows by their order",
    ),
    "other estimators go straight to the registry": (
        "verl.trainer.ppo.v1.utils:compute_advantage_for_multi_trajectories",
        "if adv_estimator != core_algos.AdvantageEstimator.GRPO:",
        "plugin/driver/estimator.py normalises sessions itself",
    ),
    "verl's logger empties its file": (
        "verl.utils.tracking:FileLogger.__init__",
        'self.fp = open(self.filepath, "wb", buffering=0)',
        "plugin/driver/continued.py sets the rows aside; once they stay, so may it go",
    ),
    "verl's logger writes to its file as it is": (
        "verl.utils.tracking:FileLogger.log",
        "self.fp.write(orjson.dumps(data",
        "plugin/driver/continued.py writes all of a row; once verl does, so may it go",
    ),
    "a step ends where it is logged": (
        f"{BASE}.fit",
        "self.logger.log(data=metrics, step=self.global_steps)\n            if dapo_filtered_reward_counts:",
        "plugin/driver/trainer.py lets its checkpoint count at the next step's beginning",
    ),
    "the last step is looked for at each turn": (
        f"{BASE}.fit",
        "and self.global_steps <= self.total_training_steps:",
        "plugin/driver/trainer.py brings it forward where the run is asked to end",
    ),
    "the mark of a checkpoint is written last, in place": (
        f"{BASE}._save_checkpoint",
        'with open(local_latest_checkpointed_iteration, "w") as f:\n            f.write(str(self.global_steps))',
        "plugin/driver/checkpoints.py holds it back",
    ),
    "the rows of a step": (
        f"{BASE}._step_once",
        "batch = self._compute_advantage(batch, metrics=metrics)",
        "plugin/driver/trainer.py",
    ),
    "log-probs come before advantages": (
        f"{BASE}._step_once",
        "if self.use_reference_policy:\n            with marked_timer(",
        "plugin/driver/trainer.py sets use_reference_policy",
    ),
    "what the old log-probs are made of": (
        f"{BASE}._compute_old_log_prob",
        'fields = ["entropy", "log_probs", "response_mask"]',
        "plugin/workers/worker.py gives them, with the scores",
    ),
    "where the settings of the old log-probs travel": (
        f"{BASE}._compute_old_log_prob",
        '"calculate_entropy": True,',
        "plugin/driver/trainer.py adds its own to batch.extra_info",
    ),
    "old log-probs by the weights of the cycle's start": (
        f"{SEPARATE}._compute_old_log_prob",
        "self.actor_rollout_wg.restore_model_from_cpu(0)",
        "plugin/workers/worker.py: L2TDetachWorker has what it calls",
    ),
    "a line that cannot be logged": (
        f"{SEPARATE}._setup",
        "flush=True,",
        "plugin/driver/refusals.py refuses to let verl log it; once it is gone, so is the refusal",
    ),
    "the worker of the separate trainer": (
        f"{SEPARATE}._init_resource_pool_mgr",
        "self.role_worker_mapping[Role.Actor] = ray.remote(DetachActorWorker)",
        "plugin/driver/trainer.py replaces it",
    ),
    "what an agent loop's tag says of its age": (
        "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._agent_loop_postprocess",
        '"min_global_steps": field["extra_fields"].get("min_global_steps")',
        "plugin/driver/step.py takes stale rows from it",
    ),
    "the version of the weights": (
        "verl.trainer.ppo.v1.trainer_colocate_async:PPOTrainerColocateAsync.on_step_end",
        "self.checkpoint_manager.update_weights(self.global_steps)",
        "plugin/driver/step.py: a step's rollouts carry the number of the step before",
    ),
    "the class of an agent loop manager": (
        "verl.trainer.main_ppo:TaskRunnerV1.__ray_metadata__.modified_class.init_agent_loop_manager",
        'get("agent_loop_manager_class")',
        "plugin/driver/changes.py sets it",
    ),
    "who asks the reward workers": (
        "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score",
        "selected_reward_loop_worker_handle.compute_score.remote(data)",
        "plugin/rollout/agent_loop.py does so too",
    ),
    "what a reward worker does": (
        "verl.experimental.reward_loop.reward_loop:RewardLoopWorker.compute_score",
        "return await self.reward_manager.run_single(data)",
        "plugin/rollout/agent_loop.py has sampled answers graded by it",
    ),
    "the parameters stay where they are": (
        "verl.workers.engine.base:BaseEngineCtx._context_switch",
        "if self.disable_auto_offload:\n            return",
        "plugin/workers/scoring.py",
    ),
    "the mode of an engine": (
        "verl.workers.engine.base:BaseEngineCtx.__enter__",
        "self.engine.mode = self.mode",
        "plugin/workers/scoring.py",
    ),
    "the LoRA trap": (
        f"{BASE}._compute_ref_log_prob",
        'metadata["no_lora_adapter"] = True',
        "plugin/workers/worker.py sets no_lora_adapter=False for every forward",
    ),
    "the adapter flag": (
        "verl.workers.engine_workers:TrainingWorker.infer_batch",
        'tu.pop(data, key="no_lora_adapter", default=False)',
        "plugin/workers/worker.py",
    ),
    "the loss of a forward": (
        "verl.workers.engine_workers:TrainingWorker.infer_batch",
        'tu.get(data, key="compute_loss", default=True)',
        "plugin/workers/worker.py",
    ),
    "the tokens of a forward": (
        "verl.workers.engine_workers:TrainingWorker.infer_batch",
        'global_token_num = tu.get(data, key="global_token_num")',
        "plugin/workers/worker.py",
    ),
    "settings of a forward are kept": (
        "verl.workers.engine_workers:TrainingWorker.infer_batch",
        "if key not in data.keys():",
        "plugin/workers/worker.py sets use_dynamic_bsz and max_token_len_per_gpu",
    ),
    "the loss function of an update": (
        f"{WORKER}.init_model",
        "self.actor.set_loss_fn(self.loss_fn)",
        "plugin/workers/worker.py runs it for the gradient norm of GRPO",
    ),
    "the role decides about a reference": (
        f"{WORKER}.__init__",
        'self._is_ref = self.role in ["ref", "actor_rollout_ref"]',
        "plugin/driver/trainer.py moves the role",
    ),
    "train mode clears the gradients": (
        "verl.workers.engine.fsdp.transformer_impl:EngineTrainModeCtx.__exit__",
        "if self.zero_grad_on_exit or exc_type is not None:\n            self.engine.optimizer_zero_grad()",
        "plugin/workers/worker.py leaves no gradient behind",
    ),
    "the output of a forward": (
        "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_outputs",
        'model_output["log_probs"] = log_probs',
        "plugin/workers/worker.py",
    ),
    "one temperature": (
        "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_inputs",
        'temperature = micro_batch["temperature"]',
        "plugin/workers/worker.py sets it to 1",
    ),
    "the sockets of a weight update": (
        "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightSender",
        "zmq.Context.instance()",
        "plugin/workers/worker.py sets its time limit there",
    ),
    "the call that a weight update waits for": (
        "verl.workers.rollout.vllm_rollout.vllm_rollout:ServerAdapter.update_weights",
        'await self._execute_method(\n            "update_weights_from_ipc",\n            non_block=True,',
        "plugin/workers/worker.py remembers it",
    ),
    "a polling buffer": (
        "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.sample",
        "last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)",
        "plugin/driver/liveness.py looks at the cluster there",
    ),
    "the key of a row": (
        "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._agent_loop_postprocess",
        'keys.append(f"{uid}_{session_id}_{i}")',
        "plugin/driver/step.py takes session and output from it",
    ),
    "every output has the session's info": (
        "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._agent_loop_postprocess",
        'output.extra_fields["reward_extra_info"] = final_output.extra_fields["reward_extra_info"]',
        "plugin/driver/step.py finds each output's episodes there",
    ),
    "the key of a padding row": (
        "verl.trainer.ppo.padding_utils:upsample_batch_to_divisible_size",
        'pad_keys.append(f"{pad_uid}_{local_idx}_0")',
        "plugin/driver/step.py reads it like any other",
    ),
    "the tag of a padding row": (
        "verl.trainer.ppo.padding_utils:construct_minimal_padding_template",
        "is_padding=True",
        "plugin/driver/step.py",
    ),
    "the ids that a reward manager gets": (
        "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score",
        '"prompt_len": np.array([len(o.prompt_ids) for o in outputs]),\n'
        '                    "response_len": np.array([len(o.response_ids) for o in outputs]),',
        "plugin/rollout/reward_manager.py",
    ),
    "what else a reward manager gets": (
        "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score",
        '"__num_turns__": np.array([o.num_turns for o in outputs]),\n'
        '                    "tool_extra_fields": np.array([o.extra_fields for o in outputs], dtype=object),',
        "plugin/rollout/reward_manager.py",
    ),
    "the answer of a reward manager": (
        "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score",
        'final_output.extra_fields["reward_extra_info"] = result["reward_extra_info"]',
        "plugin/rollout/reward_manager.py",
    ),
    "one score for a rollout": (
        "verl.experimental.agent_loop.agent_loop:AgentLoopOutput.as_dict",
        "rm_scores[-1] = reward_score",
        "plugin/driver/step.py sums rm_scores",
    ),
    "where a checkpoint lies": (
        f"{BASE}._save_checkpoint",
        'self.config.trainer.default_local_dir, f"global_step_{self.global_steps}"',
        "plugin/driver/trainer.py puts its state beside it",
    ),
    "rows of a dump have their key": (
        f"{BASE}._log_rollout_data",
        'reward_extra_infos_dict = {"uid": [batch.keys[i] for i in sorted_indices]}',
        "plugin/driver/trainer.py adds the episodes by it",
    ),
    "a pinned offload": (
        "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_fsdp_module",
        "offload_policy = CPUOffloadPolicy(pin_memory=True)",
        "patches/unpinned_offload.py",
    ),
    "a backend for each device, of the workers": (
        "verl.utils.distributed:initialize_global_process_group_ray",
        'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"',
        "patches/gloo_backend.py",
    ),
    "a backend for each device, of torchrun": (
        "verl.utils.distributed:initialize_global_process_group",
        'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"',
        "patches/gloo_backend.py",
    ),
    "linear layers ask for their dispatch late": (
        "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading",
        "from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm",
        "patches/vllm_cpu_weights.py replaces it in its module",
    ),
    "the head asks for its dispatch late": (
        "vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod.process_weights_after_loading",
        "from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm",
        "patches/vllm_cpu_weights.py replaces it in its module",
    ),
    "a dead engine is unhealthy": (
        "vllm.entrypoints.serve.instrumentator.health:health",
        "except EngineDeadError:\n        return Response(status_code=503)",
        "plugin/driver/liveness.py",
    ),
    "the group of vLLM's plugins": (
        "vllm.plugins:load_general_plugins",
        "load_plugins_by_group(group=DEFAULT_PLUGINS_GROUP)",
        "pyproject.toml",
    ),
    "a refused patch is raised in vLLM": (
        "vllm.plugins:load_general_plugins",
        "    for func in plugins.values():\n        func()",
        "patches/__init__.py",
    ),
    "an actor's entry in Ray's table": (
        "ray._private.state:GlobalState._gen_actor_info",
        '"DeathCause": actor_table_data.death_cause',
        "plugin/driver/liveness.py",
    ),
    "the metrics file": ("verl.utils.tracking:FileLogger.__init__", "VERL_FILE_LOGGER_PATH", "recipes/quickstart/train.py"),
    "the timing of a step": (
        "verl.trainer.ppo.metric_utils:compute_timing_metrics",
        'f"timing_s/{name}"',
        "recipes/quickstart/report.py",
    ),
    "the gradient norm of a step": (
        f"{BASE}._update_actor",
        'rename_dict(output["metrics"], "actor/")',
        "recipes/quickstart/report.py",
    ),
}


@pytest.mark.parametrize(("path", "text", "use"), SOURCES.values(), ids=SOURCES)
def test_source(path, text, use):
    assert text in source(path), f"{path} no longer says {text!r}; {use}"


def test_verl_compares_the_trainers_name_in_these_places():
    """A place more or less: look whether L2TMixin, which sets the name back to `sync`, still covers them all."""
    text = inspect.getsource(sys.modules["verl.trainer.ppo.v1.trainer_base"])
    assert len(re.findall(r'self\.trainer_mode [!=]= "sync"', text)) == 6
    assert len(re.findall(r"self\.trainer_mode\b", text)) == 10  # set once, read as a key of trainer.v1 twice, handed on
    comparing = [name for name, text in verl_files().items() if re.search(r"trainer_mode\)? *(==|!=|not in|in) ", text)]
    assert comparing == ["trainer/ppo/v1/trainer_base.py"]


def test_the_last_file_of_a_checkpoint_marks_it_as_complete():
    """The trainer's own state is written before, so that a marked checkpoint always has it."""
    text = source(f"{BASE}._save_checkpoint")
    order = [
        "self.actor_rollout_wg.save_checkpoint(",
        "torch.save(self.train_dataloader",
        "latest_checkpointed_iteration.txt",
    ]
    assert [text.rindex(part) for part in order] == sorted(text.rindex(part) for part in order)


def test_dumps_are_made_by_keyword():
    """L2TMixin._dump_generations takes reward_extra_infos_dict from the keywords."""
    for name in ("_log_rollout_data", "_validate"):
        call = source(f"{BASE}.{name}").split("self._dump_generations(", 1)[1]
        given = re.findall(r"^\s+(\w+)=", call, flags=re.MULTILINE)
        assert given[:6] == ["inputs", "outputs", "gts", "scores", "reward_extra_infos_dict", "dump_path"], name


# ---- registries


def test_registries():
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    assert ADV_ESTIMATOR_REGISTRY["l2t"].__module__ == "l2t_verl.plugin.driver.estimator"
    assert REWARD_MANAGER["l2t"] is reward_manager.L2TRewardManager
    for name in ("sync", "colocate_async", "separate_async"):
        assert issubclass(TRAINER_REGISTRY[f"l2t_{name}"], TRAINER_REGISTRY[name])
    assert TRAINER_REGISTRY["sync"] is trainer.PPOTrainerSync


def test_engines_are_kept_by_model_backend_and_device():
    """plugin/cpu/platform.py walks this structure; a CPU engine is the CUDA one."""
    from verl.workers.engine.base import EngineRegistry

    for model_type in ("language_model", "value_model"):
        for backend in ("fsdp", "fsdp2"):
            devices = EngineRegistry._engines[model_type][backend]
            assert isinstance(devices["cuda"], type)
            assert devices["cpu"] is devices["cuda"], "the hook on the engines' module no longer registers them"


def test_entry_points():
    plugins = {point.name: point for point in importlib.metadata.entry_points(group="verl.plugins")}
    assert plugins["l2t"].load().__name__ == "l2t_verl.plugin.entry"
    assert 'entry_points(group="verl.plugins")' in inspect.getsource(verl)
    import vllm.plugins

    engine = {point.name: point for point in importlib.metadata.entry_points(group=vllm.plugins.DEFAULT_PLUGINS_GROUP)}
    assert engine["l2t_cpu"].load().__qualname__ == "apply_in_vllm"
    assert engine["l2t_orphans"].load().__qualname__ == "end_with_parent"


def test_dispatch_of_our_worker_calls():
    """verl finds a worker's calls by the mark that its `register` leaves."""
    from verl.single_controller.base.decorator import MAGIC_ATTR, Dispatch

    for name in ("l2t_version", "l2t_displacement", "l2t_perturb_weights", "l2t_restore_weights", "l2t_log_probs",
                 "l2t_fuses", "l2t_why_not_packed", "l2t_keep_start"):  # fmt: skip
        assert getattr(worker.L2TWorker, name).__dict__[MAGIC_ATTR]["dispatch_mode"] == Dispatch.ONE_TO_ALL, name
    for name in ("l2t_answer_scores", "l2t_derivatives", "l2t_grpo_grad_norm"):
        mode = getattr(worker.L2TWorker, name).__dict__[MAGIC_ATTR]["dispatch_mode"]
        assert set(mode) == {"dispatch_fn", "collect_fn"}, name
    for name in ("update_weights", "compute_log_prob"):
        ours, verls = (getattr(cls, name).__dict__[MAGIC_ATTR] for cls in (worker.L2TWorker, worker.ActorRolloutRefWorker))
        assert str(ours.keys()) == str(verls.keys()), f"plugin/workers/worker.py registers {name} as verl does"


# ---- classes: members and fields

MEMBERS = {
    "verl.trainer.ppo.utils:Role": (["Actor", "RefPolicy", "ActorRollout", "ActorRolloutRef"], "plugin/driver/trainer.py"),
    "verl.single_controller.base.decorator:Dispatch": (["ONE_TO_ALL"], "plugin/workers/worker.py"),
    "verl.workers.config.engine:EngineConfig": (
        ["use_dynamic_bsz", "max_token_len_per_gpu", "micro_batch_size_per_gpu", "use_fused_kernels"],
        "plugin/workers/worker.py",
    ),
    "verl.workers.config:HFModelConfig": (
        ["tokenizer", "hf_config", "load_tokenizer", "use_remove_padding"],
        "plugin/workers/worker.py, plugin/driver/trainer.py",
    ),
    "verl.workers.rollout.replica:TokenOutput": (["token_ids", "log_probs"], "plugin/cpu/weight_sync.py"),
    "verl.protocol:DataProtoItem": (["batch", "non_tensor_batch"], "plugin/rollout/reward_manager.py"),
    "transfer_queue:KVBatchMeta": (["keys", "tags", "partition_id", "fields", "extra_info"], "plugin/driver/step.py"),
}


@pytest.mark.parametrize(("path", "names", "file"), [(k, *v) for k, v in MEMBERS.items()], ids=MEMBERS)
def test_members(path, names, file):
    cls = found(path)
    known = set(dir(cls)) | set(getattr(cls, "model_fields", ()))
    known |= {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    assert set(names) <= known, f"{path} has no {set(names) - known}; {file} reads it"


ATTRIBUTES = {
    "actor": (f"{WORKER}.init_model", "plugin/workers/worker.py"),
    "ref": (f"{WORKER}.init_model", "plugin/workers/worker.py"),
    "rollout": (f"{WORKER}.init_model", "plugin/workers/worker.py"),
    "engine": ("verl.workers.engine_workers:TrainingWorker.__init__", "plugin/workers/worker.py"),
    "model_config": ("verl.workers.engine_workers:TrainingWorker.__init__", "plugin/workers/worker.py"),
    "loss_fn": ("verl.workers.engine_workers:TrainingWorker.set_loss_fn", "plugin/workers/worker.py"),
    "engine_config": ("verl.workers.engine.fsdp.transformer_impl:FSDPEngine.__init__", "plugin/workers/worker.py"),
    "module": ("verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_model_optimizer", "plugin/workers/worker.py"),
}


@pytest.mark.parametrize(("name", "path", "file"), [(k, *v) for k, v in ATTRIBUTES.items()], ids=ATTRIBUTES)
def test_worker_attribute(name, path, file):
    assert re.search(rf"self\.{name}\b(: [\w.]+)? = ", source(path)), f"{path} sets no {name}; {file} reads it"


def test_vllms_server_has_the_call_that_the_agent_loop_asks_for():
    """Ray makes an actor of the class as it is when verl's module has been imported."""
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

    assert inspect.iscoroutinefunction(vLLMHttpServer.l2t_generate_after)
    assert 'getattr(server, "l2t_generate_after", None)' in (ROOT / "l2t_verl/plugin/rollout/agent_loop.py").read_text()
    assert "ray.remote(vLLMHttpServer)" in source("verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMReplica.__init__")
    server = source("verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer")
    assert "self.config.max_num_seqs" in server, "plugin/rollout/server.py takes its bound from it"
    assert 'stop_reason = "aborted"' in server, "plugin/rollout/agent_loop.py finishes such answers"


def test_a_worker_without_a_reference_says_so():
    """plugin/workers/worker.py asks whether `ref` is None."""
    assert "self.ref: TrainingWorker | None = None" in source(f"{WORKER}.__init__")


def test_the_cpu_platform_implements_everything():
    from verl.plugin.platform.platform_base import PlatformBase

    assert cpu_platform.CpuPlatform.__abstractmethods__ == frozenset()
    platform = cpu_platform.CpuPlatform()
    for name in PlatformBase.__abstractmethods__ - {"device_name", "vendor_name", "device_module"}:
        ours, verls = (inspect.signature(getattr(cls, name)) for cls in (cpu_platform.CpuPlatform, PlatformBase))
        assert list(ours.parameters) == list(verls.parameters), f"plugin/cpu/platform.py: {name} takes other parameters"
    assert (platform.device_name, platform.vendor_name) == ("cpu", "cpu")


# What verl calls on a device and the CPU's lacks, with the reason why that does not matter
NEVER_CALLED = {
    "Event": "profiler and NCCL/HCCL checkpoint engines",
    "set_per_process_memory_fraction": "a rollout on the trainer's own device",
}


def test_the_cpu_device_has_what_verl_calls():
    names = {name for text in verl_files().values() for name in re.findall(r"get_torch_device\(\)\.(\w+)", text)}
    assert "empty_cache" in names
    missing = [name for name in names if not hasattr(cpu_platform.CpuPlatform.device_module, name)]
    assert set(missing) <= set(NEVER_CALLED), "plugin/cpu/platform.py: verl calls more on its device"


def test_a_data_source_that_verl_does_not_know_says_so():
    """plugin/rollout/reward_manager.py takes math-verify where verl raises NotImplementedError."""
    from verl.utils.reward_score import default_compute_score

    with pytest.raises(NotImplementedError):
        default_compute_score("l2t/unknown", "", "")
    assert default_compute_score("openai/gsm8k", "#### 72", "72") == 1.0


# ---- Ray


def test_why_an_actor_died():
    from ray.core.generated import common_pb2

    context = {field.name for field in common_pb2.ActorDeathCause.DESCRIPTOR.oneofs_by_name["context"].fields}
    assert "actor_died_error_context" in context, "plugin/driver/liveness.py asks for it"
    reasons = set(common_pb2.ActorDiedErrorContext.Reason.keys())
    assert set(liveness.EXPECTED) - {"INTENDED"} <= reasons, "plugin/driver/liveness.py: a reason that Ray no longer gives"
    cause = common_pb2.ActorDeathCause(actor_died_error_context={"error_message": "worker died", "reason": 1})
    assert liveness._death_cause({"DeathCause": cause}) == ("WORKER_DIED", "worker died")


@pytest.mark.parametrize("key", ["ActorClassName", "Name", "Pid", "JobID", "DeathCause"])
def test_ray_actor_entry(key):
    assert f'"{key}": ' in source("ray._private.state:GlobalState._gen_actor_info"), "plugin/driver/liveness.py reads it"


# ---- metrics: verl aggregates by name


def metric_names() -> list[str]:
    names = set()
    for tree in (TREES["l2t_verl/plugin/driver/metrics.py"], TREES["l2t_verl/plugin/driver/trainer.py"]):
        names |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {name for name in names if re.fullmatch(r"l2t/[\w/]*\w", name)}
    names |= {f"l2t/skipped/{reason}/total" for reason in rewards.SKIP_REASONS}
    names |= {f"l2t/grading/{status}/total" for status in ("timeout", "error", "unparsable", "no_ground_truth")}
    return sorted(names | {f"l2t/advantage/{name}" for name in ("abs_max", "clipped_fraction", "sign_flip_fraction")})


def test_each_metric_is_aggregated_as_its_last_word_says():
    """`min`, `max`, `sum` and `total` anywhere in a name decide; everything else is averaged."""
    from verl.trainer.ppo.v1.utils import MetricsAggregator

    names = metric_names()
    assert len(names) > 30
    kinds = {"min": "min", "max": "max", "abs_max": "max", "total": "sum"}
    for name in names:
        found = MetricsAggregator()._get_aggregation_type(name)
        assert found == kinds.get(name.rsplit("/", 1)[1], "weighted_avg"), f"plugin/driver/metrics.py: {name}"


# ---- configuration


@pytest.fixture(scope="module")
def stock() -> dict:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return OmegaConf.to_container(compose("ppo_trainer"), resolve=False)


READ = {
    "trainer.v1.trainer_mode": "plugin/driver/trainer.py",
    "trainer.v1.sync": "plugin/driver/trainer.py",
    "trainer.n_gpus_per_node": "plugin/driver/refusals.py",
    "trainer.nnodes": "plugin/driver/refusals.py",
    "actor_rollout_ref.rollout.calculate_log_probs": "plugin/driver/refusals.py",
    "actor_rollout_ref.rollout.top_p": "plugin/driver/refusals.py",
    "actor_rollout_ref.rollout.top_k": "plugin/driver/refusals.py",
    "actor_rollout_ref.rollout.logprobs_mode": "plugin/driver/refusals.py",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision": "plugin/settings.py",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class": "plugin/driver/changes.py",
    "actor_rollout_ref.rollout.full_determinism": "plugin/rollout/agent_loop.py",
    "trainer.default_local_dir": "plugin/driver/trainer.py",
    "trainer.resume_mode": "plugin/driver/trainer.py",
    "trainer.resume_from_path": "plugin/driver/trainer.py",
    "trainer.rollout_data_dir": "plugin/driver/trainer.py",
    "data.train_batch_size": "plugin/driver/step.py",
    "data.max_prompt_length": "plugin/driver/data.py",
    "data.max_response_length": "plugin/driver/step.py",
    "data.image_key": "plugin/driver/data.py",
    "data.video_key": "plugin/driver/data.py",
    "algorithm.adv_estimator": "plugin/driver/refusals.py",
    "algorithm.norm_adv_by_std_in_grpo": "plugin/driver/step.py",
    "algorithm.rollout_correction.bypass_mode": "plugin/driver/step.py",
    "reward.reward_manager.name": "plugin/driver/refusals.py",
    "reward.reward_manager.source": "plugin/driver/refusals.py",
    "reward.reward_model.enable": "plugin/driver/refusals.py",
    "reward.reward_model.enable_resource_pool": "plugin/driver/refusals.py",
    "reward.custom_reward_function.path": "plugin/rollout/reward_manager.py",
    "reward.sandbox_fusion.url": "plugin/rollout/reward_manager.py",
    "actor_rollout_ref.hybrid_engine": "plugin/driver/refusals.py",
    "actor_rollout_ref.actor.strategy": "plugin/driver/refusals.py",
    "actor_rollout_ref.actor.use_kl_loss": "plugin/driver/trainer.py",
    "actor_rollout_ref.model.path": "recipes/quickstart/train.py",
    "actor_rollout_ref.model.lora_rank": "plugin/driver/trainer.py",
    "actor_rollout_ref.model.lora_adapter_path": "plugin/driver/trainer.py",
    "actor_rollout_ref.model.lora.rank": "plugin/driver/trainer.py",
    "actor_rollout_ref.ref.log_prob_micro_batch_size": "plugin/driver/changes.py",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": "plugin/driver/changes.py",
    "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": "plugin/driver/changes.py",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": "plugin/driver/changes.py",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": "plugin/driver/changes.py",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": "plugin/driver/changes.py",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": "plugin/driver/changes.py",
    "actor_rollout_ref.rollout.temperature": "plugin/driver/step.py",
    "actor_rollout_ref.rollout.n": "plugin/driver/step.py",
    "actor_rollout_ref.rollout.dtype": "plugin/cpu/weight_sync.py",
}


def is_known(config: dict, path: str) -> bool:
    """Whether a key is in verl's files, or a field of the dataclass that they name, or lies in a free mapping."""
    node = config
    for part in path.split("."):
        if not isinstance(node, dict):
            return False
        if part not in node:
            target = node.get("_target_")
            if target is None:
                return node == {}
            module, _, name = target.rpartition(".")
            return part in {field.name for field in dataclasses.fields(found(f"{module}:{name}"))}
        node = node[part]
    return True


@pytest.mark.parametrize(("path", "file"), READ.items(), ids=READ)
def test_config_key(stock, path, file):
    assert is_known(stock, path), f"verl's configuration has no {path}; {file} reads it"


def leaves(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


QUICKSTART_KEYS = [
    key
    for key in leaves(yaml.safe_load((QUICKSTART / "quickstart.yaml").read_text()))
    if not key.startswith(("hydra.", "defaults", "algorithm.l2t."))
]


@pytest.mark.parametrize("key", QUICKSTART_KEYS)
def test_quickstart_key(stock, key):
    """Hydra takes a misspelt key of a YAML file in silence."""
    if key.startswith("ray_kwargs.ray_init."):
        import ray

        assert key.rsplit(".", 1)[1] in inspect.signature(ray.init).parameters
    else:
        assert is_known(stock, key), f"recipes/quickstart/quickstart.yaml sets {key}, which verl does not know"


def test_is_known_tells_them_apart(stock):
    assert not is_known(stock, "trainer.v1.trainer_modes")
    assert not is_known(stock, "actor_rollout_ref.rollout.sleep")
    assert is_known(stock, "actor_rollout_ref.rollout.enable_sleep_mode")


# ---- what the quickstart reads of verl's output


def test_stages_of_the_log():
    import train

    texts = [
        inspect.getsource(sys.modules["verl.trainer.ppo.v1.trainer_base"]),
        inspect.getsource(importlib.import_module("verl.trainer.main_ppo")),
        (ROOT / "l2t_verl/plugin/cpu/weight_sync.py").read_text(),
        "Started a local Ray instance. (TaskRunnerV1 pid=1)",
    ]
    for pattern, _ in train.STAGES:
        assert any(re.search(pattern, text) for text in texts), f"recipes/quickstart/train.py waits for {pattern!r}"
    assert "TaskRunnerV1" in texts[1]


def test_columns_of_the_table():
    import report

    names = {key for _, key, _ in report.COLUMNS}
    ours = set(metric_names())
    computed = inspect.getsource(importlib.import_module("verl.trainer.ppo.metric_utils"))
    for name in names - ours - {"timing_s/step", "actor/grad_norm"}:
        assert f'"{name}"' in computed, f"recipes/quickstart/report.py shows {name}, which nobody computes"


def test_fields_keep_to_themselves():
    """Names that verl has itself would be overwritten in the TransferQueue and in the extra info."""
    names = [value for name, value in vars(fields).items() if name.isupper()]
    assert all(name.startswith("l2t_") for name in names if name != "acc")
    assert "acc" in source("verl.trainer.ppo.v1.trainer_base:PPOTrainer._val_metrics_update")

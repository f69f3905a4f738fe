"""What happens at `import verl`: light, complete, never fatal. Every case runs in processes that have imported neither."""

import json
import os
import subprocess
import sys

import pytest
from forkserver import run as run_code

# All that the plugin runs in each process that imports verl; tests/bench/imports.py has the seconds
LIGHT = {"l2t_verl", "l2t_verl.patches", "l2t_verl.plugin", "l2t_verl.plugin.entry", "l2t_verl.plugin.stopping"}
# Where verl keeps what is registered with it, by the module that has to be imported first
REGISTRIES = {
    "verl.trainer.ppo.core_algos": "sys.modules['verl.trainer.ppo.core_algos'].ADV_ESTIMATOR_REGISTRY",
    "verl.experimental.reward_loop.reward_manager": (
        "sys.modules['verl.experimental.reward_loop.reward_manager.registry'].REWARD_MANAGER"
    ),
    "verl.trainer.ppo.v1": "sys.modules['verl.trainer.ppo.v1.trainer_base'].TRAINER_REGISTRY",
}
NAMES = dict(zip(REGISTRIES, ("l2t", "l2t", "l2t_sync"), strict=True))
OURS = dict(zip(REGISTRIES, ("driver.estimator", "rollout.reward_manager", "driver.trainer"), strict=True))


def environment(**more: str) -> dict[str, str]:
    """This process's without its verl settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "L2T_", "PYTHONWARN"))}
    return kept | more


def read(done: subprocess.CompletedProcess):
    """What a process printed as its last line, read as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


IMPORTED = """
import json, sys
import verl
modules = list(sys.modules)
from verl.plugin.platform.platform_manager import PlatformRegistry
print(json.dumps({"modules": modules, "platforms": PlatformRegistry.registered_names()}))
"""


@pytest.fixture(scope="module")
def imports():
    """What importing verl loads without the plugin and with it; -P keeps the working folder off the path."""
    line = [sys.executable, "-P", "-c", IMPORTED]
    run = lambda policy: subprocess.run(  # noqa: E731
        line, env=environment(VERL_USE_EXTERNAL_PLUGINS=policy), capture_output=True, text=True, timeout=300
    )
    return {policy: read(run(policy)) for policy in ("none", "auto")}


def test_importing_verl_loads_nothing_heavy(imports):
    without, with_plugin = (set(imports[policy]["modules"]) for policy in ("none", "auto"))
    assert not {name for name in without if name.split(".")[0] == "l2t_verl"}
    new = with_plugin - without
    assert {name for name in new if name.split(".")[0] == "l2t_verl"} == LIGHT
    assert {name.split(".")[0] for name in new} - set(sys.stdlib_module_names) <= {"l2t_verl", "wrapt"}
    assert not new & {f"l2t_verl.plugin.{name}" for name in OURS.values()}
    assert not with_plugin & set(REGISTRIES)


def test_without_being_asked_for_the_cpu_is_no_platform(imports):
    """A GPU cluster's head node without a GPU would become one: verl takes the first platform that is available."""
    for run in imports.values():
        assert "cpu" not in run["platforms"]


def test_each_part_is_registered_once_its_registry_is_there():
    code = f"""
import importlib, json, sys
import verl
steps = []
for name, registry in {REGISTRIES!r}.items():
    importlib.import_module(name)
    loaded = [part for part in {list(OURS.values())!r} if f"l2t_verl.plugin.{{part}}" in sys.modules]
    steps.append([sorted(eval(registry)), loaded])
from verl.trainer.ppo.reward import resolve_reward_manager_cls
from verl.trainer.ppo.v1 import get_trainer_cls
from omegaconf import OmegaConf
config = OmegaConf.create({{"reward": {{"reward_manager": {{"name": "l2t", "source": "register"}}}}}})
chosen = [resolve_reward_manager_cls(config), get_trainer_cls("l2t_sync")]
print(json.dumps([steps, [f"{{cls.__module__}}.{{cls.__qualname__}}" for cls in chosen]]))
"""
    steps, chosen = read(run_code(code, environment()))
    for (registered, _), name in zip(steps, NAMES.values(), strict=True):
        assert name in registered
    assert steps[0][1] == ["driver.estimator"]  # and nothing of the others yet
    assert chosen == [
        "l2t_verl.plugin.rollout.reward_manager.L2TRewardManager",
        "l2t_verl.plugin.driver.trainer.L2TTrainerSync",
    ]


def test_a_part_that_fails_leaves_the_others():
    """Reached through a submodule, as a worker that unpickles a function may do."""
    code = """
import json, sys
sys.modules["l2t_verl.plugin.driver.estimator"] = None  # importing it raises
import verl.trainer.ppo.core_algos
from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
print(json.dumps(sorted(REWARD_MANAGER)))
"""
    assert "l2t" in read(run_code(code, environment()))


BROKEN = {
    "a dependency": (["wrapt"], [], "wrapt"),
    "two parts": (
        ["l2t_verl.plugin.driver.estimator", "l2t_verl.plugin.rollout.reward_manager"],
        ["verl.trainer.ppo.core_algos", "verl.experimental.reward_loop.reward_manager"],
        "l2t_verl.plugin.driver.estimator",
    ),
}


@pytest.mark.parametrize(("missing", "imported", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_warns_once_and_verl_works(missing, imported, named):
    """Once for the process and those that it starts: a Ray cluster would repeat it fifty times."""
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({missing!r}))  # None: importing them raises
import verl
for name in {imported!r}:
    importlib.import_module(name)
print("verl", verl.DataProto.__name__)
"""
    child = f"import subprocess\nsubprocess.run([sys.executable, '-P', '-c', {code!r}], check=True)"
    done = run_code(code + child, environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("verl DataProto") == 2
    assert done.stderr.count("RuntimeWarning: l2t_verl: ") == 1, done.stderr
    message = next(line for line in done.stderr.splitlines() if "RuntimeWarning: l2t_verl: " in line)
    assert named in message
    assert "VERL_USE_EXTERNAL_PLUGINS=none" in message


def test_a_patch_that_refuses_ends_the_import():
    """verl changes before the patches see it, because hooks of one module run in the order of their registration."""
    code = """
import importlib, json, wrapt
changes = {
    "verl.utils.distributed": lambda module: setattr(module, "get_nccl_backend", lambda: "nccl"),
    "verl.workers.engine.fsdp.transformer_impl": lambda module: delattr(module, "CPUOffloadPolicy"),
}
for target, change in changes.items():
    wrapt.register_post_import_hook(change, target)
import verl
found = []
for target in changes:
    try:
        importlib.import_module(target)
        found.append("imported")
    except RuntimeError as error:
        found.append(f"{type(error).__name__}: {error}")
print(json.dumps(found))
"""
    refused = read(run_code(code, environment(VERL_PLATFORM="cpu")))
    assert refused[0].startswith("PatchRefused: patch gloo_backend: verl.utils.distributed ")
    assert refused[1].startswith("PatchRefused: patch unpinned_offload: verl.workers.engine.fsdp.transformer_impl ")


def test_the_cpu_platform_is_whole_where_it_is_asked_for():
    """Spelled as verl accepts it. What can refuse is imported after the plugin: before, verl would swallow the refusal."""
    code = """
import json, sys
import verl
from verl.plugin.platform.platform_manager import get_platform
from l2t_verl import patches
early = [name for name in patches.hooks() if name in sys.modules]
import torch, verl.utils.distributed, verl.workers.engine.fsdp.transformer_impl as engine
from verl.workers.engine.base import EngineRegistry
print(json.dumps({
    "platform": type(get_platform()).__name__,
    "early": early,
    "engine": EngineRegistry.get_engine_cls("language_model", "fsdp2").__name__,
    "marks": [getattr(torch.distributed.init_process_group, "_l2t_gloo", False),
              getattr(engine.CPUOffloadPolicy, "_l2t_unpinned", False)],
}))
"""
    found = read(run_code(code, environment(VERL_PLATFORM=" CPU ")))
    assert found["platform"] == "CpuPlatform"
    assert found["early"] == ["verl.utils.import_utils"]  # vllm_distribution, which never refuses
    assert found["engine"] == "FSDPEngineWithLMHead"
    assert found["marks"] == [True, True]

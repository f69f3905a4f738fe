"""Each patch on the real module: what fails without it, what it does, and that it refuses what it was not written for."""

import importlib.metadata
import json
import os
import types

import forkserver
import psutil
import pytest
import torch
import verl  # noqa: F401  (first, as in every process of a run: it loads the plugin)
from l2t_verl.patches import PatchRefused, gloo_backend, unpinned_offload, vllm_cpu_weights, vllm_distribution
from stack import of_cpu_stack
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform

from l2t_verl import patches
from l2t_verl.plugin.cpu import platform as cpu_platform


def answer(code: str, **environment: str):
    """What the code prints as its last line in a new interpreter, read as JSON."""
    done = forkserver.run(f"import json\nimport torch\n{code}", os.environ | environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- what each does


def test_gloo_backend(tmp_path):
    """verl's own function, in one process. Without the patch torch refuses; other backends are none of its business."""
    found = answer(
        """
import torch.distributed as dist
store = {"rank": 0, "world_size": 1}
found = []
try:
    dist.init_process_group("cpu:gloo,cpu:gloo", store=dist.HashStore(), **store)
except ValueError as error:
    found.append("Duplicate device type cpu" in str(error))
from verl.utils import distributed  # the plugin applies the patch here
distributed.initialize_global_process_group_ray(timeout_second=20)
ones = torch.full((2,), 3.0)
dist.all_reduce(ones)
found += [dist.get_backend(), ones.tolist()]
dist.destroy_process_group()
dist.init_process_group("gloo", store=dist.HashStore(), **store)
found.append(dist.get_backend())
print(json.dumps(found))
""",
        VERL_PLATFORM="cpu",
        RANK="0",
        WORLD_SIZE="1",
        DIST_INIT_METHOD=f"file://{tmp_path / 'rendezvous'}",
    )
    assert found == [True, "cpu:gloo", [3.0, 3.0], "gloo"]


@of_cpu_stack
def test_unpinned_offload(tmp_path):
    """An FSDP2 module with verl's offload policy computes; with torch's own it cannot be built without an accelerator."""
    found = answer(
        """
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
dist.init_process_group("cpu:gloo", store=dist.HashStore(), rank=0, world_size=1)
import verl.workers.engine.fsdp.transformer_impl as engine  # the plugin applies the patch here

def run(policy):
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)), offload_policy=policy(pin_memory=True))
    return layer(torch.tensor([[1.0, 2.0]])).item()

found = []
try:
    run(CPUOffloadPolicy)
except RuntimeError as error:
    found.append("accelerator" in str(error))
print(json.dumps([*found, run(engine.CPUOffloadPolicy), isinstance(engine.CPUOffloadPolicy(), CPUOffloadPolicy)]))
""",
        VERL_PLATFORM="cpu",
    )
    assert found == [True, 3.0, True]


@of_cpu_stack
def test_vllm_cpu_weights():
    """vLLM's own linear layer and output head go on computing with the weights of the start, unless they are patched.

    As a weight update does it: in place, and with another tensor as the parameter's data.
    """
    found = answer(
        """
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.plugins import load_general_plugins

def follows(method):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(8, 32, bias=False).requires_grad_(False), torch.randn(3, 8)
    first = x @ layer.weight.T
    method.process_weights_after_loading(layer)
    kept = list(layer.weight.shape) == [32, 8]
    seen = [torch.allclose(method.apply(layer, x), first, atol=1e-5)]
    if kept:
        layer.weight.mul_(2)
        seen.append(torch.allclose(method.apply(layer, x), 2 * first, atol=1e-5))
        layer.weight.data = 3 * layer.weight
        seen.append(torch.allclose(method.apply(layer, x), 6 * first, atol=1e-5))
        with_bias = method.apply(layer, x, torch.ones(32))
        seen.append(torch.allclose(with_bias, 1 + method.apply(layer, x), atol=1e-5))
    return [kept, *seen]

methods = UnquantizedLinearMethod(), UnquantizedEmbeddingMethod()
before = [follows(method) for method in methods]
load_general_plugins()  # as in each of vLLM's processes: the entry point applies the patch
print(json.dumps([before, [follows(method) for method in methods]]))
""",
        VERL_PLATFORM="cpu",
    )
    before, after = found
    assert before == [[False, True], [True, True, False, False, True]]  # the weight is gone; the head's is there, unseen
    assert after == [[True] * 5, [True] * 5]


@of_cpu_stack
def test_vllm_distribution(monkeypatch):
    """verl finds the `vllm-cpu` that is installed; a distribution called `vllm` goes first; others stay unknown."""
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu") + "+cpu"
    with pytest.raises(importlib.metadata.PackageNotFoundError, match="no-such-distribution"):
        importlib.metadata.version("no-such-distribution")

    def versions(known: dict[str, str]):
        def version(name: str) -> str:
            if name not in known:
                raise importlib.metadata.PackageNotFoundError(name)
            return known[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        vllm_distribution.apply(types.ModuleType("verl.utils.import_utils"))
        return importlib.metadata.version

    assert versions({"vllm": "1", "vllm-cpu": "2"})("vllm") == "1"
    assert versions({"vllm-cpu": "2"})("vllm") == "2+cpu"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        versions({})("vllm")


@of_cpu_stack
def test_vllm_takes_its_cpu_platform_after_verl(monkeypatch):
    """vLLM looks its version up too, and with none that names the CPU loads the kernels of another platform."""
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    monkeypatch.delenv(forkserver.FOLDER, raising=False)  # a fork has imported vLLM before verl
    code = """
import verl.utils.import_utils
from vllm.platforms import current_platform
print(json.dumps([type(current_platform).__name__, current_platform.is_cpu()]))
"""
    assert answer(code, VERL_PLATFORM="cpu") == ["CpuPlatform", True]


# ---- what each refuses, and that it is applied once


def module(**members) -> types.ModuleType:
    made = types.ModuleType("changed")
    for name, member in members.items():
        setattr(made, name, member)
    return made


def initialize_global_process_group_ray():
    """verl's function, as the patch knows it; the names are never looked up."""
    return f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"  # noqa: F821


def other_backend():
    return "gloo"


class Engine:
    def _build_fsdp_module(self):
        offload_policy = CPUOffloadPolicy(pin_memory=True)  # noqa: F821
        return offload_policy


class OtherEngine:
    def _build_fsdp_module(self):
        return CPUOffloadPolicy(pin_memory=not torch.cpu.is_available())  # noqa: F821


def dispatch(layer, remove_weight):
    """vLLM's dispatch, as the patch knows it."""


def dispatch_by_name(layer, remove_weight, prefix):
    """One that takes more."""


def gemm(layer, x, weight, bias=None):
    return layer.cpu_linear(x, weight, bias)


def packed_gemm(layer, x, weight, bias=None):
    return layer.handler(x, bias)


GLOO = {
    "initialize_global_process_group_ray": initialize_global_process_group_ray,
    "get_device_name": lambda: "cpu",
    "get_nccl_backend": lambda: "gloo",
}
OFFLOAD = {"CPUOffloadPolicy": object, "FSDPEngine": Engine}
VLLM = {"dispatch_cpu_unquantized_gemm": dispatch, "cpu_unquantized_gemm": gemm}
REFUSED = {
    "gloo: another string": (gloo_backend, GLOO | {"initialize_global_process_group_ray": other_backend}),
    "gloo: no function": (gloo_backend, {k: v for k, v in GLOO.items() if k.startswith("get")}),
    "gloo: another device": (gloo_backend, GLOO | {"get_device_name": lambda: "cuda"}),
    "gloo: another backend": (gloo_backend, GLOO | {"get_nccl_backend": lambda: "nccl"}),
    "offload: no policy": (unpinned_offload, {"FSDPEngine": Engine}),
    "offload: no engine": (unpinned_offload, {"CPUOffloadPolicy": object}),
    "offload: no method": (unpinned_offload, OFFLOAD | {"FSDPEngine": object}),
    "offload: built in another way": (unpinned_offload, OFFLOAD | {"FSDPEngine": OtherEngine}),
    "vllm: no dispatch": (vllm_cpu_weights, {"cpu_unquantized_gemm": gemm}),
    "vllm: other parameters": (vllm_cpu_weights, VLLM | {"dispatch_cpu_unquantized_gemm": dispatch_by_name}),
    "vllm: no gemm": (vllm_cpu_weights, {"dispatch_cpu_unquantized_gemm": dispatch}),
    "vllm: another gemm": (vllm_cpu_weights, VLLM | {"cpu_unquantized_gemm": packed_gemm}),
}


@pytest.fixture
def unpatched_torch(monkeypatch):
    """torch's own `init_process_group`, for the length of a test."""
    original = getattr(torch.distributed.init_process_group, "__wrapped__", torch.distributed.init_process_group)
    monkeypatch.setattr(torch.distributed, "init_process_group", original)
    return original


@pytest.mark.parametrize(("patch", "members"), REFUSED.values(), ids=REFUSED)
def test_a_patch_refuses_what_it_was_not_written_for(unpatched_torch, patch, members):
    """Its message names the patch and the module, and nothing is changed."""
    changed = module(**members)
    before = dict(vars(changed))
    name = patch.__name__.rsplit(".", 1)[1]
    with pytest.raises(PatchRefused, match=rf"patch {name}: ({getattr(patch, 'TARGET', 'changed')})\b"):
        patch.apply(changed)
    assert vars(changed) == before
    assert torch.distributed.init_process_group is unpatched_torch


@pytest.mark.parametrize(
    ("patch", "members"), [(gloo_backend, GLOO), (unpinned_offload, OFFLOAD), (vllm_cpu_weights, VLLM)], ids=lambda p: ""
)
def test_a_patch_is_applied_once(unpatched_torch, patch, members):
    """The stand-ins that are refused above are accepted as they are here, so each refusal has its own reason."""
    known = module(**members)
    patch.apply(known)
    once = dict(vars(known)), torch.distributed.init_process_group
    assert once != (vars(module(**members)), unpatched_torch)
    patch.apply(known)
    assert (vars(known), torch.distributed.init_process_group) == once


def test_vllm_distribution_is_applied_once():
    once = importlib.metadata.version
    assert once._l2t_vllm
    vllm_distribution.apply(types.ModuleType("verl.utils.import_utils"))
    assert importlib.metadata.version is once


# ---- where they are applied


@pytest.mark.parametrize("platform", [None, "", "nvidia", "cpu0"])
def test_nothing_is_patched_on_other_platforms(monkeypatch, platform):
    monkeypatch.delenv("VERL_PLATFORM")
    if platform is not None:
        monkeypatch.setenv("VERL_PLATFORM", platform)
    monkeypatch.setattr(vllm_cpu_weights, "apply", lambda module: pytest.fail("patched vLLM"))
    assert not patches.on_cpu_platform()
    assert patches.hooks() == {}
    patches.apply_in_vllm()
    assert not cpu_platform.CpuPlatform().is_available()


@pytest.mark.parametrize("platform", ["cpu", " CPU\n"])
def test_everything_is_patched_on_the_cpu_platform(monkeypatch, platform):
    """Spelled as verl accepts it."""
    monkeypatch.setenv("VERL_PLATFORM", platform)
    assert patches.on_cpu_platform()
    assert patches.hooks() == {
        "verl.utils.distributed": gloo_backend.apply,
        "verl.workers.engine.fsdp.transformer_impl": unpinned_offload.apply,
        "verl.utils.import_utils": vllm_distribution.apply,
    }
    assert cpu_platform.CpuPlatform().is_available()


# ---- the CPU platform


def test_the_platform_is_verls_own():
    assert PlatformRegistry.get("cpu") is cpu_platform.CpuPlatform
    assert isinstance(get_platform(), cpu_platform.CpuPlatform)
    assert get_platform().ray_resource_options(1) == {"num_gpus": 1}


def test_engines_are_registered_once():
    """verl asserts that a key is new, so a second registration would raise."""
    import verl.workers.engine.fsdp.transformer_impl as engines
    from verl.workers.engine.base import EngineRegistry

    def devices() -> dict[tuple[str, str], list]:
        return {
            (kind, name): list(found) for kind, group in EngineRegistry._engines.items() for name, found in group.items()
        }

    before = devices()
    cpu_platform.register_engines(engines)
    assert devices() == before
    expected = {(kind, name) for kind in ("language_model", "value_model") for name in ("fsdp", "fsdp2")}
    assert {key for key, found in before.items() if "cpu" in found} == expected


def test_device_memory_is_the_processs_and_the_machines():
    device = get_platform().device_module
    before = device.memory_allocated()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    block = torch.ones(2**26)  # 256 MiB
    assert device.max_memory_allocated() - before > 0.9 * 4 * len(block)
    free, total = device.mem_get_info()
    assert 0 < free < total == psutil.virtual_memory().total


def test_device_random_state():
    """verl saves and restores it around its forwards, and in checkpoints."""
    device = get_platform().device_module
    for seed in (device.manual_seed, device.manual_seed_all, get_platform().manual_seed, get_platform().manual_seed_all):
        seed(7)
        first = torch.rand(3)
        state = device.get_rng_state()
        second = torch.rand(3)
        device.set_rng_state(state)
        assert torch.equal(torch.rand(3), second)
        seed(7)
        assert torch.equal(torch.rand(3), first)


def test_device_calls_that_have_nothing_to_do():
    platform, device = get_platform(), get_platform().device_module
    for call in (device.empty_cache, device.ipc_collect, device.synchronize, platform.synchronize, platform.empty_cache):
        assert call() is None
    for call in (device.set_device, platform.set_device):
        assert call(0) is None
    with platform.nvtx_range("step"):
        assert torch.ones(1, device=platform.current_device()).sum() == platform.device_count()
    assert device.is_available()
    assert not hasattr(device, "no_such_call")


def test_vllms_cache_is_bounded_and_its_threads_are_not(monkeypatch):
    """It would take half of the machine's memory, and one of two cores; a value of the user's goes first."""
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    assert get_platform().rollout_env_vars() == {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    assert get_platform().rollout_env_vars()["VLLM_CPU_KVCACHE_SPACE"] == "4"
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    assert get_platform().rollout_env_vars()["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"

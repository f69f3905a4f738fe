"""What verl loads through the entry-point group `verl.plugins`, in every process that imports verl.

verl is still importing itself at that moment, and an eager import of its trainers would cost seconds everywhere, so
this module only says what to do once a module of verl has been imported. verl reports failing plugins at debug level
only, hence the warning here.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from types import ModuleType

# verl's module → ours that registers something in it
REGISTRATIONS = {
    "verl.single_controller.ray.base": "l2t_verl.plugin.driver.ports",
    "verl.trainer.ppo.core_algos": "l2t_verl.plugin.driver.estimator",
    "verl.experimental.reward_loop.reward_manager": "l2t_verl.plugin.rollout.reward_manager",
    "verl.trainer.ppo.v1": "l2t_verl.plugin.driver.trainer",
    "verl.workers.rollout.vllm_rollout.vllm_async_server": "l2t_verl.plugin.rollout.server",
    "verl.workers.rollout.vllm_rollout.vllm_rollout": "l2t_verl.plugin.rollout.transfer",
}
_WARNED = "L2T_VERL_WARNED"


def warn_once(what: str, error: BaseException) -> None:
    """Warn that a part of the plugin could not be loaded; once for a process and those that it starts."""
    if os.environ.get(_WARNED):
        return
    os.environ[_WARNED] = "1"
    warnings.warn(
        f"l2t_verl: {what} could not be loaded ({type(error).__name__}: {error}). verl works without it, L2T does not: "
        "install the versions of the README's table, or set VERL_USE_EXTERNAL_PLUGINS=none to silence this.",
        RuntimeWarning,
        stacklevel=2,
    )


def install() -> None:
    """Register the CPU platform (where asked for), the patches and the parts of the plugin.

    A patch that refuses raises, because a run on the CPU platform without it is wrong; anything else only warns.
    """
    import wrapt

    from l2t_verl import patches
    from l2t_verl.plugin import stopping

    for name, ours in REGISTRATIONS.items():
        wrapt.register_post_import_hook(_registration(ours), name)
    wrapt.register_post_import_hook(stopping.wrap_init, "ray")
    if patches.on_cpu_platform():
        from l2t_verl.plugin.cpu import platform as cpu_platform

        cpu_platform.register_platform()
        wrapt.register_post_import_hook(cpu_platform.register_engines, cpu_platform.ENGINES)
        for name, apply in patches.hooks().items():
            wrapt.register_post_import_hook(apply, name)


def _registration(ours: str) -> Callable[[ModuleType], None]:
    def register(module: ModuleType) -> None:
        try:
            importlib.import_module(ours)
        except Exception as error:
            warn_once(ours, error)

    return register


try:
    install()
except Exception as error:
    warn_once("the plugin", error)
    raise

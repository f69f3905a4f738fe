"""Ranks of a process group, forked from one process that has imported verl's workers: importing takes longer than a test."""

import os
import socket
from collections.abc import Callable

import torch

# None of them starts a thread when it is imported, which a fork would lose.
IMPORTED = ("l2t_verl.plugin.workers.worker", "hydra", "peft", "transformers.models.qwen2.modeling_qwen2")


def run_ranks(main: Callable[..., None], world: int, *arguments: object) -> None:
    """`main(rank, world, *arguments)` once per rank, each in a process of its own; raises what a rank raises."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(list(IMPORTED))
    torch.multiprocessing.start_processes(_rank, (main, world, port, arguments), nprocs=world, start_method="forkserver")


def _rank(rank: int, main: Callable[..., None], world: int, port: int, arguments: tuple) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()}, VERL_PLATFORM="cpu")
    torch.set_num_threads(1)
    main(rank, world, *arguments)

"""A checkpoint engine for one machine without a GPU: weights travel in a file. verl imports it by its name."""

import asyncio
import os
import tempfile
from pathlib import Path

import torch
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry


@CheckpointEngineRegistry.register("file")
class FileCheckpointEngine(CheckpointEngine):
    def __init__(self, bucket_size: int, is_master: bool = False, folder: str | None = None):
        self.folder = Path(folder or tempfile.gettempdir())

    def prepare(self):
        return {}

    @classmethod
    def build_topology(cls, actor_wg_world_size, rollout_world_size, metadata):
        return {"rank": list(range(actor_wg_world_size))}, {"rank": [-1] * rollout_world_size}

    def init_process_group(self, rank):
        self.rank = rank

    def finalize(self):
        pass

    async def send_weights(self, weights, global_steps=None):
        found = {name: tensor.detach().cpu().clone() for name, tensor in weights}  # every rank takes part in gathering them
        if self.rank == 0:
            partial = self.folder / f"weights-{global_steps}.partial"
            torch.save(found, partial)
            os.replace(partial, partial.with_suffix(".pt"))

    async def receive_weights(self, global_steps=None):
        path = self.folder / f"weights-{global_steps}.pt"
        while not path.exists():
            await asyncio.sleep(0.05)
        for name, tensor in torch.load(path).items():
            yield name, tensor
        path.unlink()  # the same step may be sent twice

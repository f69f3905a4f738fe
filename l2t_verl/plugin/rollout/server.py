"""Many short generations that go on from prefixes of one sequence, in one call of verl's vLLM server.

A response of 16,000 tokens with 30 episodes and 4 samples each would cross Ray 124 times; so it does once. The server's own
`generate` makes each of them, with its admission, its limits and its adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

from l2t_verl.plugin.rollout import transfer


async def generate_after(
    server: Any,
    ids: np.ndarray,
    prefixes: Sequence[tuple[int, Sequence[int]]],
    samples: int,
    sampling_params: dict[str, Any],
    request_id: str,
    seeded: bool = False,
) -> list[list[Any]]:
    """Outputs after each prefix; at most as many at once as the engine runs, whose prompts alone are held.

    Args:
        server: verl's server.
        ids: [T] tokens of the whole sequence.
        prefixes: for each the tokens of `ids` that it keeps, and the tokens that follow them.
        samples: n outputs for each prefix.
        sampling_params: as for `generate`.
        request_id: of all of them; each gets its own from it.
        seeded: whether the n-th output after each prefix has the seed n.

    Returns:
        n of verl's `TokenOutput` for each prefix.
    """
    at_once = getattr(server, "_l2t_at_once", None)
    if at_once is None:
        at_once = server._l2t_at_once = asyncio.Semaphore(server.config.max_num_seqs)

    async def one(k: int, n: int) -> Any:
        async with at_once:
            kept, suffix = prefixes[k]
            settings = sampling_params | ({"seed": n} if seeded else {})  # a dict of its own: the server changes it
            return await server.generate([*ids[:kept].tolist(), *suffix], settings, f"{request_id}_{k}_{n}")

    found = await asyncio.gather(*(one(k, n) for k in range(len(prefixes)) for n in range(samples)))
    return [found[start : start + samples] for start in range(0, len(found), samples)]


vLLMHttpServer.l2t_generate_after = generate_after  # `agent_loop` asks for it by this name
vLLMHttpServer.__init__ = transfer.after(vLLMHttpServer.__init__, transfer.name_engine_side)

"""One step's forced answers of the arm `mrt` through Ray, against a server that answers at once.

    python tests/bench/sampling.py [--rollouts 8] [--json FILE]

The client, the server's actor and what crosses between them are real; the engine is a stand-in that takes a prompt as verl's
server does and gives two tokens. So it shows what the requests themselves cost, not what vLLM makes of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VERL_PLATFORM", "cpu")
import ray
import verl  # noqa: F401 - first: it loads the plugin

from l2t_verl.config import load_config
from l2t_verl.plugin.agent_loop import L2TAgentLoopWorker

PROMPT, RESPONSE, EPISODES, SAMPLES, SUFFIX = 4_096, 16_384, 30, 4, 8  # tokens; the recipes' longest
STEP = 1_280  # rollouts of a step


class Server:
    """What verl's server does with a request before the engine, and two tokens."""

    def __init__(self) -> None:
        from verl.utils.tokenizer import normalize_token_ids

        self.normalize, self.requests = normalize_token_ids, 0
        self.config = SimpleNamespace(max_num_seqs=1024)

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **_: Any) -> Any:
        assert len(self.normalize(prompt_ids)) > 0
        self.requests += 1
        return SimpleNamespace(token_ids=[1, 2], stop_reason="completed", extra_fields={})

    async def count(self) -> int:
        return self.requests


class BatchServer(Server):
    """The same with the plugin's call."""

    async def l2t_generate_after(self, *arguments: Any) -> Any:
        from l2t_verl.plugin.rollout_server import generate_after

        return await generate_after(self, *arguments)


class Client:
    """A client of one server, as verl's without its balancer."""

    def __init__(self, server: Any) -> None:
        self.server = server

    async def _acquire_server(self, request_id: str, **_: Any) -> tuple[str, Any]:
        return "server", self.server

    def _release_server(self, server_id: str, request_id: str) -> None:
        pass

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        return await self.server.generate.remote(prompt_ids, sampling_params, request_id)


def worker(server: Any) -> L2TAgentLoopWorker:
    from omegaconf import OmegaConf

    made = object.__new__(L2TAgentLoopWorker)
    made.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {}}})
    made.l2t = load_config({"gain": {"kind": "monte_carlo", "samples": SAMPLES}})
    made.llm_client = Client(server)
    return made


def measured(kind: type[Server], rollouts: int) -> dict[str, float]:
    """Seconds of one rollout's answers, all rollouts at once, and how many requests reached the engine."""
    server = ray.remote(kind).options(max_concurrency=1000, num_cpus=0).remote()
    made = worker(server)
    sequence = [100_000 + i % 50_000 for i in range(PROMPT + RESPONSE)]  # as large as a vocabulary's
    kept = [PROMPT + RESPONSE * k // EPISODES for k in range(EPISODES + 1)]
    prompts = [[*sequence[:end], *range(SUFFIX)] for end in kept]

    async def all_of(count: int) -> None:
        await asyncio.gather(*(made._answers(prompts, kept) for _ in range(count)))

    asyncio.run(all_of(1))  # the actor has started
    begun, before = time.monotonic(), ray.get(server.count.remote())
    asyncio.run(all_of(rollouts))
    seconds = time.monotonic() - begun
    requests = ray.get(server.count.remote()) - before
    ray.kill(server)
    return {"seconds a rollout": seconds / rollouts, "requests a rollout": requests / rollouts}


def run(rollouts: int) -> dict[str, Any]:
    """Both ways, and what a step of 1,280 rollouts would take of one process and one server."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found: dict[str, Any] = {
            name: measured(kind, rollouts) for name, kind in (("one by one", Server), ("one call", BatchServer))
        }
    finally:
        ray.shutdown()
    for row in found.values():
        row["minutes a step"] = row["seconds a rollout"] * STEP / 60
    found["one by one / one call"] = found["one by one"]["seconds a rollout"] / found["one call"]["seconds a rollout"]
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    text = json.dumps(run(arguments.rollouts), indent=1)
    print(text)
    if arguments.json is not None:
        partial = arguments.json.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(arguments.json)


if __name__ == "__main__":
    main()

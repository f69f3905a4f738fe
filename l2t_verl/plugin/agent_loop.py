"""Answers sampled after each episode, while the rollout servers are awake: `gain.kind=monte_carlo`.

An agent loop that has finished and been graded samples n forced answers after each of its prefixes from the same server
(whose cache holds the prefix), while other rollouts still generate. A vLLM server is asked for all of them in one call
(`rollout_server`), another engine for one after the other. They are graded by the reward manager's own grader.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from l2t_verl.gain import ForcingTemplate, forced_prompts, sampled_scores
from l2t_verl.plugin import fields
from l2t_verl.plugin.startup import read_config
from l2t_verl.thought import decode

logger = logging.getLogger(__name__)

_training: ContextVar[bool] = ContextVar("l2t_training", default=False)


class L2TAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's worker, whose graded trajectories also get answer scores by sampling, in training."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.l2t = read_config(self.config)
        self.template = ForcingTemplate.from_config(self.l2t.gain)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        with _marked(training=not validate):
            await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _compute_score(self, outputs: list[Any], kwargs: dict) -> None:
        await super()._compute_score(outputs, kwargs=kwargs)
        info = outputs[-1].extra_fields.get("reward_extra_info")
        if not (_training.get() and info and fields.EPISODES in info):
            return
        found = fields.decode_episodes(info[fields.EPISODES])
        scores = await asyncio.gather(
            *(self._scores(output, of_output.ends, kwargs) for output, of_output in zip(outputs, found, strict=True))
        )
        info[fields.SAMPLED_SCORES] = fields.encode_scores(scores)

    async def _scores(self, output: Any, ends: list[int], kwargs: dict) -> list[float] | None:
        """J_0 … J_K of one output; None where they could not be had, which the trainer counts."""
        if not ends:
            return None
        settings = self.l2t.gain
        try:
            prompts = forced_prompts(self.tokenizer, output.prompt_ids, output.response_ids, ends, self.template)
            responses = [prompt[len(output.prompt_ids) :] for prompt in prompts]
            starts = await self._in_thread(lambda: [len(self._text(response)) for response in responses])
            answers = await self._answers(prompts, [len(output.prompt_ids) + end for end in (0, *ends)])

            async def sample(k: int, n: int) -> str:
                text = await self._in_thread(lambda: self._text([*responses[k], *answers[k][n]]))
                return self.template.cut(text, starts[k])

            return await sampled_scores(sample, lambda texts: self._graded(texts, kwargs), len(prompts), settings.samples)
        except Exception as error:  # else verl drops the whole prompt group
            logger.warning("l2t: sampling forced answers failed: %s: %s", type(error).__name__, error)
            return None

    def _text(self, ids: list[int]) -> str:
        return decode(ids, self.tokenizer, self.template.marks)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Other rollouts of this worker wait for its event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, function)

    async def _answers(self, prompts: list[list[int]], kept: list[int]) -> list[list[list[int]]]:
        """The tokens of n answers after each prompt; the first `kept` tokens of each are those of the last, too."""
        settings, seeded = self.l2t.gain, bool(self.config.actor_rollout_ref.rollout.get("full_determinism", False))
        session = uuid4().hex  # one for all, so that they reach the server that has the prefix
        server_id, server = await self.llm_client._acquire_server(session, prompt_ids=prompts[-1])
        try:
            if (generate := getattr(server, "l2t_generate_after", None)) is not None:
                prefixes = [(end, prompt[end:]) for end, prompt in zip(kept, prompts, strict=True)]
                ids = np.array(prompts[-1][: kept[-1]], dtype=np.int32)
                found = await generate.remote(ids, prefixes, settings.samples, self._parameters(), session, seeded)
                rest = [
                    asyncio.gather(*(self._whole(session, prompt, output) for output in outputs))
                    for prompt, outputs in zip(prompts, found, strict=True)
                ]
                return [list(answers) for answers in await asyncio.gather(*rest)]
        finally:
            self.llm_client._release_server(server_id, request_id=session)
        flat = await asyncio.gather(
            *(
                # with seeds verl would take one seed and one request for all
                self._sampled(f"{session}_{k}_{n}" if seeded else session, prompt, {"seed": n} if seeded else {})
                for k, prompt in enumerate(prompts)
                for n in range(settings.samples)
            )
        )
        return [flat[start : start + settings.samples] for start in range(0, len(flat), settings.samples)]

    async def _whole(self, session: str, prompt: list[int], output: Any) -> list[int]:
        """An answer; the rest of one that a weight update broke off is sampled as verl's client does it."""
        begun = list(output.token_ids)
        left = self.l2t.gain.sample_tokens - len(begun)
        if output.stop_reason not in ("aborted", "abort") or left < 1:
            return begun
        return begun + await self._sampled(session, [*prompt, *begun], {"max_tokens": left})

    def _parameters(self) -> dict[str, Any]:
        settings = self.l2t.gain
        sampling = {"temperature": settings.sample_temperature, "max_tokens": settings.sample_tokens}
        return {"top_p": 1.0, "top_k": -1, "logprobs": False} | sampling

    async def _sampled(self, session: str, prompt: list[int], changes: dict[str, Any]) -> list[int]:
        parameters = self._parameters() | changes
        output = await self.llm_client.generate(request_id=session, prompt_ids=prompt, sampling_params=parameters)
        return list(output.token_ids)

    async def _graded(self, texts: list[str], kwargs: dict) -> list[float]:
        """Accuracies of responses that end in a forced answer."""
        column = np.empty(1, dtype=object)
        column[0] = texts
        extra = {key: np.array([value], dtype=object) for key, value in kwargs.items()}
        data = DataProto(
            batch=TensorDict({"dummy": torch.zeros(1, 1)}, batch_size=1), non_tensor_batch={**extra, fields.FORCED: column}
        )
        result = await random.choice(self.reward_loop_worker_handles).compute_score.remote(data)
        return result["reward_extra_info"][fields.FORCED]


class L2TAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with L2T's workers; the trainer takes it where `gain.kind=monte_carlo`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(L2TAgentLoopWorker)


@contextmanager
def _marked(training: bool) -> Iterator[None]:
    token = _training.set(training)
    try:
        yield
    finally:
        _training.reset(token)

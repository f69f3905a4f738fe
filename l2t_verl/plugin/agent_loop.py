"""Answers sampled after each episode, while the rollout servers are awake: `gain.kind=monte_carlo`.

An agent loop that has finished and been graded samples n forced answers after each of its prefixes from the same server
(whose cache holds the prefix), while other rollouts still generate. They are graded by the reward manager's own grader.
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
            session = uuid4().hex  # one for all, so that they reach the server that has the prefix
            starts = await self._in_thread(lambda: [len(self._text(response)) for response in responses])

            async def sample(k: int, n: int) -> str:
                answer = await self._sampled(session, prompts[k], f"{k}_{n}", n)
                text = await self._in_thread(lambda: self._text([*responses[k], *answer]))
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

    async def _sampled(self, session: str, prompt: list[int], name: str, number: int) -> list[int]:
        settings, parameters = self.l2t.gain, {"top_p": 1.0, "top_k": -1, "logprobs": False}
        parameters |= {"temperature": settings.sample_temperature, "max_tokens": settings.sample_tokens}
        if getattr(self.config.actor_rollout_ref.rollout, "full_determinism", False):
            # verl would take one seed and one request for all
            session, parameters["seed"] = f"{session}_{name}", number
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

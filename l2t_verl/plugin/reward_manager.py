"""The reward manager `l2t`: outcome, episode boundaries and format, one rollout at a time, while others still generate."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from omegaconf import DictConfig
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.utils.reward_score import default_compute_score

from l2t_verl import episodes
from l2t_verl.config import L2TConfig
from l2t_verl.grading import Grader, GradeResult, grade_code_score, grade_math_score
from l2t_verl.plugin import fields
from l2t_verl.plugin.startup import read_config
from l2t_verl.thought import Marks, answer_part, decode, opens_thought

logger = logging.getLogger(__name__)


# A grading process that runs verl's scorers imports this module, and so verl, before its first sample
VERL_SCORERS = (__name__,)


def verl_score(data_source: str, response: str, ground_truth: Any, extra_info: dict | None) -> Any:
    """Verl's own scorer of a data source; runs in a grading process."""
    return default_compute_score(data_source, response, ground_truth, extra_info)


def knows(data_source: str) -> bool:
    """Whether verl has a scorer for this data source: it raises NotImplementedError where it has none."""
    try:
        default_compute_score(data_source, "", "")
    except NotImplementedError:
        return False
    except Exception:
        return True
    return True


@register("l2t")
class L2TRewardManager(RewardManagerBase):
    """Grades the final answer and cuts the response into episodes.

    Never raises: verl would drop the whole prompt group. What cannot be graded scores 0 and says why in `l2t_grading`.
    """

    def __init__(
        self,
        config: DictConfig,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
        **_: Any,
    ):
        super().__init__(config, tokenizer, compute_score)
        self.l2t: L2TConfig = read_config(config)
        self.marks = Marks.of(self.l2t.gain.think_open, self.l2t.gain.think_close)
        self.custom = compute_score if config.reward.custom_reward_function.path is not None else None
        sandbox = config.reward.get("sandbox_fusion")
        self.sandboxed = compute_score if sandbox and sandbox.get("url") else None
        self.router: dict[str, Any] = {}  # what verl hands to custom functions that ask a reward model
        if reward_router_address is not None:
            self.router = {
                "reward_router_address": reward_router_address,
                "reward_model_tokenizer": reward_model_tokenizer,
            }
        outcome = self.l2t.outcome
        limits: dict[str, Any] = {"workers": outcome.workers, "seconds_per_sample": outcome.seconds_per_sample}
        # two pools, started when first used: importing verl is slow and large, and math-verify does without
        self.grader, self.verl_grader = Grader(**limits), Grader(**limits, imports=VERL_SCORERS)
        self._threads = asyncio.Semaphore(min(32, (os.cpu_count() or 1) + 4))
        self._known: dict[str, bool] = {}

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Grade one trajectory; with several outputs, the last carries the outcome and each has its episodes."""
        item = data[-1]
        extra = item.non_tensor_batch
        truth = fields.ground_truth_of(extra.get("reward_model"))
        if fields.FORCED in extra:  # responses that end in a sampled answer: grades are all that is asked
            results = await asyncio.gather(*(_safely(self._grade(extra, text, truth)) for text in extra[fields.FORCED]))
            accuracies = [result.accuracy for result in results]
            return {"reward_score": 0.0, "reward_extra_info": {fields.FORCED: accuracies}}
        ids = [_valid_ids(data[row]) for row in range(len(data))]
        result = await _safely(self._grade_tokens(extra, *ids[-1], truth))
        outputs, format_ok = await self._in_thread(lambda: self._episodes(ids, fields.accepted_answers(truth)))
        return {
            "reward_score": result.score,
            "reward_extra_info": {
                fields.ACCURACY: result.accuracy,
                fields.GRADING: result.status,
                fields.EPISODES: fields.encode_episodes(outputs),
                fields.NUM_EPISODES: float(len(outputs[-1].ends)),
                fields.FORMAT_OK: float(format_ok),
            },
        }

    def close(self) -> None:
        """End the grading processes."""
        self.grader.close()
        self.verl_grader.close()

    async def _grade_tokens(self, extra: dict[str, Any], prompt: list[int], response: list[int], truth: Any) -> GradeResult:
        text = await self._in_thread(lambda: decode(response, self.tokenizer, self.marks))
        opened = await self._in_thread(lambda: self._thinking(prompt))
        return await self._grade(extra, text, truth, opened)

    async def _grade(self, extra: dict[str, Any], response: str, truth: Any, opened: bool | None = None) -> GradeResult:
        """The outcome and the accuracy: of what is answered, the thought left out; a custom function gets all of it."""
        source, info = str(extra.get("data_source", "")), _extra_info(extra)
        if self.custom is not None:
            return GradeResult.of(await self._call(self.custom, source, response, truth, info))
        answered = answer_part(response, self.marks, opened) or ""
        grader, tests = self.l2t.outcome.grader, info.get("tests")
        if tests and grader in ("auto", "tests"):
            return await self.grader.grade(grade_code_score, answered, tests, self.marks, False)
        answers = fields.accepted_answers(truth)
        if not answers or grader == "tests":
            return GradeResult(0.0, "no_ground_truth")
        if grader == "math_verify" or (grader == "auto" and not await self._is_known(source)):
            return await self.grader.grade(grade_math_score, answered, answers, self.marks, False)
        if self.sandboxed is not None:
            return GradeResult.of(await self._call(self.sandboxed, source, answered, truth, info))
        return await self.verl_grader.grade(verl_score, source, answered, truth, info)

    async def _call(self, function: Any, source: str, response: str, truth: Any, info: dict[str, Any]) -> Any:
        arguments = {"data_source": source, "solution_str": response, "ground_truth": truth, "extra_info": info}
        arguments |= self.router
        seconds = self.l2t.outcome.seconds_per_sample
        if inspect.iscoroutinefunction(function):
            return await asyncio.wait_for(function(**arguments), seconds)
        async with self._threads:
            return await asyncio.wait_for(_in_own_thread(lambda: function(**arguments)), seconds)

    async def _is_known(self, source: str) -> bool:
        if source not in self._known:
            self._known[source] = await self._in_thread(lambda: knows(source))
        return self._known[source]

    async def _in_thread(self, function: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function)

    def _episodes(self, ids: list[tuple[list[int], list[int]]], answers: list[str]) -> tuple[list, bool]:
        """Episodes of each output and whether the last one keeps the paper's format; empty where the segmenter fails."""
        outputs, format_ok = [], False
        for prompt, response in ids:
            try:
                ends = self._ends(prompt, response)
                states = [] if self.l2t.episodes.method == "surprise" else self._states(response, ends, answers)
                text = self.tokenizer.decode(response, skip_special_tokens=False)
                format_ok = episodes.format_ok(text, self.marks)
            except Exception as error:
                logger.warning("l2t: segmentation failed: %s: %s", type(error).__name__, error)
                ends, states, format_ok = [], [], False
            outputs.append(fields.OutputEpisodes(ends, states))
        return outputs, format_ok

    def _ends(self, prompt: list[int], response: list[int]) -> list[int]:
        settings = self.l2t.episodes
        markers = {} if settings.answer_markers is None else {"answer_markers": settings.answer_markers}
        thinking = self._thinking(prompt)
        if settings.method == "surprise":  # cut by the trainer, which has the log-probs
            end = episodes.body_end(response, self.tokenizer, thinking=thinking, marks=self.marks, **markers)
            return [end] if end > 0 else []
        options: dict[str, Any] = {
            "max_episodes": settings.max_episodes,
            "min_episode_tokens": settings.min_episode_tokens,
            "thinking": thinking,
            "marks": self.marks,
            **markers,
        }
        methods = (settings.method, settings.fallback)
        if settings.method in ("episode_tags", "think_blocks"):
            options["fallback"] = settings.fallback
        if "fixed_tokens" in methods:
            options["tokens_per_episode"] = settings.tokens_per_episode
        if "discourse_markers" in methods and settings.markers is not None:
            options["markers"] = settings.markers
        return episodes.segment(response, self.tokenizer, method=settings.method, **options)

    def _states(self, response: list[int], ends: list[int], answers: list[str]) -> list[int]:
        texts = [
            self.tokenizer.decode(response[start:end], skip_special_tokens=True)
            for start, end in itertools.pairwise([0, *ends])
        ]
        return [int(any(episodes.states_answer(text, answer) for answer in answers)) for text in texts]

    def _thinking(self, prompt: list[int]) -> bool | None:
        """True where the prompt has opened a thought; else the response's own marks decide."""
        return opens_thought(self.tokenizer.decode(prompt[-64:], skip_special_tokens=False), self.marks) or None


async def _safely(grading: Awaitable[GradeResult]) -> GradeResult:
    """The grade, or why there is none: verl drops the whole prompt group for an exception."""
    try:
        return await grading
    except TimeoutError:
        return GradeResult(0.0, "timeout")
    except Exception as error:
        logger.warning("l2t: grading failed: %s: %s", type(error).__name__, error)
        return GradeResult(0.0, "error")


def _valid_ids(item: Any) -> tuple[list[int], list[int]]:
    """Prompt and response ids without padding; with several outputs verl pads both sides to the longest."""
    prompt, response = item.batch["prompts"], item.batch["responses"]
    lengths = item.non_tensor_batch
    if "prompt_len" in lengths:
        return prompt[: int(lengths["prompt_len"])].tolist(), response[: int(lengths["response_len"])].tolist()
    mask, width = item.batch["attention_mask"].bool(), len(prompt)
    return prompt[mask[:width]].tolist(), response[mask[width:]].tolist()


def _extra_info(extra: dict[str, Any]) -> dict[str, Any]:
    """The dataset's extra info with what verl's own managers add."""
    info: dict[str, Any] = {}
    for given in (extra.get("extra_info"), extra.get("tool_extra_fields")):
        info.update(given if isinstance(given, dict) else {})
    info["num_turns"] = extra.get("__num_turns__")
    info["rollout_reward_scores"] = extra.get("reward_scores", {})
    return info


async def _in_own_thread(function: Callable[[], Any]) -> Any:
    """Run what may never return in a thread that nobody waits for: an executor would lose one for other samples.

    Raises:
        RuntimeError: the function raised something; not every exception can pass through an event loop.
    """
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    threading.Thread(target=run, daemon=True, name="l2t-scorer").start()
    return await asyncio.wrap_future(future)

"""The reward manager on verl's own configuration, called as verl's agent loop calls it."""

import asyncio
import itertools
import json
import math
import random
import time
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import verl  # first, as in every process of a run: it loads the plugin
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensordict import TensorDict
from tiny import byte_tokenizer, metaspace_tokenizer, r1_like_tokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, AgentLoopWorker
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.reward_score import default_compute_score

from l2t_verl import episodes
from l2t_verl.grading import Grader
from l2t_verl.plugin import fields, verl_scorers
from l2t_verl.plugin.rollout.reward_manager import L2TRewardManager
from l2t_verl.plugin.verl_scorers import knows

BYTES, R1 = byte_tokenizer(), r1_like_tokenizer()
KEYS = {"acc", "l2t_grading", "l2t_episodes", "l2t_num_episodes", "l2t_format_ok"}
SECONDS = 60.0  # the limit where nothing should reach it
SUM = "<think><episode_1>3 and 4</episode_1><episode_2>is 7</episode_2></think>\\boxed{7}"


@cache
def verl_config():
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=["reward.reward_manager.name=l2t", "+algorithm.l2t={}"])


@pytest.fixture(scope="module")
def graders():
    """The two pools of a manager, started once for all of them."""
    pools = Grader(2, SECONDS), Grader(1, SECONDS, imports=(verl_scorers.__name__,))
    yield pools
    for pool in pools:
        pool.close()


@pytest.fixture
def make(graders, tmp_path):
    """Makes managers as verl's reward loop does: `l2t` holds settings, `custom` the source of a reward function."""

    def build(tokenizer=BYTES, l2t: dict | None = None, custom: str | None = None, **verl_arguments) -> L2TRewardManager:
        config = verl_config().copy()
        OmegaConf.update(config, "algorithm.l2t", {"outcome": {"seconds_per_sample": SECONDS}}, force_add=True)
        OmegaConf.update(config, "algorithm.l2t", l2t or {}, force_add=True, merge=True)
        if custom is not None:
            (tmp_path / "custom.py").write_text(custom)
            config.reward.custom_reward_function.path = str(tmp_path / "custom.py")
        manager = load_reward_manager(config, tokenizer, **verl_arguments)
        assert type(manager) is L2TRewardManager
        manager.grader, manager.verl_grader = graders
        return manager

    return build


@pytest.fixture(autouse=True)
def no_silent_failure(caplog):
    """What fails leaves a neutral result, which may be the right one by chance."""
    yield
    assert not [record for record in caplog.get_records("call") if "segmentation failed" in record.getMessage()]


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def row(truth="7", source="l2t/sums", **others) -> dict:
    """The columns of verl's data for one prompt."""
    return {"data_source": source, "reward_model": {"style": "rule", "ground_truth": truth}, "extra_info": {}} | others


async def reward_of(manager, outputs, columns=None, extra_fields=({},)) -> dict:
    """What verl's agent loop gets for a trajectory of (prompt, response) texts or ids; the batch is made by verl."""
    tokenizer = manager.tokenizer
    ids = [[text if isinstance(text, list) else encode(tokenizer, text) for text in output] for output in outputs]
    rollouts = [
        AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=response,
            response_mask=[1] * len(response),
            metrics=AgentLoopMetrics(),
            extra_fields=dict(extra),
        )
        for (prompt, response), extra in zip(ids, itertools.cycle(extra_fields))
    ]
    worker = object.__new__(AgentLoopWorker)
    worker.processor = worker.mm_processor_kwargs = None
    worker.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=manager.run_single))]
    await worker._compute_score(rollouts, kwargs=row() if columns is None else columns)
    info = rollouts[-1].extra_fields["reward_extra_info"]
    # verl takes the keys from one sample for all, and turns the values into arrays and metrics
    assert set(info) == KEYS
    assert all(isinstance(value, (float, str)) for value in info.values())
    assert isinstance(rollouts[-1].reward_score, float)
    assert math.isfinite(rollouts[-1].reward_score + info["acc"])
    found = fields.decode_episodes(info["l2t_episodes"])
    assert len(found) == len(outputs)
    assert info["l2t_num_episodes"] == len(found[-1].ends)
    return info | {"score": rollouts[-1].reward_score, "episodes": found}


def reward(manager, response, columns=None, prompt="3+4?", **others) -> dict:
    return asyncio.run(reward_of(manager, [(prompt, response)], columns, **others))


def judged(found: dict) -> tuple[float, float, str]:
    return found["score"], found["acc"], found["l2t_grading"]


# ---- grading


def test_a_whole_result(make):
    found = reward(make(), SUM)
    assert judged(found) == (1.0, 1.0, "ok")
    assert found["l2t_format_ok"] == 1.0
    ends = [len("<think><episode_1>3 and 4</episode_1>"), SUM.index("</think>")]
    assert found["episodes"] == [fields.OutputEpisodes(ends, [0, 1])]  # one byte is one token; the second states the 7


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("\\boxed{7}", (1.0, 1.0, "ok")),
        ("#### 7.0", (1.0, 1.0, "ok")),
        ("The answer is 14/2.", (1.0, 1.0, "ok")),
        ("\\boxed{8}", (0.0, 0.0, "ok")),
        ("no idea", (0.0, 0.0, "unparsable")),
        ("\\boxed{", (0.0, 0.0, "unparsable")),
        ("\\boxed{7}<|im_end|>", (1.0, 1.0, "ok")),  # special tokens are not part of the answer
    ],
)
def test_unknown_data_sources_are_graded_by_math_verify(make, response, expected):
    assert judged(reward(make(), response)) == expected


def test_verl_s_own_scorer_grades_what_verl_knows(make):
    """On a case where the two disagree: verl reads `#### 7` only."""
    known = row(source="openai/gsm8k")
    assert default_compute_score("openai/gsm8k", "\\boxed{7}", "7") == 0
    assert judged(reward(make(), "\\boxed{7}", known)) == (0.0, 0.0, "ok")
    assert judged(reward(make(), "#### 7", known)) == (1.0, 1.0, "ok")
    forced = make(l2t={"outcome": {"grader": "math_verify"}})
    assert judged(reward(forced, "\\boxed{7}", known)) == (1.0, 1.0, "ok")


def test_forcing_verl_s_scorer_on_what_verl_does_not_know_scores_nothing(make):
    found = reward(make(l2t={"outcome": {"grader": "verl"}}), "\\boxed{7}")
    assert judged(found) == (0.0, 0.0, "error")


def test_accuracy_of_a_scorer_that_punishes(make):
    """verl's scorer of AIME gives −1 to a wrong answer; its accuracy is 0 all the same."""
    columns = row(source="aime2024")
    for response, score, accuracy in (("Answer: 7", 1.0, 1.0), ("Answer: 8", -1.0, 0.0)):
        assert default_compute_score("aime2024", response, "7")["score"] == score
        assert judged(reward(make(), response, columns)) == (score, accuracy, "ok")


def test_programs_are_run(make):
    """verl's scorer of programs starts processes of its own, inside a grading process."""
    columns = row(json.dumps({"inputs": ["1\n", "5\n"], "outputs": ["2\n", "6\n"]}), "codecontests")
    right = "```python\nprint(int(input()) + 1)\n```"
    assert judged(reward(make(), right, columns)) == (1.0, 1.0, "ok")
    assert judged(reward(make(), right.replace("1", "2"), columns))[0] == 0.0


def test_a_row_s_own_tests_are_run_in_the_sandbox(make):
    tests = {"source": "assert double(2) == 4", "entry": "", "preamble": ""}
    columns = row("def double(x):\n    return 2 * x", "l2t/mbpp", extra_info={"tests": tests})
    right, wrong = ("```python\ndouble = lambda x: %s * x\n```" % factor for factor in (2, 3))  # noqa: UP031
    for manager in (make(), make(l2t={"outcome": {"grader": "tests"}})):
        assert judged(reward(manager, right, columns)) == (1.0, 1.0, "ok")
        assert judged(reward(manager, wrong, columns)) == (0.0, 0.0, "ok")
        assert judged(reward(manager, "double = lambda x: 2 * x", columns)) == (0.0, 0.0, "unparsable")
    assert judged(reward(manager, right)) == (0.0, 0.0, "no_ground_truth")


def test_which_sources_verl_knows():
    known = {"openai/gsm8k", "lighteval/MATH", "aime2025", "searchR1_nq"}
    assert {name for name in (*known, "l2t/sums", "", "DeepScaleR") if knows(name)} == known


@pytest.mark.parametrize("truth", [["8", "7"], ("7", "8"), np.array(["8", "7"], dtype=object), ["", "14/2"], 7, 7.0, " 7 "])
def test_accepted_answers_in_every_form_that_data_comes_in(make, truth):
    assert judged(reward(make(), SUM, row(truth))) == (1.0, 1.0, "ok")


def test_none_of_several_accepted_answers(make):
    assert judged(reward(make(), SUM, row(["8", "9"]))) == (0.0, 0.0, "ok")


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"data_source": "l2t/sums"},
        {"reward_model": None, "data_source": None},
        {"reward_model": "7"},
        {"reward_model": {}},
        row(None),
        row(""),
        row("  \n"),
        row([]),
        row(["", None]),
        row(float("nan")),
        row(np.array([], dtype=object)),
        row(None, "openai/gsm8k"),
    ],
)
def test_a_missing_truth_is_counted_and_not_graded(make, columns):
    found = reward(make(), SUM, columns)
    assert judged(found) == (0.0, 0.0, "no_ground_truth")
    assert found["l2t_num_episodes"] == 2.0  # the episodes are there all the same


@pytest.mark.parametrize("extra_info", [None, {}, {"index": 3, "answer": "x"}, float("nan"), "no mapping"])
def test_extra_info_of_any_kind(make, extra_info):
    known = row("7", "openai/gsm8k", extra_info=extra_info)
    assert judged(reward(make(), "#### 7", known)) == (1.0, 1.0, "ok")


def test_a_hostile_answer_scores_nothing_and_delays_nobody(make):
    """In the middle of honest samples, under a limit that it reaches."""
    manager = make()
    manager.grader = Grader(2, 5.0)

    async def run():
        await asyncio.gather(*(manager.grader.grade(time.sleep, 0.5) for _ in range(2)))  # both processes have started
        honest = [asyncio.ensure_future(timed(reward_of(manager, [("?", SUM)]))) for _ in range(3)]
        hostile = asyncio.ensure_future(timed(reward_of(manager, [("?", "\\boxed{10^{10^{10^{10}}}}")])))
        honest += [asyncio.ensure_future(timed(reward_of(manager, [("?", SUM)]))) for _ in range(10)]
        return await asyncio.gather(*honest), await hostile

    try:
        honest, (hostile, seconds) = asyncio.run(run())
    finally:
        manager.grader.close()
    assert judged(hostile) == (0.0, 0.0, "timeout")
    assert all(found["score"] == 1.0 for found, _ in honest)
    assert max(seconds for _, seconds in honest) < 5.0 <= seconds


async def timed(awaitable):
    start = time.monotonic()
    return await awaitable, time.monotonic() - start


# ---- custom functions

SIGNATURE = "def compute_score(data_source, solution_str, ground_truth, extra_info, **others):\n"
FAILURES = {
    "raises": "    raise KeyError('x')",
    "raises what ends a loop": "    return next(iter([]))",
    "leaves": "    import sys; sys.exit(0)",
    "is not a number": "    return float('nan')",
    "is infinite": "    return {'score': 1.0, 'acc': float('inf')}",
    "is nothing": "    return None",
    "is text": "    return 'good'",
    "is an empty mapping": "    return {}",
}


# an async function that leaves ends the event loop that it runs in: nothing can be done about that
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in FAILURES for kind in ("", "async ") if (name, kind) != ("leaves", "async ")]
)
def test_a_custom_function_that_fails(make, name, kind):
    found = reward(make(custom=kind + SIGNATURE + FAILURES[name]), SUM)
    assert judged(found) == (0.0, 0.0, "error")
    assert found["l2t_num_episodes"] == 2.0


@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.25", (0.25, 0.25, "ok")),
        ("True", (1.0, 1.0, "ok")),
        ("__import__('numpy').float32(0.5)", (0.5, 0.5, "ok")),
        ("{'score': 0.25, 'acc': True, 'note': ['x']}", (0.25, 1.0, "ok")),
        ("{'score': 0.25}", (0.25, 0.25, "ok")),
    ],
)
def test_what_a_custom_function_returns(make, kind, value, expected):
    """It also grades where there is no truth to compare with; its other keys would differ from sample to sample."""
    manager = make(custom=kind + SIGNATURE + f"    return {value}")
    assert judged(reward(manager, SUM)) == expected
    assert judged(reward(manager, SUM, row(None))) == expected


def test_what_a_custom_function_is_given(make):
    """Everything that verl's own manager gives it; the data's own mapping is left alone."""
    source = SIGNATURE + (
        "    assert (data_source, ground_truth) == ('l2t/sums', ['7', '8'])\n"
        "    assert solution_str == 'x \\\\boxed{7}'\n"
        "    assert extra_info['index'] == 5 and extra_info['tool'] == 'used' and extra_info['num_turns'] == 0\n"
        "    assert extra_info['rollout_reward_scores'] == {}\n"
        "    assert others['reward_router_address'] == 'host:1' and others['reward_model_tokenizer'] is not None\n"
        "    return 1.0"
    )
    manager = make(custom=source, reward_router_address="host:1", reward_model_tokenizer=BYTES)
    info = {"index": 5}
    found = reward(manager, "x \\boxed{7}<|im_end|>", row(["7", "8"], extra_info=info), extra_fields=[{"tool": "used"}])
    assert judged(found) == (1.0, 1.0, "ok")
    assert info == {"index": 5}
    without = make(custom=SIGNATURE + "    return float(not others)")
    assert reward(without, SUM)["score"] == 1.0


@pytest.mark.parametrize("body", ["import time; time.sleep(20)", "await __import__('asyncio').sleep(20)"])
def test_a_custom_function_that_hangs(make, body):
    source = ("async " if "await" in body else "") + SIGNATURE + f"    {body}\n    return 1.0"
    manager = make(custom=source, l2t={"outcome": {"seconds_per_sample": 0.5}})
    found, seconds = asyncio.run(timed(reward_of(manager, [("?", SUM)])))
    assert judged(found) == (0.0, 0.0, "timeout")
    assert 0.5 <= seconds < 10
    assert found["l2t_num_episodes"] == 2.0


def test_custom_functions_that_hang_hold_up_nobody_for_long(make):
    """More of them than there are threads in any pool; the others are graded, and cut into episodes, all the same."""
    source = SIGNATURE + "    import time\n    time.sleep(40 if 'hang' in solution_str else 0)\n    return 1.0"
    manager = make(custom=source, l2t={"outcome": {"seconds_per_sample": 0.5}})

    async def run():
        return await asyncio.gather(*(reward_of(manager, [("?", text)]) for text in ["hang"] * 40 + [SUM] * 3))

    start = time.monotonic()
    found = asyncio.run(run())
    assert time.monotonic() - start < 30
    assert [one["l2t_grading"] for one in found] == ["timeout"] * 40 + ["ok"] * 3


def test_programs_go_to_the_sandbox_where_there_is_one():
    config = verl_config().copy()
    config.reward.sandbox_fusion.url = "http://nowhere"
    calls = []

    def score(data_source, **_):
        calls.append(data_source)
        return 0.5

    manager = L2TRewardManager(config, BYTES, score)
    try:
        assert reward(manager, SUM, row("{}", "codecontests"))["score"] == 0.5
        assert reward(manager, SUM, row(None, "codecontests"))["l2t_grading"] == "no_ground_truth"
        assert reward(manager, SUM)["score"] == 1.0  # mathematics stays with math-verify
        assert calls == ["codecontests"]
    finally:
        manager.close()


def test_a_manager_s_own_processes_have_imported_what_they_need_and_end_with_it():
    """verl's import takes longer than the limit here; it is nobody's time."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    config = verl_config().copy()
    OmegaConf.update(config, "algorithm.l2t.outcome", {"seconds_per_sample": 1.5, "workers": 1}, force_add=True)
    manager = L2TRewardManager(config, BYTES)
    assert reward(manager, SUM)["score"] == 1.0
    assert reward(manager, "#### 7", row(source="openai/gsm8k"))["score"] == 1.0
    started = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    started = [child for child in started if "resource_tracker" not in " ".join(child.cmdline())]
    assert len(started) == 2
    manager.close()
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in started)


# ---- episodes


def options(settings: dict) -> dict:
    """The settings of `algorithm.l2t.episodes` as arguments of `segment`."""
    return {name: value for name, value in settings.items() if value is not None or name == "fallback"}


SETTINGS = [
    {"method": "episode_tags"},
    {"method": "episode_tags", "fallback": "fixed_tokens", "tokens_per_episode": 7},
    {"method": "episode_tags", "fallback": None, "max_episodes": 2},
    {"method": "think_blocks", "fallback": "discourse_markers", "markers": ["So", "ab"]},
    {"method": "paragraphs", "min_episode_tokens": 20},
    {"method": "paragraphs", "answer_markers": ["Wait"], "max_episodes": 2},
    {"method": "discourse_markers", "markers": ["Wait", "ab"]},
    {"method": "discourse_markers"},
    {"method": "fixed_tokens", "tokens_per_episode": 5, "max_episodes": 4},
]
PIECES = [
    *("<think>", "</think>", "<episode_1>", "</episode_1>", "<episode_2>", "</episode_2>", "\n\n", ". Wait, ", "\nSo "),
    *("\\boxed{7}", "#### 7", "the answer is ", "ab ab. ", "7", " é你 ", "x = 3.\n", ". ab "),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make_tokenizer", [byte_tokenizer, r1_like_tokenizer, metaspace_tokenizer])
def test_episodes_are_those_of_segment_on_the_ids(make, settings, make_tokenizer):
    seed = 4711
    print("seed", seed)
    generator = random.Random(seed)
    tokenizer = make_tokenizer()
    manager = make(tokenizer, {"episodes": settings}, custom=SIGNATURE + "    return 0.0")
    idle = set(settings) - {"method"}  # options that have made no difference yet
    for _ in range(40):
        response = encode(tokenizer, "".join(generator.choices(PIECES, k=generator.randint(0, 25))))
        found = reward(manager, response)
        ends = episodes.segment(response, tokenizer, **options(settings))
        assert found["episodes"][0].ends == ends
        others = {name: {key: value for key, value in settings.items() if key != name} for name in idle}
        idle -= {name for name in idle if episodes.segment(response, tokenizer, **options(others[name])) != ends}
        assert len(found["episodes"][0].states) == len(found["episodes"][0].ends)
        assert found["l2t_format_ok"] == float(episodes.format_ok(tokenizer.decode(response)))
    assert not idle


def test_which_episodes_state_an_accepted_answer(make):
    manager = make(l2t={"episodes": {"method": "paragraphs"}})
    text = "3 and 4\n\nis 7\n\nor 70\n\nor 14/2\n\n\\boxed{7}"
    (found,) = reward(manager, text, row("7"))["episodes"]
    assert found.states == [0, 1, 0, 0]
    (found,) = reward(manager, text, row(["7", "14/2"]))["episodes"]
    assert found.states == [0, 1, 0, 1]
    (found,) = reward(manager, text, row(None))["episodes"]
    assert found.states == [0, 0, 0, 0]


def test_format(make):
    manager = make()
    assert reward(manager, SUM)["l2t_format_ok"] == 1.0
    for text in ("\\boxed{7}", SUM.replace("episode_2", "episode_3"), SUM.replace("</think>", "")):
        assert reward(manager, text)["l2t_format_ok"] == 0.0


def test_several_outputs_of_one_trajectory(make):
    """verl pads their prompts and responses to the longest; the last output carries outcome, count and format."""
    outputs = [("a long first prompt", "one\n\ntwo\n\nthree"), ("p", "\\boxed{8}"), ("another", SUM)]
    found = asyncio.run(reward_of(make(), outputs))
    assert judged(found) == (1.0, 1.0, "ok")
    assert found["l2t_format_ok"] == 1.0
    cuts = [episodes.segment(encode(BYTES, text), BYTES, method="episode_tags") for _, text in outputs]
    assert [len(cut) for cut in cuts] == [3, 0, 2]
    assert [output.ends for output in found["episodes"]] == cuts
    found = asyncio.run(reward_of(make(), outputs[::-1]))  # the long one is last
    assert found["l2t_grading"] == "unparsable"
    assert [output.ends for output in found["episodes"]] == cuts[::-1]
    assert (found["l2t_num_episodes"], found["l2t_format_ok"]) == (3.0, 0.0)
    manager = make(custom=SIGNATURE + "    return float(extra_info['tool'] == 'last' and solution_str == 'b')")
    extra_fields = [{"tool": "first"}, {"tool": "last"}]
    assert asyncio.run(reward_of(manager, [("p", "a"), ("p", "b")], extra_fields=extra_fields))["score"] == 1.0


def test_each_output_has_its_own_prompt(make):
    """A short prompt that opens a thought, padded by verl to the length of another."""
    thought = "so \\boxed{7}?\n\nWait"
    found = asyncio.run(reward_of(make(), [("<think>", thought), ("p" * 200, thought)]))
    assert [output.ends[-1] for output in found["episodes"]] == [len(thought), thought.index("\\")]


def padded(tokenizer, samples: list[tuple[str, str]], columns: dict, width: int = 40) -> verl.DataProto:
    """Prompts padded on the left and responses on the right, as in a batch that is graded after generation."""
    pad, batch = 0, []
    for prompt, response in samples:
        prompt, response = encode(tokenizer, prompt), encode(tokenizer, response)
        left, right = [pad] * (width - len(prompt)), [pad] * (2 * width - len(response))
        mask = [0] * len(left) + [1] * (len(prompt) + len(response)) + [0] * len(right)
        batch.append((left + prompt, response + right, mask))
    prompts, responses, masks = (torch.tensor(column) for column in zip(*batch, strict=True))
    tensors = TensorDict({"prompts": prompts, "responses": responses, "attention_mask": masks}, batch_size=len(samples))
    rest = {name: np.array([value] * len(samples), dtype=object) for name, value in columns.items()}
    return verl.DataProto(batch=tensors, non_tensor_batch=rest)


def test_padding_is_not_part_of_the_response(make):
    """The padding token (id 0, an exclamation mark here) is a token of the vocabulary: only the mask tells."""
    manager = make()
    found = asyncio.run(manager.run_single(padded(BYTES, [("3+4?", "\\boxed{7}")], row())))
    assert found["reward_score"] == 1.0
    text = "one\n\ntwo"
    found = asyncio.run(manager.run_single(padded(BYTES, [("3+4?", text)], row())))
    assert fields.decode_episodes(found["reward_extra_info"]["l2t_episodes"])[0].ends == [5, len(text)]


@pytest.mark.parametrize("settings", [{}, {"method": "surprise"}, {"method": "fixed_tokens"}])
def test_an_empty_response(make, settings):
    manager = make(l2t={"episodes": settings})
    for prompt in ("3+4?", "think <think>", ""):
        found = reward(manager, "", prompt=prompt)
        assert judged(found) == (0.0, 0.0, "unparsable")
        assert found["episodes"] == [fields.OutputEpisodes([], [])]
    data = padded(BYTES, [("3+4?", "")], row())
    without_width = data.batch.clone()  # and in a batch whose responses have no width at all
    without_width["responses"] = without_width["responses"][:, :0]
    without_width["attention_mask"] = without_width["attention_mask"][:, :40]
    for batch in (data.batch, without_width):
        result = asyncio.run(manager.run_single(verl.DataProto(batch, data.non_tensor_batch)))
        assert result["reward_score"] == 0.0
        assert set(result["reward_extra_info"]) == KEYS


def test_a_prompt_that_opens_the_thought(make):
    """As R1's chat template does. Who thinks has no tail before the thought is closed, whatever the thought quotes."""
    text = "so \\boxed{7}?\n\nWait"
    ids = encode(R1, text)
    manager = make(R1, {"episodes": {"method": "paragraphs"}})
    open_ends = episodes.segment(ids, R1, method="paragraphs", thinking=True)
    closed_ends = episodes.segment(ids, R1, method="paragraphs")
    assert open_ends[-1] == len(ids) != closed_ends[-1]
    question = "<|im_start|>user\n3+4?<|im_end|>\n<|im_start|>assistant\n"
    assert reward(manager, text, prompt=question + "<think>\n")["episodes"][0].ends == open_ends
    for prompt in (question, question + "<think>\n\n</think>\n\n", "Write <think>…</think>. " + question):
        assert reward(manager, text, prompt=prompt)["episodes"][0].ends == closed_ends
    longer = question + "<think>\n" + "so far so good. " * 2  # a thought that has begun in the prompt
    assert reward(manager, text, prompt=longer)["episodes"][0].ends == open_ends


def test_other_marks_of_a_thought(make):
    """What opens and closes a thought is configuration."""
    gain = {"think_open": "[THINK]", "think_close": "\n[/THINK]"}
    manager = make(l2t={"episodes": {"method": "paragraphs"}, "gain": gain})
    text = "so \\boxed{7}?\n\nWait"
    for prompt, end in (("[THINK]", len(text)), ("[THINK][/THINK]", text.index("\\"))):
        assert reward(manager, text, prompt=prompt)["episodes"][0].ends[-1] == end


def test_surprise_sends_the_end_of_the_body_only(make):
    """The trainer cuts it, which has the log-probs; which episodes state the answer is not known then."""
    manager = make(l2t={"episodes": {"method": "surprise"}})
    for text, end in ((SUM, SUM.index("</think>")), ("a\n\nb #### 7", 5), ("no end", 6), ("\\boxed{7}", None)):
        expected = fields.OutputEpisodes([] if end is None else [end], [])
        assert reward(manager, text)["episodes"] == [expected]
    manager = make(l2t={"episodes": {"method": "surprise", "answer_markers": ["Result"]}})
    assert reward(manager, "x #### 7 Result")["episodes"][0].ends == [9]
    assert reward(manager, "x #### 7", prompt="<think>")["episodes"][0].ends == [8]


def test_a_tokenizer_without_a_padding_token(make):
    tokenizer = byte_tokenizer(pad=False)
    assert tokenizer.pad_token is None
    assert judged(reward(make(tokenizer), SUM)) == (1.0, 1.0, "ok")


def test_ids_beyond_the_tokenizer_s_vocabulary(make):
    """Models pad their embedding, and a random one does sample from the padding."""
    response = [len(BYTES) + 5, *encode(BYTES, "a\n\nb \\boxed{7}"), len(BYTES) + 900]
    found = reward(make(l2t={"episodes": {"method": "paragraphs"}}), response)
    assert judged(found) == (1.0, 1.0, "ok")
    assert found["episodes"][0].ends == episodes.segment(response, BYTES, method="paragraphs")


@pytest.mark.parametrize("name", ["segment_as_configured", "states_answer", "format_ok"])
def test_segmentation_that_raises_leaves_no_episodes_but_the_grade(make, monkeypatch, caplog, name):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(episodes, name, fail)
    found = reward(make(), SUM)
    assert judged(found) == (1.0, 1.0, "ok")
    assert (found["episodes"], found["l2t_format_ok"]) == ([fields.OutputEpisodes([], [])], 0.0)
    assert "segmentation failed: RuntimeError: a bug" in caplog.text
    caplog.clear()


def test_a_tokenizer_that_raises(make, monkeypatch, caplog):
    def fail(*_, **__):
        raise OverflowError("out of range")

    tokenizer = byte_tokenizer()
    manager = make(tokenizer)
    response = encode(tokenizer, SUM)
    monkeypatch.setattr(tokenizer, "decode", fail)
    found = reward(manager, response, prompt=[5])
    assert judged(found) == (0.0, 0.0, "error")
    assert found["episodes"] == [fields.OutputEpisodes([], [])]
    assert "segmentation failed: OverflowError" in caplog.text
    caplog.clear()


def test_many_samples_at_once(make):
    """The mixture that a batch is: each gets its own result."""
    manager = make()
    cases = {
        SUM: ("7", 1.0),
        "\\boxed{8}": ("7", 0.0),
        "": ("7", 0.0),
        "one\n\ntwo #### 5": ("5", 1.0),
        "The answer is 6": (["5", "6"], 1.0),
        "\\boxed{9}": (None, 0.0),
    }

    async def run():
        samples = [reward_of(manager, [("?", text)], row(truth)) for text, (truth, _) in cases.items()]
        return await asyncio.gather(*samples)

    assert [found["score"] for found in asyncio.run(run())] == [score for _, score in cases.values()]


# ---- what travels


def test_episodes_survive_the_journey():
    outputs = [fields.OutputEpisodes([3, 70000], [0, 1]), fields.OutputEpisodes([], [])]
    text = fields.encode_episodes(outputs)
    assert fields.decode_episodes(text) == outputs
    assert fields.decode_episodes(str(np.array([text])[0])) == outputs  # verl makes an array of them


@pytest.mark.parametrize(
    ("truth", "answers"),
    [
        ("72", ["72"]),
        (" 72\n", ["72"]),
        (72, ["72"]),
        (0, ["0"]),
        (np.str_("7"), ["7"]),
        (np.array("7"), ["7"]),
        (np.array([1, 2]), ["1", "2"]),
        (["1/2", ["0.5", None]], ["1/2", "0.5"]),
        (None, []),
        (float("nan"), []),
        (np.float64("nan"), []),
        ([float("nan"), "7"], ["7"]),
        ("", []),
        ([], []),
    ],
)
def test_accepted_answers(truth, answers):
    assert fields.accepted_answers(truth) == answers


def test_the_truth_as_parquet_files_bring_it(tmp_path):
    """Text, several texts, nothing: what pandas and pyarrow make of each."""
    truths = ["7", None, ""]
    several = [["7", "14/2"], [], None]
    for column, expected in ((truths, [["7"], [], []]), (several, [["7", "14/2"], [], []])):
        pd.DataFrame({"reward_model": [{"ground_truth": truth} for truth in column]}).to_parquet(tmp_path / "x.parquet")
        read = pd.read_parquet(tmp_path / "x.parquet")["reward_model"]
        assert [fields.accepted_answers(fields.ground_truth_of(item)) for item in read] == expected


def test_the_truth_of_a_row_without_one():
    for column in (None, {}, "7", float("nan"), {"style": "rule"}):
        assert fields.ground_truth_of(column) is None


def test_columns_of_objects():
    values = [{"a": 1}, None, {"b": [2]}]
    assert fields.objects({"x": values}, "x") == values
    assert fields.objects({"x": np.array(values, dtype=object)}, "x") == values

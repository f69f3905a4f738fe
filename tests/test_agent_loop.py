"""Answers sampled in verl's agent loop, with the real reward manager as grader; only the rollout server is a stand-in."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
import verl  # noqa: F401 - first, as in every process of a run: it loads the plugin
from cluster import composed
from test_reward_manager import SECONDS, verl_config
from tiny import byte_tokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import load_reward_manager

from l2t_verl import gain
from l2t_verl.config import load_config
from l2t_verl.plugin import fields, rollout_server
from l2t_verl.plugin.agent_loop import L2TAgentLoopWorker, _marked

BYTES = byte_tokenizer()
PROMPT = BYTES.encode("3+4?")


@pytest.fixture(scope="module")
def manager():
    config = verl_config().copy()
    found = load_reward_manager(config, BYTES)
    found.l2t = load_config({"outcome": {"seconds_per_sample": SECONDS}})
    yield found
    found.close()


class Server:
    """Answers "7}" to some prompts, nonsense to others, and remembers what it was asked; verl's client of it, too."""

    actor = None  # without the call that vLLM's server gets

    def __init__(self, knows):
        self.knows, self.asked, self.held = knows, [], 0

    async def _acquire_server(self, request_id, prompt_ids):
        self.held += 1
        return "server", self.actor

    def _release_server(self, server_id, request_id):
        self.held -= 1

    async def generate(self, request_id, prompt_ids, sampling_params):
        text = BYTES.decode(prompt_ids)
        self.asked.append((request_id, text, sampling_params))
        answer = self.knows(text, len(self.asked))
        await asyncio.sleep(0)
        return SimpleNamespace(token_ids=BYTES.encode(answer))


class VllmServer(Server):
    """The same with the call that makes all answers at once; `breaks` answers are cut off after their first token."""

    def __init__(self, knows, breaks=0):
        super().__init__(knows)
        self.calls, self.breaks, self.inside = [], breaks, []
        self.config, self.running, self.most = SimpleNamespace(max_num_seqs=2), 0, 0
        self.actor = SimpleNamespace(l2t_generate_after=SimpleNamespace(remote=self.remote))

    async def remote(self, *arguments):
        self.calls.append(arguments)
        inner = SimpleNamespace(generate=self.generate_inside, config=self.config)
        return await rollout_server.generate_after(inner, *arguments)

    async def generate_inside(self, prompt_ids, sampling_params, request_id):
        self.running += 1
        self.most = max(self.most, self.running)
        self.inside.append(request_id)
        output = await self.generate(request_id, prompt_ids, sampling_params)
        self.running -= 1
        output.stop_reason = "completed"
        if self.breaks:
            self.breaks -= 1
            output.token_ids, output.stop_reason = output.token_ids[:1], "aborted"
        return output


def worker(manager, server, **settings) -> L2TAgentLoopWorker:
    made = object.__new__(L2TAgentLoopWorker)
    made.config = composed("actor_rollout_ref.model.path=nowhere")
    made.l2t = load_config({"gain": {"kind": "monte_carlo", "samples": 2, **settings}})
    made.template = gain.ForcingTemplate.from_config(made.l2t.gain)
    made.tokenizer, made.llm_client, made.teacher_client = BYTES, server, None
    remote = lambda data: manager.run_single(data)  # noqa: E731
    made.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=remote))]
    made.mm_processor_kwargs = {}
    made._compute_multi_modal_inputs = lambda *_: {}
    made._compute_position_ids = lambda ids, *_: torch.arange(ids.shape[1])[None]
    return made


def output(text: str) -> AgentLoopOutput:
    ids = BYTES.encode(text)
    return AgentLoopOutput(prompt_ids=PROMPT, response_ids=ids, response_mask=[1] * len(ids), metrics=AgentLoopMetrics())


def scored(made, *texts: str, training: bool = True) -> dict:
    outputs = [output(text) for text in texts]
    sample = {"data_source": "l2t/sums", "reward_model": {"ground_truth": "7"}, "raw_prompt": "?", "uid": "u"}

    async def run():
        with _marked(training=training):
            await made._compute_score(outputs, sample)

    asyncio.run(run())
    return outputs[-1].extra_fields["reward_extra_info"]


STEPS = "<think><episode_1>3 and 4</episode_1><episode_2>is seven</episode_2></think>So \\boxed{7}"


def test_scores_are_the_accuracy_of_what_was_sampled(manager):
    """The model knows the answer after the second step, and one time of two after the first."""
    knows = lambda text, n: "7}." if "seven" in text or ("3 and 4" in text and n % 2) else "8}, so \\boxed{7}"  # noqa: E731
    server = Server(knows)
    info = scored(worker(manager, server), STEPS)
    assert info[fields.ACCURACY] == 1.0
    (ends,) = [found.ends for found in fields.decode_episodes(info[fields.EPISODES])]
    assert len(ends) == 2
    assert fields.decode_scores(info[fields.SAMPLED_SCORES]) == [[0.0, 0.5, 1.0]]  # what comes after `}` is no answer
    assert len(server.asked) == 3 * 2
    assert len({request for request, _, _ in server.asked}) == 1  # one server, whose cache has the prefix
    for _, text, parameters in server.asked:
        assert text.startswith("3+4?")
        assert text.endswith("\n\nThe final answer is \\boxed{")
        assert parameters == {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": False, "max_tokens": 32}
    assert sum("</episode_1>" in text for _, text, _ in server.asked) == 4


def test_a_vllm_server_is_asked_once_for_all_answers_of_a_response(manager):
    knows = lambda text, n: "7}." if "seven" in text else "8}"  # noqa: E731
    server, apart = VllmServer(knows), Server(knows)
    infos = [scored(worker(manager, one), STEPS) for one in (server, apart)]
    assert fields.decode_scores(infos[0][fields.SAMPLED_SCORES]) == [[0.0, 0.0, 1.0]]
    assert infos[0][fields.SAMPLED_SCORES] == infos[1][fields.SAMPLED_SCORES]
    assert sorted(text for _, text, _ in server.asked) == sorted(text for _, text, _ in apart.asked)
    assert [parameters for _, _, parameters in server.asked] == [parameters for _, _, parameters in apart.asked]
    (call,) = server.calls
    ids, prefixes = call[0], call[1]
    assert ids.dtype.itemsize == 4
    assert len(ids) == prefixes[-1][0]
    assert len(prefixes) == 3
    assert max(len(suffix) for _, suffix in prefixes) < 50  # the suffix alone
    assert len(set(server.inside)) == 6  # vLLM takes each request under a name of its own
    assert server.most == 2  # as many as the engine runs
    assert server.held == apart.held == 0


def test_what_a_weight_update_broke_off_is_finished(manager):
    server = VllmServer(lambda text, n: "}" if text.endswith("{7") else "7}", breaks=2)
    info = scored(worker(manager, server), STEPS)
    assert fields.decode_scores(info[fields.SAMPLED_SCORES]) == [[1.0, 1.0, 1.0]]
    rest = [(text, parameters) for _, text, parameters in server.asked if text.endswith("{7")]
    assert len(rest) == 2
    assert all(parameters["max_tokens"] == 31 for _, parameters in rest)


def test_seeds_reach_the_server_with_the_call(manager):
    server = VllmServer(lambda text, n: "7}")
    made = worker(manager, server)
    made.config.actor_rollout_ref.rollout.full_determinism = True
    scored(made, STEPS)
    assert sorted(parameters["seed"] for _, _, parameters in server.asked) == [0, 0, 0, 1, 1, 1]


def test_each_output_has_its_own_and_none_without_episodes(manager):
    info = scored(worker(manager, Server(lambda text, n: "7}")), STEPS, "")
    assert fields.decode_scores(info[fields.SAMPLED_SCORES]) == [[1.0, 1.0, 1.0], None]


def test_validation_samples_nothing(manager):
    server = Server(lambda text, n: "7}")
    assert fields.SAMPLED_SCORES not in scored(worker(manager, server), STEPS, training=False)
    assert server.asked == []


def test_a_server_that_fails_leaves_the_outcome_alone(manager, caplog):
    def fail(text, n):
        raise ValueError("leaves no room to generate")

    caplog.set_level("WARNING", logger="l2t_verl.plugin.agent_loop")  # verl's module of vLLM sets the root's to ERROR
    info = scored(worker(manager, Server(fail)), STEPS)
    assert info[fields.ACCURACY] == 1.0
    assert fields.decode_scores(info[fields.SAMPLED_SCORES]) == [None]
    assert "sampling forced answers failed: ValueError: leaves no room" in caplog.text


def test_under_full_determinism_each_sample_has_its_own_seed_and_request(manager):
    server = Server(lambda text, n: "7}")
    made = worker(manager, server)
    made.config.actor_rollout_ref.rollout.full_determinism = True
    scored(made, STEPS)
    assert len({request for request, _, _ in server.asked}) == 6
    assert sorted(parameters["seed"] for _, _, parameters in server.asked) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("closing", "answer", "kept"),
    [
        ("}", "7}, so 8}", "7}"),
        ("}", "\\frac{1}{2}} and", "\\frac{1}{2}}"),
        ("}", "{7", "{7"),
        ("\n", "18\nWait", "18\n"),
        ("<end>", "x}y<end>z", "x}y<end>"),
    ],
)
def test_an_answer_ends_where_it_is_closed(closing, answer, kept):
    template = gain.ForcingTemplate(closing=closing)
    assert template.cut("boxed{" + answer, 6) == "boxed{" + kept


def test_grades_are_matched_to_texts():
    async def sample(k, n):
        return "same"

    async def grade(texts):
        return [1.0] * 2

    with pytest.raises(ValueError, match="2 grades for 1 texts"):
        asyncio.run(gain.sampled_scores(sample, grade, 2, 3))

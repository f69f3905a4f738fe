"""Two steps of stock main_ppo with L2T on a tiny random model; nothing mocked. A resume is in test_clusters.py."""

import math

import pytest
import torch
from cluster import start
from tiny import read_jsonl, write_data, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2t_verl import compression, episodes, gain

pytestmark = pytest.mark.cluster

# A large learning rate: the weights have to move visibly, and the rollout has to follow them.
SETTINGS = [
    "actor_rollout_ref.actor.optim.lr=1e-3",
    "trainer.save_freq=2",
    "trainer.test_freq=2",
    "actor_rollout_ref.rollout.val_kwargs.n=1",
    "+algorithm.l2t.credit.token_budget=20",
    "+algorithm.l2t.credit.length_cost=0.5",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end_to_end")
    model = write_model(folder / "model")
    run = start(folder / "run", model, write_data(folder / "data"), 2, *SETTINGS)
    assert run.wait(600) == 0, run.tail()
    return model, run


def test_two_steps_train_and_report(trained):
    _, run = trained
    rows = [row["data"] for row in run.metrics()]
    assert len(rows) == 2
    first, second = rows
    assert "weight update checked" in run.log
    for row in rows:
        assert row["actor/grad_norm"] > 0
        assert row["training/rollout_probs_diff_max"] < 1e-3  # the rollout computes with the trained weights
        assert row["l2t/episodes/max"] >= row["l2t/episodes/mean"] >= row["l2t/episodes/min"] >= 0
        assert row["timing_s/l2t"] > 0
        assert row["l2t/packed"] == 1.0
        assert row["l2t/grpo_grad_norm"] == 0.0 or row["critic/score/max"] > row["critic/score/min"]
    # actor and reference are the same float32 model; their log-probs come from two kernels, whose rounding is all there is
    assert first["l2t/compression/max"] < 1e-9
    assert first["l2t/displacement"] == 0.0
    assert second["l2t/compression/mean"] > 0
    assert second["l2t/displacement"] > 0
    assert second["l2t/kl_floor"] > 0
    assert any(key.startswith("val-core/") for key in second)


def test_dumped_rewards_equal_those_recomputed_from_the_dump(trained):
    """The first step's rollouts came from the start model, so its scores can be computed here, without verl."""
    folder, run = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = read_jsonl(run.folder / "rollouts" / "1.jsonl")
    assert len(rows) == 8
    template = gain.ForcingTemplate(suffix="\n#### ", closing="<|im_end|>")
    compared = 0
    for row in rows:
        record = row["l2t"]
        response = record["response_ids"]
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["input"].split("user\n")[1].split("\nassistant")[0].removesuffix("\n")}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        ends = episodes.segment(response, tokenizer, method="fixed_tokens", tokens_per_episode=12, min_episode_tokens=8)
        ends = ends if len(ends) <= 6 else [*ends[:5], ends[-1]]
        assert [episode["end"] for episode in record["episodes"]] == ends
        if not ends:
            continue
        targets = gain.answer_targets(tokenizer, prompt, response, ends, row["gts"], template)
        suffixes, answers = [t.suffix_ids for t in targets], [t.answer_ids for t in targets]
        scores = gain.answer_scores(model, prompt, response, ends, suffixes, answers, kind="smoothed_logprob")
        dumped = [record["answer_score_start"], *(episode["answer_score"] for episode in record["episodes"])]
        torch.testing.assert_close(torch.tensor(dumped), scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            torch.tensor([episode["gain"] for episode in record["episodes"]]),
            gain.fitting_gains(scores),
            atol=1e-5,
            rtol=1e-3,
        )
        for episode in record["episodes"]:
            expected = compression.process_rewards(
                torch.tensor([episode["gain"]], dtype=torch.float64), torch.tensor([episode["penalty"]]), beta=1.2
            )
            assert math.isclose(episode["reward"], expected.item(), abs_tol=1e-6)
        compared += 1
    assert compared > 0

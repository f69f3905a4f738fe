"""The worker on real FSDP2 engines, one and two ranks, with and without LoRA, against the pure functions."""

import socket

import pytest
import torch
from tiny import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from worker_process import GAIN, LONG, NO_EPISODES, NO_ROOM, SHORT, rank_main

from l2t_verl import gain
from l2t_verl.config import GainConfig

LORA = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"]
CASES = {
    "one rank": (1, []),
    "two ranks": (2, []),
    "LoRA": (1, LORA),
    "LoRA, two ranks": (2, LORA),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("worker") / "model")


@pytest.fixture(scope="module", params=CASES)
def case(request, folder, tmp_path_factory):
    """(what each rank found, the model that they scored with)."""
    world, overrides = CASES[request.param]
    result = tmp_path_factory.mktemp("result")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, (world, port, folder, overrides, result), nprocs=world)
    ranks = [torch.load(result / f"{rank}.pt", weights_only=False) for rank in range(world)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if overrides == LORA:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        adapter = {name: p for name, p in ranks[0]["parameters"].items() if "lora_" in name}
        assert adapter
        missing = model.load_state_dict(adapter, strict=False)
        assert missing.unexpected_keys == []
    return ranks, model


def expected(model, folder, row) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, response, ends, truth = row
    template = gain.ForcingTemplate.from_config(GainConfig(**GAIN))
    found = []
    for answer in [truth] if isinstance(truth, str) else truth:
        targets = gain.answer_targets(tokenizer, prompt, response, ends, answer, template)
        suffixes, answers = [t.suffix_ids for t in targets], [t.answer_ids for t in targets]
        found.append(gain.answer_scores(model, prompt, response, ends, suffixes, answers))
    return gain.best_of_answers(torch.stack(found))


def test_scores_equal_the_pure_function_whatever_a_reference_pass_left_behind(case, folder):
    """With LoRA the adapter counts, though verl's batch says `no_lora_adapter`; the temperature is 1, though it says 0.5."""
    ranks, model = case
    scores = [row for rank in ranks for row in rank["scores"]]
    for row, found in zip((LONG, SHORT), scores, strict=False):
        torch.testing.assert_close(torch.tensor(found), expected(model, folder, row), atol=1e-6, rtol=1e-4)
    assert len(scores) == 4
    assert len(scores[2]) == len(NO_EPISODES[2]) + 1
    assert len(scores[3]) == len(NO_ROOM[2]) + 1
    assert torch.tensor(scores[2] + scores[3]).isnan().all()  # nothing to score, or no room for it


def test_sharing_prefixes_gives_the_same_scores(case):
    ranks, _ = case
    for rank in ranks:
        for plain, shared in zip(rank["scores"], rank["packed"], strict=True):
            torch.testing.assert_close(torch.tensor(shared), torch.tensor(plain), atol=1e-6, rtol=1e-4, equal_nan=True)


def test_the_adapter_makes_a_difference(case, folder):
    """Without it the first test would pass whichever model was asked."""
    ranks, model = case
    if not hasattr(model, "disable_adapter"):
        pytest.skip("no adapter")
    with model.disable_adapter():
        base = expected(model, folder, LONG)
    assert (torch.tensor(ranks[0]["scores"][0]) - base).abs().max() > 1e-4


def test_perturbed_weights_are_seen_and_restored_bit_for_bit(case):
    ranks, _ = case
    assert all(rank["restored"] for rank in ranks)
    assert (torch.tensor(ranks[0]["perturbed"][0]) - torch.tensor(ranks[0]["scores"][0])).abs().max() > 1e-5


def test_log_probs_of_whole_sequences(case):
    ranks, model = case
    for sequence, found in zip([[5, 6, 7, 8], [9, 10]], ranks[0]["log_probs"], strict=True):
        ids = torch.tensor([sequence])
        with torch.no_grad():
            logits = model(ids).logits[:, :-1]
        wanted = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0]
        torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-5, rtol=1e-4)

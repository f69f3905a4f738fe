"""The worker on real FSDP2 engines, one and two ranks, with and without LoRA, against the pure functions."""

import math

import pytest
import torch
from ranks import run_ranks
from tiny import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from worker_process import GAIN, LONG, MASKED, NO_EPISODES, NO_ROOM, SEED, SHORT, rank_main

from l2t_verl import gain
from l2t_verl.config import GainConfig

LORA = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"]
FSDP = "actor_rollout_ref.actor.fsdp_config"
CASES = {  # world size, overrides, whether embeddings and output head share their weights
    "one rank": (1, [], True),
    "two ranks": (2, [], True),
    "fused kernels, whose forward returns no logits": (1, ["actor_rollout_ref.model.use_fused_kernels=True"], True),
    "checkpointing, a head that is sharded by itself, two ranks": (
        2,
        ["actor_rollout_ref.model.enable_gradient_checkpointing=True"],
        False,
    ),
    "weights that stay gathered, checkpointing": (
        1,
        [f"{FSDP}.reshard_after_forward=False", "actor_rollout_ref.model.enable_gradient_checkpointing=True"],
        False,
    ),
    "LoRA": (1, LORA, True),
    "LoRA, two ranks": (2, LORA, True),
}


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("worker") / "model", tie_word_embeddings=CASES[name][2])


@pytest.fixture(scope="module")
def case(name, folder, tmp_path_factory):
    """(what each rank found, the model that they scored with)."""
    world, overrides, _ = CASES[name]
    result = tmp_path_factory.mktemp("result")
    run_ranks(rank_main, world, folder, overrides, result)
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
        found.append(gain.answer_scores(model, prompt, response, ends, suffixes, answers, kind=GAIN["kind"]))
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
    if hasattr(model, "disable_adapter"):  # and the adapter makes a difference
        with model.disable_adapter():
            base = expected(model, folder, LONG)
        gap = (torch.tensor(scores[0]) - base).abs().max().item()
        print(f"seed {SEED}: scores differ by {gap:.1e}")
        assert gap > 3e-5  # twenty times the tolerance above


def test_sharing_prefixes_gives_the_same_scores(case):
    ranks, _ = case
    for rank in ranks:
        for plain, shared in zip(rank["scores"], rank["packed"], strict=True):
            torch.testing.assert_close(torch.tensor(shared), torch.tensor(plain), atol=1e-6, rtol=1e-4, equal_nan=True)


def test_one_forward_gives_verl_s_log_probs_and_the_scores(case):
    """At verl's temperature for the response's own tokens, at 1 for the answers."""
    ranks, _ = case
    for rank in ranks:
        assert rank["why_not_packed"] is None
        for field in ("log_probs", "entropy"):
            for fused, plain in zip(rank[f"fused_{field}"], rank[f"plain_{field}"], strict=True):
                torch.testing.assert_close(fused, plain, atol=2e-6, rtol=1e-5)
        for fused, plain in zip(rank["fused_scores"], rank["scores"], strict=True):
            torch.testing.assert_close(torch.tensor(fused), torch.tensor(plain), atol=1e-6, rtol=1e-4, equal_nan=True)
        gaps = [gap for gap in rank["fused_gaps"] if not math.isnan(gap)]
        assert len(gaps) == min(1, sum(not math.isnan(row[0]) for row in rank["scores"]))  # of one row that is scored
        assert all(gap < 1e-6 for gap in gaps)


def first_order_changes(model, parameters: dict, displacement: dict, rows: list) -> list[torch.Tensor]:
    """d_k by one gradient an episode, from the plain model: nothing of the worker's in it."""
    from l2t_verl.compression import exact_derivatives

    known = dict(model.named_parameters())
    for name in known:
        known[name].requires_grad_(name in displacement)
    model.load_state_dict(parameters, strict=False)
    found = []
    for prompt, response, ends, _ in rows:
        ids, first = torch.tensor([prompt + response]), len(prompt)

        def log_prob(k, ids=ids, first=first, bounds=(0, *ends)):
            log_p = (model(ids).logits[0, first - 1 : -1] / 0.7).log_softmax(-1).gather(1, ids[0, first:, None])[:, 0]
            chosen = torch.zeros(len(log_p))
            chosen[bounds[k] : bounds[k + 1]] = 1
            chosen[MASKED] = 0
            return (log_p * chosen).sum()

        found.append(exact_derivatives(log_prob, known, displacement, len(ends)))
    return found


def test_derivatives_along_the_displacement_are_those_of_single_gradients(case):
    """`directional` at full rank by two passes, under sharding and with LoRA, against the plain model's own gradients."""
    ranks, model = case
    rows = [LONG, SHORT, NO_EPISODES, NO_ROOM]
    begun, now = ranks[0]["parameters"], ranks[0]["parameters_displaced"]
    lora = any("lora_B" in name for name in now)
    displacement = {n: p for n, p in now.items() if "lora_B" in n} if lora else {n: now[n] - begun[n] for n in now}
    expected = first_order_changes(model, now, displacement, rows)
    model.load_state_dict(begun, strict=False)
    for name in ("directional", "exact") if len(ranks) == 1 else ("directional",):
        found = [torch.tensor(row) for rank in ranks for row in rank[name]]
        assert [len(row) for row in found] == [len(ends) + 1 for _, _, ends, _ in rows]
        assert all(row[0] == 0 for row in found)
        gap = torch.cat([row[1:] for row in found]).double() - torch.cat(expected)
        relative = (gap.norm() / torch.cat(expected).norm()).item()
        print(f"{name}: relative 2-norm of the difference {relative:.1e}")
        assert relative < 3e-3  # what a finite shift leaves of the third order; most with LoRA's large displacement


def test_without_a_displacement_there_is_no_penalty_and_the_weights_come_back_bit_for_bit(case):
    ranks, model = case
    for rank in ranks:
        assert rank["shift_undone"]
        if not hasattr(model, "disable_adapter"):  # an adapter's displacement is from the base model
            assert all(value == 0 for row in rank["undisplaced"] for value in row)


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

"""Prefix sharing against plain sequences: the same log-probs, in two forwards, with nothing left behind in the model."""

import pytest
import torch
from tiny import llama, qwen2
from transformers import MistralConfig, MistralForCausalLM

from l2t_verl import gain
from l2t_verl.gain import packed
from l2t_verl.gain.expanded import expanded_log_probs

SIZE = 64
MODELS = {"qwen2": qwen2(SIZE).eval(), "llama": llama(SIZE).eval()}


def draw(generator: torch.Generator, low: int, high: int) -> list[int]:
    length = int(torch.randint(low, high + 1, (), generator=generator))
    return torch.randint(0, SIZE, (length,), generator=generator).tolist()


def random_row(seed: int):
    """Prompt, response, b_0 … b_K, suffixes (some empty), answers (some of one token)."""
    g = torch.Generator().manual_seed(seed)
    prompt, response = draw(g, 1, 8), draw(g, 1, 40)
    ends = [0, *sorted({int(e) for e in torch.randint(1, len(response) + 1, (5,), generator=g)})]
    return prompt, response, ends, [draw(g, 0, 4) for _ in ends], [draw(g, 1, 5) for _ in ends]


def shared(row) -> packed.SharedPrefix:
    prompt, response, ends, suffixes, answers = row
    branches = [packed.Branch(len(prompt) + e, s, a) for e, s, a in zip(ends, suffixes, answers, strict=True)]
    return packed.SharedPrefix(prompt + response[: ends[-1]], branches)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [1, 60, 16384])
def test_log_probs_equal_those_of_plain_sequences(name, seed, budget):
    print(f"seed {seed}")
    row = random_row(seed)
    found = packed.packed_log_probs(MODELS[name], *row, budget)
    expected = expanded_log_probs(MODELS[name], *row, 16384)
    assert [len(values) for values in found] == [len(answer) for answer in row[4]]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_several_responses_at_once(name):
    """Rows of different lengths and numbers of branches do not see each other, nor their padding."""
    rows = [random_row(seed) for seed in range(20, 26)]
    found = packed.shared_prefix_log_probs(MODELS[name], [shared(row) for row in rows])
    for row, values in zip(rows, found, strict=True):
        expected = expanded_log_probs(MODELS[name], *row, 16384)
        torch.testing.assert_close(torch.cat(values), torch.cat(expected), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", gain.KINDS)
def test_the_public_function_takes_it_by_name(kind):
    arguments = (MODELS["qwen2"], [1, 2], [3, 4, 5], [1, 3], [7], [8, 9])
    one, other = (gain.answer_scores(*arguments, kind=kind, backend=name) for name in ("packed", "expanded"))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_two_forwards_and_the_attention_as_it_was():
    model = qwen2(SIZE).eval()
    model.config._attn_implementation = "eager"
    calls = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((kwargs["input_ids"].shape, module.config._attn_implementation)),
        with_kwargs=True,
    )
    row = shared(random_row(3))
    packed.shared_prefix_log_probs(model, [row])
    assert model.config._attn_implementation == "eager"
    assert calls == [
        ((1, len(row.context)), "sdpa"),
        ((1, sum(branch.size for branch in row.branches)), "sdpa"),
    ]
    model.forward = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        packed.shared_prefix_log_probs(model, [row])
    assert model.config._attn_implementation == "eager"


def test_rows_are_split_and_batched_within_the_budget():
    row = packed.SharedPrefix(list(range(10)), [packed.Branch(k + 1, [0] * 3, [0, 0]) for k in range(7)])
    parts = row.split(21)  # 10 of context and two branches of 5
    assert [len(part.branches) for part in parts] == [2, 2, 2, 1]
    assert [branch for part in parts for branch in part.branches] == row.branches
    assert [len(part.branches) for part in row.split(1)] == [1] * 7  # at least one at a time
    rows = [shared(random_row(seed)) for seed in range(30)]
    batches = packed.micro_batches(rows, 200)
    assert sorted(i for batch in batches for i in batch) == list(range(30))
    for batch in batches:
        context = max(len(rows[i].context) for i in batch)
        branches = max(rows[i].size - len(rows[i].context) for i in batch)
        assert len(batch) == 1 or len(batch) * (context + branches) <= 200


def test_models_whose_prefixes_cannot_be_shared_say_why():
    sizes = {"vocab_size": SIZE, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    windowed = MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, sliding_window=8))
    assert "window of 8 tokens" in packed.why_not_packed(windowed)
    with pytest.raises(NotImplementedError, match="take 'expanded'"):
        gain.answer_scores(windowed, [1], [2], [1], [3], [4], backend="packed")
    mixed = qwen2(SIZE, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert "sliding_attention" in packed.why_not_packed(mixed)
    assert packed.why_not_packed(MODELS["qwen2"]) is None  # Qwen2 names a window that it does not use

"""Packed rows against plain sequences: the same log-probs, in one forward, with nothing left behind in the model."""

import pytest
import torch
from tiny import llama, qwen2
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from l2t_verl import gain, packing
from l2t_verl.gain.expanded import expanded_log_probs
from l2t_verl.gain.packed import packed_log_probs
from l2t_verl.packing import Branch, PackedRow, attention, head, packed_forward

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


def packed_row(row, own_tokens: bool = False) -> PackedRow:
    prompt, response, ends, suffixes, answers = row
    branches = [Branch(len(prompt) + e, s, a) for e, s, a in zip(ends, suffixes, answers, strict=True)]
    return PackedRow(prompt + response, branches, first=len(prompt) if own_tokens else None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [1, 60, 16384])
def test_log_probs_equal_those_of_plain_sequences(name, seed, budget):
    print(f"seed {seed}")
    row = random_row(seed)
    found = packed_log_probs(MODELS[name], *row, budget)
    expected = expanded_log_probs(MODELS[name], *row, 16384)
    assert [len(values) for values in found] == [len(answer) for answer in row[4]]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=2e-6, rtol=1e-5)


@pytest.fixture
def small_pieces(monkeypatch):
    """Groups of branches and pieces of the vocabulary's work so small that several are needed."""
    monkeypatch.setattr(attention, "SHORT", 3)
    monkeypatch.setattr(head, "TOKENS_AT_ONCE", 5)


def own_log_probs(model, context: list[int], first: int, temperature: float):
    """Log-probs and entropies of a context's tokens by the model's own logits."""
    ids = torch.tensor([context])
    with torch.no_grad():
        log_p = (model(ids).logits[0, :-1].float() / temperature).log_softmax(-1)[first - 1 :]
    return log_p.gather(1, ids[0, first:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("name", MODELS)
def test_several_responses_and_their_own_log_probs_in_one_forward(name, small_pieces):
    """Rows of different lengths and numbers of branches do not see each other; branches may come in any order."""
    model, rows = MODELS[name], [random_row(seed) for seed in range(20, 26)]
    rows = [(p, r, ends[::-1], suffixes[::-1], answers[::-1]) if i % 2 else (p, r, ends, suffixes, answers)
            for i, (p, r, ends, suffixes, answers) in enumerate(rows)]  # fmt: skip
    with torch.no_grad():
        found = packed_forward(model, [packed_row(row, own_tokens=True) for row in rows], temperature=0.7, entropy=True)
    for i, row in enumerate(rows):
        expected = expanded_log_probs(model, *row, 16384)
        torch.testing.assert_close(torch.cat(found.answers[i]), torch.cat(expected), atol=2e-6, rtol=1e-5)
        tokens, entropies = own_log_probs(model, row[0] + row[1], len(row[0]), 0.7)
        torch.testing.assert_close(found.tokens[i], tokens, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(found.entropies[i], entropies, atol=4e-6, rtol=1e-5)


def test_groups_of_branches_leave_out_what_nobody_in_them_sees(small_pieces):
    """16 branches over 1,600 tokens: less than two thirds of the mask of all of them at once, and no group sees too much."""
    visible, sizes = [100 * (k + 1) for k in range(16)], [4] * 16
    groups = list(attention.branch_groups(0, 1600, visible, sizes, torch.device("cpu")))
    assert [group.tokens.start for group in groups[1:]] == [group.tokens.stop for group in groups[:-1]]
    assert groups[-1].tokens.stop == 1600 + 64
    assert len(groups) <= attention.GROUPS + 1
    assert sum(group.mask.numel() for group in groups) < 64 * (1600 + 64) * 2 / 3
    for group in groups:
        assert group.context.stop in visible
        assert group.mask.shape == (group.tokens.stop - group.tokens.start, group.context.stop + group.mask.shape[0])


def test_bfloat16_is_as_exact_as_plain_sequences():
    """Worst error of the mean log p of an answer, over seeds 0 … 7, each against its own error-free value."""
    worst = {"plain": 0.0, "packed": 0.0}
    for seed in range(8):
        model, row = qwen2(SIZE, seed).eval(), random_row(seed)
        means = lambda found: torch.stack([values.mean() for values in found])  # noqa: E731
        exact = means(expanded_log_probs(model, *row, 16384))
        half = model.bfloat16()
        for name, backend in (("plain", expanded_log_probs), ("packed", packed_log_probs)):
            error = (means(backend(half, *row, 16384)) - exact).abs().max().item()
            worst[name] = max(worst[name], error)
    print(worst)
    assert 0 < worst["packed"] <= 1.5 * worst["plain"]


@pytest.mark.parametrize("kind", gain.KINDS)
def test_the_public_function_takes_it_by_name(kind):
    arguments = (MODELS["qwen2"], [1, 2], [3, 4, 5], [1, 3], [7], [8, 9])
    one, other = (gain.answer_scores(*arguments, kind=kind, backend=name) for name in ("packed", "expanded"))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_without_a_name_it_is_taken_where_the_model_allows(monkeypatch):
    arguments = ([1, 2], [3, 4, 5], [1, 3], [7], [8, 9])
    called = []
    monkeypatch.setitem(gain.BACKENDS, "packed", lambda *a: called.append("packed") or packed_log_probs(*a))
    monkeypatch.setitem(gain.BACKENDS, "expanded", lambda *a: called.append("expanded") or expanded_log_probs(*a))
    gain.answer_scores(MODELS["qwen2"], *arguments)
    gain.answer_scores(qwen2(SIZE, use_sliding_window=True, sliding_window=8, max_window_layers=1), *arguments)
    assert called == ["packed", "expanded"]


def test_one_forward_and_the_model_as_it_was():
    model = qwen2(SIZE).eval()
    model.config._attn_implementation = "eager"
    calls = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((kwargs["input_ids"].shape, module.config._attn_implementation)),
        with_kwargs=True,
    )
    row = packed_row(random_row(3))
    with torch.no_grad():
        packed_forward(model, [row])
    assert calls == [((1, row.size), "l2t_packed")]
    assert model.config._attn_implementation == "eager"
    assert "forward" not in vars(model)
    model.model.forward = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        packed_forward(model, [row])
    assert model.config._attn_implementation == "eager"
    assert "forward" not in vars(model)


def test_a_forward_that_was_replaced_is_left_out_and_put_back():
    """Fused kernels return no logits; what they made of the forward comes back afterwards."""
    model, row = qwen2(SIZE).eval(), random_row(4)
    expected = expanded_log_probs(model, *row, 16384)
    model.forward = replaced = lambda **_: 1 / 0
    found = packed_log_probs(model, *row, 16384)
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=2e-6, rtol=1e-5)
    assert model.forward is replaced


def test_gradients_flow_where_they_are_recorded():
    model, row = qwen2(SIZE).eval(), packed_row(random_row(5), own_tokens=True)
    packed_forward(model, [row]).tokens[0].sum().backward()
    found = model.lm_head.weight.grad.clone()
    model.zero_grad()
    ids = torch.tensor([row.context])
    model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[row.first - 1 :].sum().backward()
    torch.testing.assert_close(found, model.lm_head.weight.grad, atol=1e-5, rtol=1e-4)


def test_rows_are_split_and_batched_within_the_budget():
    row = PackedRow(list(range(10)), [Branch(k + 1, [0] * 3, [0, 0]) for k in range(7)], first=4)
    parts = row.split(21)  # 10 of context and two branches of 5
    assert [len(part.branches) for part in parts] == [2, 2, 2, 1]
    assert [part.first for part in parts] == [4, None, None, None]  # its own tokens once
    assert [branch for part in parts for branch in part.branches] == row.branches
    assert [len(part.branches) for part in row.split(1)] == [1] * 7  # at least one at a time
    assert row.split(100) == [row]
    rows = [packed_row(random_row(seed)) for seed in range(30)]
    batches = packing.micro_batches(rows, 200)
    assert sorted(i for batch in batches for i in batch) == list(range(30))
    assert [len(batch) == 1 or sum(rows[i].size for i in batch) <= 200 for batch in batches] == [True] * len(batches)
    assert [rows[batch[0]].size for batch in batches] == sorted((rows[b[0]].size for b in batches), reverse=True)


def test_models_whose_rows_cannot_be_packed_say_why():
    sizes = {"vocab_size": SIZE, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    windowed = MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, sliding_window=8))
    assert "window of 8 tokens" in packing.why_not_packed(windowed)
    with pytest.raises(NotImplementedError, match="take 'expanded'"):
        gain.answer_scores(windowed, [1], [2], [1], [3], [4], backend="packed")
    mixed = qwen2(SIZE, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert "sliding_attention" in packing.why_not_packed(mixed)
    scaled = CohereForCausalLM(CohereConfig(**sizes, num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2))
    assert "logit_scale" in packing.why_not_packed(scaled)
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=SIZE, hidden_size=16, num_hidden_layers=1))
    assert "layers of kind mamba" in packing.why_not_packed(recurrent)
    assert packing.why_not_packed(MODELS["qwen2"]) is None  # Qwen2 names a window that it does not use


def test_attention_of_the_model_s_own_is_found_out():
    model = qwen2(SIZE).eval()
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(NotImplementedError, match="1 attentions that can be exchanged in 2 layers"):
        packed_forward(model, [packed_row(random_row(0))])


@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_answers_are_float32_where_the_model_is_not(monkeypatch, bias):
    """As if the head's weights were copied; the part that is copied at a time is none of the result's."""
    torch.manual_seed(0)
    module, hidden = torch.nn.Linear(16, 50, bias=bias).bfloat16(), torch.randn(7, 16).bfloat16()
    copy = torch.nn.Linear(16, 50, bias=bias)
    copy.load_state_dict(module.state_dict())
    monkeypatch.setattr(head, "WORDS_AT_ONCE", 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.in_float32(module, module)(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, copy(hidden.float()), atol=1e-6, rtol=1e-6)
    assert (module(hidden).float() - found).abs().max() > 1e-3


def test_a_float32_head_is_called_as_it_is():
    calls = []
    module, hidden = torch.nn.Linear(4, 5), torch.randn(3, 4)
    own = lambda states: calls.append(states) or module(states)  # noqa: E731
    assert torch.equal(head.in_float32(own, module)(hidden), module(hidden))
    adapted = torch.nn.Sequential(torch.nn.Linear(4, 5).bfloat16())
    assert torch.equal(head.in_float32(adapted, adapted)(hidden.bfloat16()), adapted(hidden.bfloat16()))
    assert len(calls) == 1


def test_the_answers_of_a_bfloat16_model_have_precise_logits_and_its_tokens_the_models_own():
    model, row = qwen2(SIZE).eval().bfloat16(), packed_row(random_row(3), own_tokens=True)
    with torch.no_grad():
        found = packed_forward(model, [row])
        states = []
        hook = model.get_decoder().register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state))
        packed_forward(model, [row])
        hook.remove()
    last = row.branches[-1]  # of the longest prefix, so at the end of the sequence
    assert last.visible == max(branch.visible for branch in row.branches)
    logits = states[0][0, -len(last.answer) :].float() @ model.lm_head.weight.float().T
    expected = logits.log_softmax(-1).gather(1, torch.tensor(last.answer)[:, None])[:, 0]
    torch.testing.assert_close(found.answers[0][-1], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.tokens[0], own_log_probs(model, row.context, row.first, 1.0)[0], atol=0.05, rtol=0.05)

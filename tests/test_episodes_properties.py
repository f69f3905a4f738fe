"""Properties of all segmenters: any tokenizer, any text, any byte soup."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer, metaspace_tokenizer, r1_like_tokenizer

from l2t_verl import episodes

TOKENIZERS = {"bytes": byte_tokenizer(), "r1": r1_like_tokenizer(), "metaspace": metaspace_tokenizer()}
PIECES = [
    "<think>", "</think>", "<episode_1>", "</episode_1>", "<episode_2>", "</episode_2>", "<episode_", "</", ">", "\n\n",
    ".\n\n", " Wait", ". ", "\n", " ", "a", "7", "\\boxed{", "#### ", "answer is", "é", "你", "🙂", "İ", "\u2028", "\ufffd",
]  # fmt: skip
SOUP = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join)
LIMITS = st.fixed_dictionaries({"max_episodes": st.integers(1, 8), "min_episode_tokens": st.integers(1, 8)})


def check(ids, tokenizer, method, limits, thinking=None):
    log_probs = -torch.rand(len(ids), generator=torch.Generator().manual_seed(len(ids))) * 8
    ends = episodes.segment(
        ids, tokenizer, method=method, thinking=thinking, log_probs=log_probs, tokens_per_episode=5, **limits
    )
    body = episodes.body_end(ids, tokenizer, thinking=thinking)
    assert all(type(end) is int for end in ends)
    assert [0, *ends] == sorted({0, *ends}), "ends must increase strictly, from above 0"
    # cover: the episodes together are exactly the body, so that every token is in one episode or in the tail
    assert ends == [] or ends[-1] == body
    assert bool(ends) == (body > 0)
    assert len(ends) <= limits["max_episodes"]
    if len(ends) > 1:
        assert min(b - a for a, b in zip([0, *ends], ends, strict=False)) >= limits["min_episode_tokens"]
    assert ends == episodes.segment(
        torch.tensor(ids, dtype=torch.int64), tokenizer, method=method, thinking=thinking, log_probs=log_probs,
        tokens_per_episode=5, **limits
    )  # fmt: skip


@pytest.mark.parametrize("method", episodes.METHODS)
@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=SOUP, limits=LIMITS, thinking=st.sampled_from([None, True]))
def test_any_text(name, method, text, limits, thinking):
    tokenizer = TOKENIZERS[name]
    check(tokenizer.encode(text, add_special_tokens=False), tokenizer, method, limits, thinking)


@pytest.mark.parametrize("method", episodes.METHODS)
@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data(), limits=LIMITS)
def test_any_ids(name, method, data, limits):
    """Ids that no text encodes to: half characters, special tokens, bytes that are no UTF-8."""
    tokenizer = TOKENIZERS[name]
    check(data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60)), tokenizer, method, limits)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_offsets_hold_the_decoded_text(name, data):
    from l2t_verl.episodes.offsets import token_text

    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    found = token_text(ids, tokenizer)
    assert found.text == tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert len(found.ends) == len(ids)
    assert found.ends == sorted(found.ends)
    assert not ids or found.ends[-1] == len(found.text)


@given(
    ends=st.lists(st.integers(1, 40), unique=True).map(sorted),
    mask=st.lists(st.sampled_from([0, 1]), min_size=40, max_size=40),
)
def test_masked_episodes_are_dropped_and_the_rest_keeps_its_tokens(ends, mask):
    kept = episodes.drop_masked(ends, mask)
    assert set(kept) <= set(ends)
    starts = [0, *kept]
    assert all(sum(mask[a:b]) > 0 for a, b in zip(starts, kept, strict=False))
    if ends:
        assert sum(mask[: ends[-1]]) == sum(mask[: kept[-1]] if kept else [])

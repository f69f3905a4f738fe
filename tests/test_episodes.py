"""Each segmenter on hand-written responses: every malformed kind has one defined result."""

import pytest
import torch
from tiny import byte_tokenizer, metaspace_tokenizer, r1_like_tokenizer

from l2t_verl import episodes

BYTES, R1 = byte_tokenizer(), r1_like_tokenizer()


def cut(text: str, method: str, tokenizer=BYTES, **options) -> list[str]:
    """The texts of the episodes and, last, of the tail."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    ends = episodes.segment(ids, tokenizer, method=method, **options)
    return [tokenizer.decode(ids[a:b]) for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]


def test_episode_tags_as_the_paper_asks_for_them():
    text = "<think><episode_1>add</episode_1>\n<episode_2>check</episode_2>\n</think>\n\\boxed{4}"
    assert cut(text, "episode_tags") == [
        "<think><episode_1>add</episode_1>",
        "\n<episode_2>check</episode_2>\n",  # white space before the end of the thought joins the last episode
        "</think>\n\\boxed{4}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # truncated inside an episode: the open episode ends with the response, and there is no tail
        ("<think><episode_1>a</episode_1><episode_2>b", ["<think><episode_1>a</episode_1>", "<episode_2>b", ""]),
        # a closing tag is missing: the episode ends where the next opens
        ("<episode_1>a<episode_2>b</episode_2></think>t", ["<episode_1>a", "<episode_2>b</episode_2>", "</think>t"]),
        # an opening tag is missing: the closing one is text of the following episode
        ("a</episode_1><episode_2>b</episode_2></think>t", ["a</episode_1><episode_2>b</episode_2>", "</think>t"]),
        # nested: the inner episode cuts the outer, whose own closing tag is text
        (
            "<episode_1>a<episode_2>b</episode_2>c</episode_1>d</think>t",
            ["<episode_1>a", "<episode_2>b</episode_2>", "c</episode_1>d", "</think>t"],
        ),
        # repeated and out of order: the order of the text counts
        (
            "<episode_2>a</episode_2><episode_2>b</episode_2><episode_1>c</episode_1></think>",
            ["<episode_2>a</episode_2>", "<episode_2>b</episode_2>", "<episode_1>c</episode_1>", "</think>"],
        ),
        # text before, between and after: each joins the following episode, the last stands alone before the tail
        (
            "x<episode_1>a</episode_1>y<episode_2>b</episode_2>z</think>t",
            ["x<episode_1>a</episode_1>", "y<episode_2>b</episode_2>", "z", "</think>t"],
        ),
        # tags in the final answer are not episodes
        ("<think><episode_1>a</episode_1></think><episode_2>b</episode_2>",
         ["<think><episode_1>a</episode_1>", "</think><episode_2>b</episode_2>"]),
        # an empty episode still has its tags as text
        ("<episode_1></episode_1><episode_2>b</episode_2></think>",
         ["<episode_1></episode_1>", "<episode_2>b</episode_2>", "</think>"]),
    ],
)  # fmt: skip
def test_malformed_tags_have_a_defined_result(text, expected):
    assert cut(text, "episode_tags") == expected


def test_tags_that_do_not_parse_use_the_fallback():
    text = "one\n\ntwo\n</think>\n7"
    assert cut(text, "episode_tags") == ["one\n\n", "two\n", "</think>\n7"]
    assert cut(text, "episode_tags", fallback="fixed_tokens", tokens_per_episode=6) == ["one\n\nt", "wo\n", "</think>\n7"]
    assert cut(text, "episode_tags", fallback=None) == [text]  # without episodes: all tail


def test_empty_and_blank_responses():
    for method in episodes.METHODS:
        assert episodes.segment([], BYTES, method=method, log_probs=[]) == []
    assert cut("</think>7", "paragraphs") == ["</think>7"]  # no thinking at all
    assert cut("\\boxed{7}", "paragraphs") == ["\\boxed{7}"]  # the answer at once


def test_think_blocks():
    assert cut("<think>a</think>b<think>c</think>d", "think_blocks") == ["<think>a", "</think>b<think>c", "</think>d"]
    assert cut("<think>a</think>b<think>c", "think_blocks") == ["<think>a", "</think>b<think>c", ""]  # truncated
    assert cut("a</think>d", "think_blocks") == ["a", "</think>d"]  # opened by the prompt
    assert cut("<think>a</think>b</think>c", "think_blocks") == ["<think>a", "</think>b</think>c"]  # the second is text
    assert cut("a\n\nb. #### 3", "think_blocks") == ["a\n\n", "b. ", "#### 3"]  # no marks: the fallback


def test_paragraphs_and_the_answer_marker_of_models_that_do_not_think():
    assert cut("a\n\n\nb\n \nc\n#### 7", "paragraphs") == ["a\n\n\n", "b\n \n", "c\n", "#### 7"]
    assert cut("\n\na\n\n", "paragraphs") == ["\n\na\n\n", ""]  # white space is no episode of its own
    assert cut("x\n\nThe answer is 3. No!\n\nThe ANSWER is 4", "paragraphs")[-1] == "ANSWER is 4"  # the last one
    assert cut("x is 4.\n\nResult: 4", "paragraphs", answer_markers=["Result:"])[-1] == "Result: 4"
    # whoever thinks has no tail before the thought is closed, whatever the thought quotes
    assert cut("so \\boxed{4}?\n\nWait", "paragraphs", thinking=True) == ["so \\boxed{4}?\n\n", "Wait", ""]


def test_discourse_markers():
    text = "Add. Wait, no. Waiting is fine. But\nhence\nSo 4 </think> Wait"
    assert cut(text, "discourse_markers") == [
        "Add.", " Wait, no. Waiting is fine.", " But\nhence", "\nSo 4 ", "</think> Wait"
    ]  # fmt: skip
    assert cut("a. Also b </think>", "discourse_markers", markers=["Also"]) == ["a.", " Also b ", "</think>"]
    with pytest.raises(ValueError, match="markers"):
        cut("a", "discourse_markers", markers=[])


def test_fixed_tokens():
    assert cut("abcdefg</think>", "fixed_tokens", tokens_per_episode=3) == ["abc", "def", "g", "</think>"]
    with pytest.raises(ValueError, match="tokens_per_episode"):
        cut("abc", "fixed_tokens", tokens_per_episode=0)


def test_surprise():
    log_probs = [-0.1, -5.0, -0.1, -0.1, -4.0, -9.0] + [-8.0] * 9
    assert cut("abcdef</think>t", "surprise", log_probs=torch.tensor(log_probs)) == ["a", "bcd", "e", "f", "</think>t"]
    assert cut("abcdef</think>t", "surprise", log_probs=log_probs, surprise_threshold=4.5) == [
        "a", "bcde", "f", "</think>t"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="needs log_probs for each of the 3 tokens"):
        cut("abc", "surprise")


def test_limits():
    text = "a\n\nbbbb\n\ncc\n\nd\n</think>"
    assert cut(text, "paragraphs", max_episodes=2) == ["a\n\n", "bbbb\n\ncc\n\nd\n", "</think>"]
    assert cut(text, "paragraphs", min_episode_tokens=4) == ["a\n\nbbbb\n\n", "cc\n\nd\n", "</think>"]
    assert cut(text, "paragraphs", max_episodes=1) == ["a\n\nbbbb\n\ncc\n\nd\n", "</think>"]
    for option in ({"max_episodes": 0}, {"min_episode_tokens": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            cut(text, "paragraphs", **option)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown segmenter 'sentences'\. Known: episode_tags, think_blocks"):
        cut("a", "sentences")
    with pytest.raises(ValueError, match="unknown fallback"):
        cut("a", "paragraphs", fallback="surprise")


def test_a_boundary_inside_a_token_moves_to_the_token_s_end():
    """R1's tokenizer writes a sentence's end and the blank line as one token."""
    ids = R1.encode("a.\n\nb</think>c", add_special_tokens=False)
    assert [R1.decode([token]) for token in ids] == ["a", ".\n\n", "b", "</think>", "c"]
    assert episodes.segment(ids, R1, method="paragraphs") == [2, 3]
    merged = byte_tokenizer(("x</",))  # the closing mark begins inside a token: the whole token is thinking
    ids = merged.encode("ax</think>t", add_special_tokens=False)
    assert [merged.decode(ids[a:b]) for a, b in ((0, 2), (2, len(ids)))] == ["ax</", "think>t"]
    assert episodes.segment(ids, merged, method="paragraphs") == [2]


def test_tags_split_over_tokens_and_characters_split_over_tokens():
    assert cut("<episode_1>é你</episode_1><episode_2>ü</episode_2></think>", "episode_tags") == [
        "<episode_1>é你</episode_1>", "<episode_2>ü</episode_2>", "</think>"
    ]  # fmt: skip


def test_positions_come_from_the_tokens_not_from_tokenising_again():
    """The model may write `. \\n \\n` as three tokens where the tokenizer would make one of them."""
    separate = [token for c in "a.\n\nb" for token in R1.encode(c, add_special_tokens=False)]
    assert len(separate) == 5
    assert episodes.segment(separate, R1, method="paragraphs") == [4, 5]


def test_a_tokenizer_that_drops_the_first_space():
    tokenizer = metaspace_tokenizer()
    ids = tokenizer.encode("abc def\n\nghi", add_special_tokens=False)
    ends = episodes.segment(ids, tokenizer, method="paragraphs")
    assert len(ends) == 2
    assert ends[-1] == len(ids)
    assert "g" not in tokenizer.decode(ids[: ends[0]])
    assert "f" in tokenizer.decode(ids[: ends[0]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think><episode_1>a</episode_1></think>t", True),
        ("<episode_1>a</episode_1><episode_2>b</episode_2></think>", True),  # opened by the prompt
        ("<think><episode_1>a</episode_1>", False),
        ("<think><episode_1>a<episode_2>b</episode_2></episode_1></think>", False),
        ("<think><episode_1>a</episode_1><episode_1>b</episode_1></think>", False),
        ("<think><episode_1>a</episode_1><episode_3>b</episode_3></think>", False),
        ("<think><episode_1>a</think></episode_1>", False),
        ("<think></think>", False),
        ("", False),
    ],
)
def test_format_ok(text, expected):
    assert episodes.format_ok(text) is expected


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("so 17 apples", "17", True),
        ("so 17 apples", "1", False),
        ("3.14", "3", False),
        ("it costs $1,234.", "1234", True),
        ("x = \\frac{1}{2}", "\\dfrac12", False),
        ("x = \\dfrac{1}{2}", "\\frac{1}{2}", True),
        ("( 1, 2 )", "(1,2)", True),
        ("-5", "5", True),
        ("five", "5", False),
        ("", "5", False),
        ("5", "", False),
    ],
)
def test_states_answer(text, answer, expected):
    assert episodes.states_answer(text, answer) is expected


def test_episode_ids_and_the_multi_turn_mask():
    assert episodes.episode_ids([[2, 3], [], [4]], 4).tolist() == [[0, 0, 1, -1], [-1] * 4, [0] * 4]
    with pytest.raises(ValueError, match="T=4, got 5"):
        episodes.episode_ids([[5]], 4)
    # a tool's output (mask 0) is no episode of its own: what it adds goes to the next one
    assert episodes.drop_masked([2, 4, 6], [1, 1, 0, 0, 1, 1]) == [2, 6]
    assert episodes.drop_masked([2, 4], [0, 0, 1, 1]) == [4]
    assert episodes.drop_masked([2, 4], [0, 0, 0, 0]) == []

"""Answer scores against a loop of plain model calls, and what is scored against what is meant."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer, llama, qwen2, r1_like_tokenizer
from transformers import PreTrainedTokenizer

from l2t_verl import gain
from l2t_verl.gain import ForcingTemplate

SIZE = 64
MODELS = {"qwen2": qwen2(SIZE).eval(), "llama": llama(SIZE).eval()}
BYTES, R1 = byte_tokenizer(), r1_like_tokenizer()


def smoothed(log_prob: float) -> float:
    return math.log((math.exp(log_prob) + 0.05) / 0.05) / math.log(1.05 / 0.05)


def written_out(model, prompt, response, ends, suffixes, answers, kind):
    """The definition, one token at a time, one plain call each."""
    scores = []
    for end, suffix, answer in zip([0, *ends], suffixes, answers, strict=True):
        context, found = [*prompt, *response[:end], *suffix], []
        for token in answer:
            with torch.no_grad():
                logits = model(torch.tensor([context])).logits[0, -1].double()
            found.append(torch.log_softmax(logits, dim=0)[token].item())
            context.append(token)
        mean = sum(found) / len(answer)
        of_kind = {
            "geometric": math.exp(mean),
            "probability": math.exp(sum(found)),
            "mean_probability": sum(map(math.exp, found)) / len(answer),
            "smoothed_logprob": sum(map(smoothed, found)) / len(answer),
            "mean_logprob": mean,
        }
        scores.append(of_kind[kind])
    return torch.tensor(scores)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", gain.KINDS)
@pytest.mark.parametrize("budget", [16, 40, 16384])
def test_scores_equal_the_loop(name, kind, budget):
    print("seed 3")
    random = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randint(0, SIZE, (n,), generator=random).tolist()  # noqa: E731
    prompt, response, ends = draw(5), draw(12), [2, 3, 7, 12]
    suffixes, answers = [draw(n) for n in (1, 0, 3, 2, 2)], [draw(n) for n in (3, 1, 2, 4, 1)]
    found = gain.answer_scores(
        MODELS[name], prompt, torch.tensor(response), ends, suffixes, answers, kind=kind, max_tokens_per_micro_batch=budget
    )
    expected = written_out(MODELS[name], prompt, response, ends, suffixes, answers, kind)
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-5)
    gains = gain.fitting_gains(found)
    assert gains.sum().item() == pytest.approx((found[-1] - found[0]).item(), abs=1e-6)


def test_one_suffix_and_one_answer_serve_all_prefixes():
    one = gain.answer_scores(MODELS["llama"], [1, 2], [3, 4, 5], [1, 3], torch.tensor([7]), (8, 9))
    each = gain.answer_scores(MODELS["llama"], [1, 2], [3, 4, 5], [1, 3], [[7]] * 3, [torch.tensor([8, 9])] * 3)
    assert torch.equal(one, each)
    assert gain.answer_scores(MODELS["llama"], [1, 2], [3, 4, 5], [], [7], [8]).shape == (1,)  # J_0 alone


def test_the_model_is_left_as_it_was():
    model = qwen2(SIZE).train()
    scores = gain.answer_scores(model, [1], [2, 3], [1, 2], [4], [5])
    assert model.training
    assert not scores.requires_grad
    assert scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backend": "magic"}, ValueError, "unknown backend 'magic'; known: expanded, packed"),
        ({"kind": "best"}, ValueError, "unknown kind of answer score 'best'"),
        ({"kind": "monte_carlo"}, NotImplementedError, "see sampled_scores"),
        ({"prompt_ids": []}, ValueError, "prompt_ids is empty"),
        ({"answer_ids": []}, ValueError, "answer_ids is empty"),
        ({"episode_ends": [2, 2]}, ValueError, "must increase strictly within 0 < b <= 3"),
        ({"episode_ends": [0, 2]}, ValueError, "increase"),
        ({"episode_ends": [4]}, ValueError, "increase"),
        ({"suffix_ids": [[1]]}, ValueError, r"K\+1=2 prefixes"),
    ],
)
def test_impossible_arguments_are_named(changes, error, message):
    arguments = {"prompt_ids": [1], "response_ids": [2, 3, 4], "episode_ends": [2], "suffix_ids": [5], "answer_ids": [6]}
    with pytest.raises(error, match=message):
        gain.answer_scores(MODELS["llama"], **(arguments | changes))


def test_several_accepted_answers_telescope_too():
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    best = gain.best_of_answers(scores)
    assert torch.equal(best, scores.max(dim=0).values)
    torch.testing.assert_close(gain.fitting_gains(best).sum(), best[-1] - best[0])
    with pytest.raises(ValueError, match="at least one answer"):
        gain.best_of_answers(scores[:0])


@given(st.lists(st.lists(st.floats(-1e4, 0), min_size=1, max_size=6), min_size=1, max_size=5))
def test_kinds_are_what_they_say(rows):
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row).double() for row in rows], True, padding_value=float("nan"))
    found = {kind: gain.reduce_log_probs(padded, lengths, kind=kind) for kind in gain.KINDS}
    for i, row in enumerate(rows):
        mean = sum(row) / len(row)
        assert found["mean_logprob"][i].item() == pytest.approx(mean, rel=1e-5, abs=1e-30)
        assert found["geometric"][i].item() == pytest.approx(torch.tensor(mean).double().exp().item(), rel=1e-4, abs=1e-30)
        assert 0 <= found["probability"][i] <= found["geometric"][i] * (1 + 1e-6) <= 1 + 1e-5
        shares = sum(map(math.exp, row)) / len(row)
        assert found["mean_probability"][i].item() == pytest.approx(shares, rel=1e-4, abs=1e-30)
        assert found["geometric"][i] <= found["mean_probability"][i] * (1 + 1e-5) + 1e-30
        assert found["smoothed_logprob"][i].item() == pytest.approx(sum(map(smoothed, row)) / len(row), rel=1e-4, abs=1e-6)
        assert found["mean_probability"][i] <= found["smoothed_logprob"][i] * (1 + 1e-5) <= 1 + 2e-5


def test_the_answer_is_tokenised_with_what_stands_around_it():
    r"""R1's tokenizer merges `}}`: the answer `\frac{1}{2}` closed by `}` ends in one token that holds both."""
    target = gain.answer_target(R1, "\\frac{1}{2}", suffix="\\boxed{", closing="}")
    assert R1.decode(target.suffix_ids) + R1.decode(target.answer_ids) == "\\boxed{\\frac{1}{2}}"
    assert R1.decode(target.answer_ids[-1:]) == "}}"
    # `{\` is merged as well: the seam before the answer lies in a token, which is scored because it overlaps the answer
    assert R1.decode(target.answer_ids[:1]) == "{\\"
    assert tuple(R1.encode("\\boxed{\\frac{1}{2}}", add_special_tokens=False)) == target.suffix_ids + target.answer_ids


def test_the_first_closing_token_is_scored():
    """Without it `1` would score as a prefix of `17`."""
    target = gain.answer_target(BYTES, "1", suffix="\n#### ", closing="<|im_end|>")
    assert BYTES.convert_ids_to_tokens(target.answer_ids) == ["1", "<|im_end|>"]
    target = gain.answer_target(BYTES, "17", suffix="{", closing="} done")
    assert BYTES.decode(target.answer_ids) == "17}"  # the first closing token, not the rest
    for arguments in ({"answer": " ", "closing": "}"}, {"answer": "1", "closing": ""}):
        with pytest.raises(ValueError, match="empty"):
            gain.answer_target(BYTES, suffix="{", **arguments)


def test_a_prefix_of_a_longer_answer_scores_less_than_the_answer():
    """A model that always continues `1` with `7`: the closed `1` is impossible, `17` is certain."""
    order = [*BYTES.encode("{17}"), *BYTES.encode("{17}")]

    class Copier(torch.nn.Linear):
        def forward(self, input_ids, **_):
            following = dict(itertools.pairwise(order))
            logits = torch.zeros(*input_ids.shape, len(BYTES))
            for row, column in torch.cartesian_prod(*map(torch.arange, input_ids.shape)).tolist():
                logits[row, column, following.get(int(input_ids[row, column]), 0)] = 20.0
            return type("Output", (), {"logits": logits})

    scores = {}
    for answer in ("1", "17"):
        target = gain.answer_target(BYTES, answer, suffix="{", closing="}")
        for kind in ("geometric", "smoothed_logprob"):
            arguments = (Copier(1, 1), [0], [], [], target.suffix_ids, target.answer_ids)
            scores[answer, kind] = gain.answer_scores(*arguments, kind=kind).item()
    assert scores["17", "geometric"] > 0.99 and scores["17", "smoothed_logprob"] > 0.99
    assert scores["1", "geometric"] < 0.01
    assert scores["1", "smoothed_logprob"] == pytest.approx(0.5, abs=0.01)  # each token by itself: the 1, and not the }


class Characters(PreTrainedTokenizer):
    """A tokenizer in plain Python, which knows no offsets."""

    def __init__(self):
        self.letters = {chr(c): c - 32 for c in range(32, 127)}
        super().__init__()

    @property
    def vocab_size(self):
        return len(self.letters)

    def get_vocab(self):
        return self.letters

    def _tokenize(self, text, **_):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.letters[token]

    def _convert_id_to_token(self, index):
        return chr(index + 32)

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


def test_a_tokenizer_without_offsets():
    slow = Characters()
    assert not slow.is_fast
    target = gain.answer_target(slow, "17", suffix="{", closing="} done")
    assert slow.decode(target.suffix_ids) == "{"
    assert slow.decode(target.answer_ids) == "17}"


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "response", "cuts", "expected"),
    [
        (BYTES, "q", "abc", [1, 3], ["absent", "absent", "absent"]),  # a model that does not think
        (R1, "q", "abc", [1, 3], ["none", "none", "none"]),  # one that does, but has not begun
        (R1, "q<think>\n", "ab</think>c", [1, 3, 4], ["open", "open", "closed", "closed"]),
        (R1, "q", "<think>a</think>b", [2, 4], ["none", "open", "closed"]),
        (R1, "<think>x</think>q", "a", [1], ["none", "none"]),  # a thought of an example is over
        (R1, "q", "<think>a</think>b<think>c", [2, 4, 6], ["none", "open", "closed", "open"]),
        (BYTES, "q", "<think>abc", [3, 10], ["none", "none", "open"]),  # a mark split over tokens and boundaries
    ],
)
def test_thinking_states(tokenizer, prompt, response, cuts, expected):
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    assert gain.thinking_states(tokenizer, encode(prompt), encode(response), cuts, ForcingTemplate()) == expected


def test_whether_a_model_thinks_can_be_said():
    """An instruct model may have `</think>` as one token and never think."""
    encode = lambda text: R1.encode(text, add_special_tokens=False)  # noqa: E731
    for thinks, expected in ((None, "none"), (True, "none"), (False, "absent")):
        template = ForcingTemplate(thinks=thinks)
        assert gain.thinking_states(R1, encode("q"), encode("ab"), [1, 2], template) == [expected] * 3
    opened = gain.thinking_states(R1, encode("q"), encode("<think>a"), [1, 2], ForcingTemplate(thinks=False))
    assert opened == ["absent", "open", "open"]


def test_an_open_thought_is_closed_before_the_answer_is_forced_and_only_then():
    response = R1.encode("a</think>b", add_special_tokens=False)
    targets = gain.answer_targets(R1, R1.encode("q<think>\n"), response, [1, 2, 3], "7", ForcingTemplate())
    texts = [R1.decode(target.suffix_ids) for target in targets]
    assert texts[0] == texts[1] == "\n</think>\n\nThe final answer is \\boxed{"
    assert texts[2] == texts[3] == "\n\nThe final answer is \\boxed{"
    fresh = gain.answer_targets(R1, R1.encode("q"), response[:1], [1], "7", ForcingTemplate())
    assert R1.decode(fresh[0].suffix_ids).startswith("<think>\n</think>")

"""What the benchmark runs on: models with random weights, and rollouts of random tokens."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from l2t_verl.packing import Branch, PackedRow

PROMPT, SUFFIX, ANSWER = 64, 4, 12  # tokens
BUDGET = 65_536  # tokens of one forward: nothing is split here
SHAPES = {
    "cpu": {"vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32_768},
    "cuda": {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32_768,
             "tie_word_embeddings": True},
}  # fmt: skip
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


def model_of(device: str, dtype: torch.dtype | None = None) -> Qwen2ForCausalLM:
    """The model of a device: six small layers on a CPU, Qwen2.5-1.5B's shape on a GPU; seed 0."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPES[device])).to(device, dtype or DTYPES[device]).eval()


class Rollout:
    """A prompt, a response of T tokens, K episodes of equal length, and an answer forced after each of them."""

    def __init__(self, vocabulary: int, tokens: int, episodes: int):
        generator = torch.Generator().manual_seed(tokens + episodes)
        draw = lambda n: torch.randint(0, vocabulary, (n,), generator=generator).tolist()  # noqa: E731
        self.prompt, self.response = draw(PROMPT), draw(tokens)
        self.ends = [0, *(tokens * (k + 1) // episodes for k in range(episodes))]
        self.suffixes, self.answers = [draw(SUFFIX) for _ in self.ends], [draw(ANSWER) for _ in self.ends]

    @property
    def arguments(self) -> tuple:
        """What a backend takes after the model."""
        return self.prompt, self.response, self.ends, self.suffixes, self.answers, BUDGET

    def row(self, own_tokens: bool) -> PackedRow:
        """The rollout packed, with its response's own log-probs or without."""
        branches = [
            Branch(PROMPT + end, suffix, answer)
            for end, suffix, answer in zip(self.ends, self.suffixes, self.answers, strict=True)
        ]
        return PackedRow(self.prompt + self.response, branches, first=PROMPT if own_tokens else None)

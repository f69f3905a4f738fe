"""The tokenizer: a token for each character, mark and tag of the task's language."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from l2t_verl.episodes.limits import MAX_EPISODES
from recipes.controlled.solutions import ANSWER, THINK_CLOSE
from recipes.controlled.task import LETTERS, OPERATORS

PAD, END, THINK = "<|endoftext|>", "<|im_end|>", "<think>"
NEWLINE = "Ċ"  # as byte-level vocabularies write it; the task has none, verl's agent loop wants Qwen2's
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + THINK + "{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, with a chat template that opens the thought."""
    tags = [f"<{slash}episode_{k}>" for k in range(1, MAX_EPISODES + 1) for slash in ("", "/")]
    words = [THINK, THINK_CLOSE, ANSWER, "check ", "no ", "try ", "know ", *tags]
    # one token each, so that a definition is found by its name alone and copied at once
    words += [name + mark for name in LETTERS for mark in ":="] + [
        digit + mark for digit in "0123456789" for mark in OPERATORS
    ]
    characters = [*"0123456789", *LETTERS, *OPERATORS, *":=;?"]
    vocabulary = {text: i for i, text in enumerate([PAD, END, NEWLINE, *words, *characters])}
    # Byte-level without merges, as Qwen2's own: transformers gives a folder with a Qwen2 model that class, whatever is in it
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([PAD, END])
    raw.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=PAD)
    tokenizer.chat_template = TEMPLATE
    return tokenizer

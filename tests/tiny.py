"""Tiny tokenizers, models and data that the tests make for themselves."""

import json
import random
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_tokenizer(merges: tuple[str, ...] = (), thinking: bool = False, pad: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose vocabulary is the bytes and the given merged texts (each as pairs from the left)."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    rules = []
    to_symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in merges:
        symbols = to_symbols.pre_tokenize_str(text)[0][0]
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in vocabulary:
                vocabulary[symbols[:end]] = len(vocabulary)
                rules.append((symbols[: end - 1], symbols[end - 1]))
    raw = Tokenizer(models.BPE(vocabulary, rules))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    if thinking:  # as in R1's vocabulary: one token each, but not special
        raw.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    names = {"eos_token": "<|im_end|>"} | ({"pad_token": "<|endoftext|>"} if pad else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def r1_like_tokenizer() -> PreTrainedTokenizerFast:
    """The traits of R1's tokenizer that hurt: a sentence's end and a blank line in one token, merged braces."""
    return byte_tokenizer((".\n\n", "}}", "{\\", " Wait", " the"), thinking=True)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer, whose decoding drops the first space."""
    letters = [chr(c) for c in range(33, 127)] + ["\n", "é", "你"]
    pieces = ["▁", *letters, *["▁" + letter for letter in letters]]
    vocabulary = [("<unk>", 0.0)] + [(piece, -float(i % 7) - 1) for i, piece in enumerate(pieces)]
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def qwen2(vocabulary: int, seed: int = 0, positions: int = 1024, **changes) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(
        vocab_size=vocabulary, num_key_value_heads=1, max_position_embeddings=positions, **(sizes | changes)
    )
    return Qwen2ForCausalLM(config).float()


def llama(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).float()


def write_model(folder: Path, **changes) -> Path:
    """A random Qwen2 with head size 64, as a model folder."""
    tokenizer = byte_tokenizer((" the", "\n\n"))
    config = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = qwen2(len(tokenizer), **({"tie_word_embeddings": True} | config | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_data(folder: Path, rows: int = 32, **changes) -> tuple[Path, Path]:
    """Sums as verl parquet files; `changes` overrides columns."""
    import pandas as pd

    generator = random.Random(0)
    records = []
    for index in range(rows):
        a, b = generator.randint(1, 99), generator.randint(1, 99)
        records.append(
            {
                "data_source": "l2t/sums",
                "prompt": [{"role": "user", "content": f"{a}+{b}?"}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": str(a + b)},
                "extra_info": {"index": index},
            }
            | changes
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.parquet", folder / "val.parquet"
    pd.DataFrame(records).to_parquet(paths[0])
    pd.DataFrame(records[:4]).to_parquet(paths[1])
    return paths


def read_jsonl(path: Path) -> list[dict]:
    """Not by `splitlines`: a random model writes U+0085 and U+2028 too, which are no ends of a line of JSON."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]

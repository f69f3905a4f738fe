"""What the answer scores cost: prefixes shared, one plain sequence each, and a plain log-prob pass, in one process.

    python tests/bench/scoring.py [--device cuda] [--repeats 5] [--json scoring.json]

Needs torch and transformers only. On a CPU the model is small; with `--device cuda` it has the shape of Qwen2.5-1.5B, with
random weights in bfloat16. Times are medians over the repeats, taken in turn so that a noisy machine hits all three alike;
the ratios are what to compare between machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))
from l2t_verl.gain.expanded import expanded_log_probs
from l2t_verl.gain.packed import packed_log_probs

PROMPT, SUFFIX, ANSWER = 64, 8, 12  # tokens
SHAPES = {
    "cpu": {"vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32_768},
    "cuda": {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32_768,
             "tie_word_embeddings": True},
}  # fmt: skip
GRID = {
    "cpu": [(1024, 4), (1024, 16), (1024, 64), (512, 16), (2048, 16), (4096, 16)],
    "cuda": [(4096, 4), (4096, 16), (4096, 30), (1024, 30), (8192, 30), (16_384, 30)],
}


@torch.no_grad()
def plain_pass(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probs of a sequence's tokens, as the old-log-prob pass computes them."""
    tokens = torch.tensor([ids], device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]


def timed(function, device: str) -> tuple[float, int, object]:
    """Seconds, peak extra bytes (GPU only) and the result of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before, result
    return time.perf_counter() - start, 0, result


def measure(model: torch.nn.Module, tokens: int, episodes: int, repeats: int, device: str) -> dict:
    generator = torch.Generator().manual_seed(tokens + episodes)
    draw = lambda n: torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist()  # noqa: E731
    prompt, response = draw(PROMPT), draw(tokens)
    ends = [0, *(tokens * (k + 1) // episodes for k in range(episodes))]
    row = (prompt, response, ends, [draw(SUFFIX) for _ in ends], [draw(ANSWER) for _ in ends], 16_384)
    calls = {
        "packed": lambda: packed_log_probs(model, *row),
        "expanded": lambda: expanded_log_probs(model, *row),
        "plain": lambda: plain_pass(model, prompt + response),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    memory, results = {}, {}
    for _ in range(repeats + 1):  # the first is a warm-up
        for name, call in calls.items():
            took, extra, results[name] = timed(call, device)
            seconds[name].append(took)
            memory[name] = extra
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    difference = (torch.cat(results["packed"]) - torch.cat(results["expanded"])).abs().max().item()
    return {
        "tokens": tokens,
        "episodes": episodes,
        "seconds": median,
        "packed_to_plain": median["packed"] / median["plain"],
        "expanded_to_packed": median["expanded"] / median["packed"],
        "largest_difference": difference,
        "extra_gib": {name: size / 2**30 for name, size in memory.items()} if device == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None, help="also write the rows there")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[arguments.device])).to(arguments.device, dtype).eval()
    print(f"{torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, {dtype}, seed 0")
    print("    T   K   packed  expanded    plain   packed/plain  expanded/packed  largest difference (nats)")
    rows = []
    for tokens, episodes in GRID[arguments.device]:
        row = measure(model, tokens, episodes, arguments.repeats, arguments.device)
        rows.append(row)
        seconds = row["seconds"]
        print(
            f"{tokens:5d} {episodes:3d} {seconds['packed']:7.3f}s {seconds['expanded']:8.3f}s {seconds['plain']:7.3f}s "
            f"{row['packed_to_plain']:13.2f} {row['expanded_to_packed']:16.1f} {row['largest_difference']:26.1e}",
            flush=True,
        )
    if arguments.json is not None:
        partial = arguments.json.with_suffix(".partial")
        partial.write_text(json.dumps({"device": arguments.device, "rows": rows}, indent=1))
        partial.replace(arguments.json)


if __name__ == "__main__":
    main()

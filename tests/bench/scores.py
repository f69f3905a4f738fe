"""Answer scores: packed, fused, one sequence a prefix, and one plain log-prob pass over the same rollout."""

from __future__ import annotations

import math
from typing import Any

import torch
from measuring import in_turn, peak_bytes
from shapes import ANSWER, PROMPT, SHAPES, SUFFIX, Rollout, model_of

from l2t_verl.gain.expanded import expanded_log_probs
from l2t_verl.gain.packed import packed_log_probs
from l2t_verl.packing import packed_forward
from l2t_verl.packing.attention import branch_groups

CHUNK = 512  # tokens whose logits a careful engine holds at once: verl's own fused head takes as many
GRID = {
    "cpu": {"main": (1024, 16), "episodes": (2048, [4, 16, 64]), "tokens": ([512, 1024, 2048, 4096], 16)},
    "cuda": {"main": (8192, 30), "episodes": (8192, [4, 16, 30]), "tokens": ([1024, 2048, 4096, 8192, 16_384], 30)},
}


@torch.no_grad()
def plain_pass(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probs of a sequence's tokens with logits in chunks, as a careful engine computes old log-probs."""
    tokens = torch.tensor([ids], device=model.device)
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[0, :-1]
    found = []
    for states, targets in zip(hidden.split(CHUNK), tokens[0, 1:].split(CHUNK), strict=True):
        found.append(model.lm_head(states).float().log_softmax(-1).gather(1, targets[:, None])[:, 0])
    return torch.cat(found)


@torch.no_grad()
def one_by_one(model: torch.nn.Module, rollout: Rollout) -> list[torch.Tensor]:
    """The K+1 prefixes, each a forward of its own with the logits of all its tokens."""
    found = []
    for end, suffix, answer in zip(rollout.ends, rollout.suffixes, rollout.answers, strict=True):
        ids = torch.tensor([rollout.prompt + rollout.response[:end] + suffix + answer], device=model.device)
        log_p = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        found.append(log_p.gather(1, ids[0, 1:, None])[-len(answer) :, 0])
    return found


def measure(model: torch.nn.Module, tokens: int, episodes: int, repeats: int, device: str, slow: bool, memory: bool) -> dict:
    """One row; `slow` also times the ways that cost many times as much."""
    rollout = Rollout(model.config.vocab_size, tokens, episodes)
    fused = rollout.row(own_tokens=True)

    @torch.no_grad()
    def fused_pass() -> Any:
        return packed_forward(model, [fused])

    calls = {
        "plain": lambda: plain_pass(model, rollout.prompt + rollout.response),
        "packed": lambda: packed_log_probs(model, *rollout.arguments),
        "fused": fused_pass,
    }
    seconds, results = in_turn(calls, repeats, device)
    if slow:
        ways = {
            "expanded": lambda: expanded_log_probs(model, *rollout.arguments[:-1], 16_384),
            "one by one": lambda: one_by_one(model, rollout),
        }
        slow_seconds, slow_results = in_turn(ways, max(1, repeats // 4), device)
        seconds |= slow_seconds
        results |= slow_results
    row = {"tokens": tokens, "episodes": episodes, "seconds": seconds}
    row["packed / plain"] = seconds["packed"] / seconds["plain"]
    row["fused on top"] = seconds["fused"] / seconds["plain"] - 1
    if slow:
        row["expanded / packed"] = seconds["expanded"] / seconds["packed"]
        row["one by one / packed"] = seconds["one by one"] / seconds["packed"]
        row["largest difference (nats)"] = worst(results["packed"], results["expanded"])
    if memory:
        row["peak bytes"] = {name: peak_bytes(call, device) for name, call in calls.items()}
        row["packed / plain, memory"] = row["peak bytes"]["packed"] / row["peak bytes"]["plain"]
    return row


def worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference of an answer's mean log-prob."""
    pairs = zip(found, expected, strict=True)
    return max(abs(a.float().mean().item() - b.float().mean().item()) for a, b in pairs)


def precision(device: str, tokens: int, episodes: int) -> dict:
    """The error of both ways in bfloat16, against plain sequences of the same weights in float32."""
    model = model_of(device, torch.float32)
    rollout = Rollout(model.config.vocab_size, tokens, episodes)
    exact = expanded_log_probs(model, *rollout.arguments[:-1], 16_384)
    half = model.bfloat16()
    errors = {
        "packed": worst(packed_log_probs(half, *rollout.arguments), exact),
        "expanded": worst(expanded_log_probs(half, *rollout.arguments[:-1], 16_384), exact),
    }
    return errors | {"tokens": tokens, "episodes": episodes, "ratio": errors["packed"] / errors["expanded"]}


def run(device: str, repeats: int) -> dict:
    """All rows of a device."""
    model, grid = model_of(device), GRID[device]
    found = {"main": measure(model, *grid["main"], repeats, device, slow=True, memory=True)}
    tokens, counts = grid["episodes"]
    found["by episodes"] = [measure(model, tokens, count, repeats, device, slow=False, memory=False) for count in counts]
    lengths, episodes = grid["tokens"]
    found["by tokens"] = [measure(model, length, episodes, repeats, device, slow=False, memory=True) for length in lengths]
    packed = lambda rows: [row["seconds"]["packed"] for row in rows]  # noqa: E731
    few, *_, many = packed(found["by episodes"])
    found["most / fewest episodes"] = many / few
    found["slope in tokens"] = _slope(lengths, packed(found["by tokens"]))
    del model
    found["bfloat16"] = precision(device, 256, 8)
    found["counted"] = counted(SHAPES["cuda"], 8192, 30)
    return found


def _slope(x: list[int], y: list[float]) -> float:
    """Least squares of log y on log x."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True)) / sum((p - mean_a) ** 2 for p in a)


def counted(shape: dict, tokens: int, episodes: int) -> dict:
    """Floating-point operations of the three passes: two for each weight and token, four for each pair that attends.

    Causal attention counts half of the square; a group of branches counts the context that its furthest branch sees.
    """
    rollout = Rollout(1000, tokens, episodes)
    width, heads = shape["hidden_size"], shape["num_attention_heads"]
    grouped = width // heads * shape["num_key_value_heads"]
    weights = shape["num_hidden_layers"] * (2 * width**2 + 2 * width * grouped + 3 * width * shape["intermediate_size"])
    pair = 4 * width * shape["num_hidden_layers"]
    head = 2 * width * shape["vocab_size"]
    row = rollout.row(own_tokens=False)
    visible = [branch.visible - 1 for branch in row.branches]
    groups = branch_groups(0, tokens + PROMPT, visible, [branch.size for branch in row.branches], torch.device("cpu"))
    context = (tokens + PROMPT) * 2 * weights + pair * (tokens + PROMPT) ** 2 / 2
    branches = len(row.branches) * (SUFFIX + ANSWER) * 2 * weights + sum(pair * group.mask.numel() for group in groups)
    branches += len(row.branches) * ANSWER * head
    plain = context + tokens * head
    return {
        "tokens": tokens,
        "episodes": episodes,
        "plain, teraflop": plain / 1e12,
        "packed / plain": (context + branches) / plain,
        "fused on top": branches / plain,
    }

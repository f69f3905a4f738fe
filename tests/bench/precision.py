"""What of the process reward is signal where the policy computes in bfloat16, with the quickstart's model on a CPU.

    python tests/bench/precision.py [--folder runs/precision] [--json tests/bench/results/precision.json]

Sixteen problems, 256 tokens each, sampled by the model itself; float32 is the truth. Every forward is kept in the folder,
so that a second run only works the table out again; the first takes some ten minutes on two cores.

The law for longer responses, with as many episodes: rounding of a token is independent of the next one's, so that the
variance of a penalty's rounding grows with the tokens; what a bias of each token adds, by episodes of unequal lengths, grows
with their square; β is per length and falls as that grows; gains, their rounding and what is signal stay.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2]))
import rounding
from rounding import Reading, Rollouts

from l2t_verl import compression, gain
from l2t_verl.compression.beta import beta_per_nat
from l2t_verl.config import L2TConfig
from l2t_verl.episodes import episode_ids
from l2t_verl.files import whole, write_whole
from l2t_verl.packing import PackedRow, forward, packed_forward
from recipes.controlled import sparse, tables
from recipes.controlled.comparison import load
from recipes.controlled.plans import BUDGETS
from recipes.controlled.table import FILE as TABLE
from recipes.quickstart.prepare import HUB_MODEL, prepare_model

RESULTS = Path(__file__).parent / "results" / "precision.json"
SPREADS = {"still": 1e-6, "moved": 1e-3}  # of normal noise on every weight: true C of 1e-8 and of 2e-3 nats a token
KINDS = (*SPREADS, "trained")
STEPS, LEARNING_RATE = 30, 1e-6
LONG = 8000  # tokens
LENGTHS = (400, 600, 3000, LONG)  # of the recipes' responses
CLIP = 0.2  # of the PPO ratio
CHUNK = 4  # tokens of a step in which the engine reads again
# what, its name in the summary, the bound, whether it is a lower one
TARGETS = [
    ("bias of C a token where nothing has moved (true C ≤ 1e-5), nats", "bias, still", 1e-4, False),
    ("… at a true C of about 2e-3, as a share of it", "bias, moved", 0.1, False),
    ("share of rounding in the process reward's variance, 256 tokens, the largest of three", "share, measured", 0.05, False),
    ("… by the law at 8,000 tokens", f"share, {LONG}", 0.2, False),
    ("wrong signs of gains", "wrong signs", 0.02, False),
    ("rank correlation of process rewards with float32's after 30 steps at 1e-6", "rank correlation", 0.95, True),
    ("KL moved in 100 steps where right answers are rare, L2T's defaults over GRPO", "KL over GRPO's", 1.5, False),
    ("right responses off `token_budget`, from above and below, the larger", "off the budget", 0.05, False),
    ("tokens beyond the clip of 0.2 between the packed and the plain forward", "beyond the clip", None, False),
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rows: int = 16
    tokens: int = 256
    episodes: int = 8
    steps: int = STEPS


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made and written whole if there is none."""
    if not file.exists():
        print(f"  {file.name}", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as partial:
            torch.save(make(), partial)
    return torch.load(file, weights_only=False)


def displace(model: torch.nn.Module, kind: str, rollouts: Rollouts, size: Size) -> None:
    """Move the float32 weights: by normal noise of a spread, or by Adam with a policy gradient on the rollouts."""
    if kind == "trained":
        return _train(model, rollouts, size.steps)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=SPREADS[kind])


def _train(model: torch.nn.Module, rollouts: Rollouts, steps: int) -> None:
    """Float32 weights, bfloat16 computation; each step one rollout, whose advantage is 1 or −1."""
    chance, optimizer = random.Random(0), torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(steps):
        row = step % len(rollouts.problems)
        prompt = rollouts.problems[row].prompt
        with torch.autocast("cpu", torch.bfloat16):
            packed = PackedRow(prompt + rollouts.responses[row].tolist(), first=len(prompt))
            log_probs = packed_forward(model, [packed], temperature=rounding.TEMPERATURE).tokens[0]
        (-chance.choice((1, -1)) * log_probs.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def readings(model: Any, tokenizer: Any, folder: Path, size: Size) -> tuple[Rollouts, dict[str, Any]]:
    """Every forward of the study, by name; `model` is float32 and is left as it was."""
    low = lambda: _rounded(model)  # noqa: E731
    problems = rounding.problems_of(tokenizer, size.rows)
    ids, engine = kept(folder / "sampled.pt", lambda: rounding.decode(low(), problems, size.tokens))
    rollouts = Rollouts(problems, ids, rounding.random_ends(size.rows, size.tokens, size.episodes), engine)
    found = {
        "plain": kept(folder / "plain.pt", lambda: rounding.plain(low(), rollouts)),
        "start": kept(folder / "start-bfloat16.pt", lambda: rounding.packed(low(), rollouts)),
        "start, true": kept(folder / "start-float32.pt", lambda: rounding.packed(model, rollouts)),
    }
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for kind in KINDS:
        files = {part: folder / f"{kind}-{part}.pt" for part in ("float32", "bfloat16", "logits", "engine")}
        if not all(file.exists() for file in files.values()):
            displace(model, kind, rollouts, size)
            actor = low()
            kept(files["bfloat16"], lambda: rounding.packed(actor, rollouts))  # noqa: B023 - called here
            kept(files["logits"], lambda: _with_rounded_logits(actor, rollouts))  # noqa: B023
            read = {"said": ids, "chunk": CHUNK}
            kept(files["engine"], lambda: rounding.decode(actor, problems, size.tokens, **read)[1])  # noqa: B023
            kept(files["float32"], lambda: rounding.packed(model, rollouts))
            model.load_state_dict(start)
        found |= {f"{kind}, {part}": torch.load(file, weights_only=False) for part, file in files.items()}
    return rollouts, found


def off_the_grid(model: torch.nn.Module) -> None:
    """Move each weight by half a step of bfloat16 at most, as training has.

    The package's weights have four bits; 8 % of them lie halfway between two numbers of bfloat16, where the least movement
    flips them: an Adam step of 1e-6 then moves the rounded policy more than twice as far as the float32 one.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1 + (torch.rand(value.shape, generator=generator) - 0.5) * 2**-8)


def _rounded(model: Any) -> Any:
    """The policy as FSDP computes it and the engine holds it: all weights in bfloat16."""
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy.to(torch.bfloat16)


def _with_rounded_logits(model: Any, rollouts: Rollouts) -> Reading:
    """The scores that they would be if the answers' logits were the model's own."""
    precise = forward.in_float32
    forward.in_float32 = lambda head, _: head
    try:
        return rounding.packed(model, rollouts)
    finally:
        forward.in_float32 = precise


# ---- what the readings say


def bias(found: dict[str, Any], rollouts: Rollouts, kind: str) -> dict[str, float]:
    """The penalty of a token, in nats: the truth, with rounding, less it token by token, and shrunk besides."""
    delta, noise, levels, true = _log_ratios(found, kind)
    one = torch.zeros(delta.shape, dtype=torch.int64)
    corrected = 0.5 * delta.square() - delta * noise
    shrunk = compression.corrected_penalty(delta, noise, levels, one, torch.ones_like(delta), num_episodes=1)
    rows = corrected.mean(dim=1)
    return {
        "true": 0.5 * true.square().mean().item(),
        "raw": 0.5 * delta.square().mean().item(),
        "candidate": corrected.mean().item(),
        "shrunk": shrunk.sum().item() / delta.numel(),
        "standard error": (rows.std() / len(rows) ** 0.5).item(),
    }


def _log_ratios(found: dict[str, Any], kind: str) -> tuple[torch.Tensor, ...]:
    """δ, n, ½ (a + r) and the true δ, in nats."""
    actor, reference = found[f"{kind}, bfloat16"].tokens.double(), found["start"].tokens.double()
    true = found[f"{kind}, float32"].tokens.double() - found["start, true"].tokens.double()
    return actor - reference, actor - found[f"{kind}, engine"].double(), (actor + reference) / 2, true


def process(found: dict[str, Any], rollouts: Rollouts, kind: str) -> dict[str, dict[str, torch.Tensor]]:
    """Gains, penalties and process rewards, [B, K] each: the truth, and in bfloat16 by three ways."""
    delta, noise, levels, true = _log_ratios(found, kind)
    ids = episode_ids(rollouts.ends, delta.shape[1])
    where = {"num_episodes": len(rollouts.ends[0])}
    beta = beta_per_nat(L2TConfig(), delta.shape[1])
    mask = torch.ones_like(delta)
    raw = compression.compression_penalty(delta, ids, mask, **where)
    candidate = compression.sum_by_episode(0.5 * delta.square() - delta * noise, ids, **where)
    shrunk = compression.corrected_penalty(delta, noise, levels, ids, mask, **where)
    gains = {
        part: gain.fitting_gains(found[f"{kind}, {part}"].scores.double()) for part in ("float32", "bfloat16", "logits")
    }
    ways = {
        "true": (gains["float32"], compression.compression_penalty(true, ids, mask, **where)),
        "raw": (gains["logits"], raw),
        "candidate": (gains["bfloat16"], candidate),
        "shrunk": (gains["bfloat16"], shrunk),
    }
    return {
        way: {"gains": g, "penalties": c, "rewards": compression.process_rewards(g, c, beta)} for way, (g, c) in ways.items()
    }


def shares(ways: dict[str, dict[str, torch.Tensor]], way: str, rollouts: Rollouts) -> dict[str, float]:
    """The share of the process reward's variance that is rounding, as measured and by the law at each of `LENGTHS`."""
    true, got = ways["true"], ways[way]
    lengths = torch.tensor(rollouts.ends).double().diff(dim=1, prepend=torch.zeros(len(rollouts.ends), 1))
    tokens = rollouts.responses.shape[1]
    of_gains = (got["gains"] - true["gains"]).var()
    rounding_of_penalties = got["penalties"] - true["penalties"]
    per_token = rounding_of_penalties.sum() / lengths.sum()
    of_lengths = per_token.square() * lengths.var()
    of_tokens = (rounding_of_penalties - per_token * lengths).var()
    signal = true["rewards"].var()
    measured = (got["rewards"] - true["rewards"]).var()
    found = {"measured": (measured / (measured + signal)).item()}
    for length in LENGTHS:
        times, beta = length / tokens, beta_per_nat(L2TConfig(), length)
        noise = of_gains + beta**2 * (of_tokens * times + of_lengths * times**2)
        found[str(length)] = (noise / (noise + signal)).item()
    return found


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's, of all elements."""
    ranks = torch.stack([values.flatten().argsort().argsort().double() for values in (one, other)])
    return torch.corrcoef(ranks)[0, 1].item()


def measured(found: dict[str, Any], rollouts: Rollouts) -> dict[str, Any]:
    """All figures."""
    results: dict[str, Any] = {"bias": {kind: bias(found, rollouts, kind) for kind in KINDS}}
    ways = {kind: process(found, rollouts, kind) for kind in KINDS}
    true = {kind: ways[kind]["true"]["gains"] for kind in KINDS}
    wrong = {"float32 logits": "shrunk", "bfloat16 logits": "raw"}
    results["wrong signs"] = {
        name: torch.cat([ways[kind][way]["gains"].sign() != true[kind].sign() for kind in KINDS]).double().mean().item()
        for name, way in wrong.items()
    }
    results["error of gains"] = {
        name: torch.cat([ways[kind][way]["gains"] - true[kind] for kind in KINDS]).square().mean().sqrt().item()
        for name, way in wrong.items()
    } | {"root mean square of gains": torch.cat(list(true.values())).square().mean().sqrt().item()}
    names = ("raw", "candidate", "shrunk")
    results["share of rounding"] = {kind: {way: shares(ways[kind], way, rollouts) for way in names} for kind in KINDS}
    results["rank correlation"] = {
        kind: {way: rank_correlation(ways[kind][way]["rewards"], ways[kind]["true"]["rewards"]) for way in names}
        for kind in KINDS
    }
    apart = (found["plain"] - found["start"].tokens).double()
    results["fused against plain"] = {
        "beyond the clip": ((apart.exp() - 1).abs() > CLIP).double().mean().item(),
        "quantiles": {str(q): apart.abs().flatten().quantile(q).item() for q in (0.5, 0.9, 0.99, 1.0)},
    }
    still, moved = results["bias"]["still"], results["bias"]["moved"]
    results["summary"] = {
        "bias, still": abs(still["shrunk"] - still["true"]),
        "bias, moved": abs(moved["shrunk"] / moved["true"] - 1),
        **{
            f"share, {at}": max(results["share of rounding"][kind]["shrunk"][at] for kind in KINDS)
            for at in ("measured", str(LONG))
        },
        "wrong signs": results["wrong signs"]["float32 logits"],
        "rank correlation": results["rank correlation"]["trained"]["shrunk"],
        "beyond the clip": results["fused against plain"]["beyond the clip"],
        **trained(),
    }
    return results


def trained() -> dict[str, float]:
    """What the controlled comparison's committed runs say of it; `recipes/controlled/RESULTS.md` has their commands."""
    budgets = [tables.over_budget(run) for run in load(TABLE) if run["settings"]["arm"] in BUDGETS]
    return {
        "KL over GRPO's": sparse.moved_against_grpo(load(sparse.TABLE), "default", sparse.LONG),
        "off the budget": max(map(abs, budgets), default=float("nan")),
    }


def table(results: dict[str, Any]) -> str:
    """The targets with what was measured, as Markdown."""
    lines = ["| what | target | measured | reached |", "|---|---|---|---|"]
    for what, name, bound, lower in TARGETS:
        value = results["summary"][name]
        target = "" if bound is None else f"{'≥' if lower else '≤'} {bound:g}"
        reached = "" if bound is None else "yes" if (value >= bound if lower else value <= bound) else "no"
        lines.append(f"| {what} | {target} | {value:.2g} | {reached} |")
    return "\n".join(lines)


def shares_table(results: dict[str, Any]) -> str:
    """The share of rounding by length of a response, with and without the correction, as Markdown."""
    at = {"measured": f"{results['size']['tokens']} tokens", **{str(length): f"{length:,} (law)" for length in LENGTHS}}
    lines = ["| weights | rounding | " + " | ".join(at.values()) + " |", "|---" * (2 + len(at)) + "|"]
    names = {"still": "hardly moved", "moved": "C of 2e-3 a token", "trained": f"{results['size']['steps']} steps at 1e-6"}
    for kind, name in names.items():
        for way, said in {"raw": "left in", "shrunk": "taken off"}.items():
            found = results["share of rounding"][kind][way]
            lines.append(f"| {name} | {said} | " + " | ".join(f"{found[key]:.2g}" for key in at) + " |")
    return "\n".join(lines)


def study(model: Any, tokenizer: Any, folder: Path, size: Size) -> dict[str, Any]:
    """All figures of a float32 model, whose forwards are kept in the folder."""
    off_the_grid(model)
    rollouts, found = readings(model, tokenizer, folder, size)
    return {
        "size": asdict(size),
        "temperature": rounding.TEMPERATURE,
        "beta per nat": beta_per_nat(L2TConfig(), size.tokens),
    } | measured(found, rollouts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "precision", help="where the forwards are kept")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    path = prepare_model(None, arguments.folder / "models")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    results = study(model, AutoTokenizer.from_pretrained(path), arguments.folder / "forwards", Size())
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    results = {"model": HUB_MODEL, "threads": torch.get_num_threads(), "versions": versions} | results
    print(table(results), shares_table(results), sep="\n\n")
    write_whole(arguments.json, json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

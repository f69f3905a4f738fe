"""The benchmark runs and measures the same thing in all ways; its times are nobody's business here."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import verl  # noqa: F401 - first, as in the benchmark itself
from tiny import byte_tokenizer, qwen2

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import advantages
import derivatives
import imports
import precision
import rounding
import run
import scores
import shapes
import step
from measuring import peak_bytes

from l2t_verl.compression.beta import beta_per_nat
from l2t_verl.config import L2TConfig

TINY = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 1024}  # fmt: skip
RESULTS = Path(__file__).parent / "bench" / "results" / "cpu.json"


def test_all_ways_score_the_same():
    model = qwen2(64, positions=512).eval()
    row = scores.measure(model, tokens=64, episodes=4, repeats=1, device="cpu", slow=True, memory=True)
    assert row["largest difference (nats)"] < 1e-5
    assert set(row["seconds"]) == {"plain", "packed", "fused", "expanded", "one by one"}
    assert min(row["seconds"].values()) > 0
    assert row["packed / plain"] == row["seconds"]["packed"] / row["seconds"]["plain"]
    assert min(row["peak bytes"].values()) > 0
    rollout = shapes.Rollout(64, 64, 4)
    one_by_one = scores.one_by_one(model, rollout)
    assert scores.worst(one_by_one, scores.expanded_log_probs(model, *rollout.arguments)) < 1e-5
    plain = scores.plain_pass(model, rollout.prompt + rollout.response)[shapes.PROMPT - 1 :]
    with torch.no_grad():
        packed = scores.packed_forward(model, [rollout.row(own_tokens=True)]).tokens[0]
    torch.testing.assert_close(packed, plain, atol=2e-6, rtol=1e-5)


def test_peak_memory_is_what_is_held_at_once():
    def three_then_one():
        held = [torch.empty(2**20) for _ in range(3)]
        held.clear()
        return torch.empty(2**20)

    assert peak_bytes(three_then_one, "cpu") == pytest.approx(3 * 4 * 2**20, rel=0.01)


def test_operations_are_counted_as_torch_counts_them():
    """All but attention: torch counts a causal kernel as the whole square, and none of it by pairs that attend."""
    from torch.utils.flop_counter import FlopCounterMode

    model, rollout = qwen2(64, positions=512).eval(), shapes.Rollout(64, 128, 4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scores.packed_forward(model, [rollout.row(own_tokens=False)])
    products = sum(count for kind, count in counter.get_flop_counts()["Global"].items() if "mm" in str(kind))
    shape = TINY | {"vocab_size": 64}
    found = scores.counted(shape, 128, 4)
    plain = found["plain, teraflop"] * 1e12
    attention = 4 * 128 * 2 * 192**2 / 2
    head = 128 * 2 * 128 * 64
    linear = plain - attention - head
    per_token = linear / 192
    branches = 5 * 16
    expected = per_token * (192 + branches) + 5 * 12 * 2 * 128 * 64
    assert products == pytest.approx(expected, rel=1e-3)  # the rotary embedding multiplies too


def test_every_section_runs_small(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "cpu", TINY)
    grid = {"main": (96, 4), "episodes": (96, [2, 4, 8]), "tokens": ([48, 96], 4)}
    monkeypatch.setitem(scores.GRID, "cpu", grid)
    results = {
        "scores": scores.run("cpu", 1),
        "derivatives": derivatives.run("cpu", 1),
        "advantages": advantages.run(1, rows=16, tokens=64),
        "imports": imports.run(1, warm_up=0),
    }
    assert results["derivatives"]["directional against exact"] < 1e-3
    assert set(results["advantages"]["ratios"]) >= {"shaped", "episode", "paper"}
    lines = run.table(results).splitlines()
    assert len(lines) == 2 + len([target for target in run.TARGETS if not target[1].startswith("step.")])


@pytest.mark.slow
def test_a_step_runs_on_real_engines():
    shape = {name: value for name, value in TINY.items() if name != "vocab_size"} | {"tie_word_embeddings": True}
    found = step.run(1, vocabulary=300, shape=shape)
    assert set(found["seconds"]) == {"grpo", "l2t", "l2t, scores apart", "log_ratio"}
    torch.distributed.destroy_process_group()


def test_the_page_of_costs_has_the_committed_results():
    """Each number of its table is one of the file's."""
    page = (Path(__file__).parent.parent / "l2t_verl" / "guide" / "cost.md").read_text()
    results = json.loads(RESULTS.read_text())
    assert run.table(results) in page
    assert results["machine"]["versions"]["torch"] in page
    studied = json.loads(precision.RESULTS.read_text())
    assert precision.table(studied) in page
    assert precision.shares_table(studied) in page
    assert studied["versions"]["torch"] in page
    on_gpu = json.loads(RESULTS.with_name("h200.json").read_text())["machine"]["versions"]
    pins = (Path(__file__).parent.parent / "constraints-gpu.txt").read_text()
    trained_with = re.search(r"^transformers==(.*)$", pins, re.MULTILINE)[1]
    assert f"torch {on_gpu['torch']} and transformers {on_gpu['transformers']}, newer than the {trained_with}" in page


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """The precision study of a tiny model, with its folder."""
    folder, tokenizer = tmp_path_factory.mktemp("precision"), byte_tokenizer()
    model, size = qwen2(len(tokenizer)).eval(), precision.Size(rows=2, tokens=12, episodes=3, steps=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = precision.study(model, tokenizer, folder, size)
    return model, before, tokenizer, folder, size, results


def test_the_precision_study_runs_small(small_study):
    model, before, _, _, _, results = small_study
    lines = precision.table(results).splitlines()
    assert len(lines) == 2 + len(precision.TARGETS)
    assert all(math.isfinite(value) for value in results["summary"].values())
    assert results["bias"]["still"]["true"] < 1e-8 < results["bias"]["still"]["raw"]
    assert results["bias"]["moved"]["true"] > results["bias"]["still"]["true"]
    for kind in precision.KINDS:
        assert results["bias"][kind]["candidate"] == pytest.approx(results["bias"][kind]["shrunk"], rel=1e-9)
    moved = [(value / before[name] - 1).abs().max() for name, value in model.state_dict().items() if before[name].all()]
    assert max(moved) < 2**-8  # the displacements are undone


def test_a_second_precision_study_reads_what_the_first_kept(small_study, monkeypatch):
    *_, folder, size, results = small_study
    monkeypatch.setattr(rounding, "decode", None)
    monkeypatch.setattr(rounding, "packed", None)
    monkeypatch.setattr(rounding, "plain", None)
    tokenizer = small_study[2]
    assert precision.study(qwen2(len(tokenizer)).eval(), tokenizer, folder, size) == results


def test_the_engine_reads_in_chunks_what_it_says_token_by_token_and_agrees_with_the_others():
    tokenizer = byte_tokenizer()
    model, problems = qwen2(len(tokenizer)).eval(), rounding.problems_of(tokenizer, 2)
    assert len(problems[0].prompt) != len(problems[1].prompt)  # so that one is padded
    ids, said = rounding.decode(model, problems, 9)
    for chunk in (1, 4, 20):
        torch.testing.assert_close(rounding.decode(model, problems, 9, said=ids, chunk=chunk)[1], said, atol=1e-5, rtol=1e-5)
    rollouts = rounding.Rollouts(problems, ids, rounding.random_ends(2, 9, 3), said)
    torch.testing.assert_close(rounding.packed(model, rollouts).tokens, said, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rounding.plain(model, rollouts), said, atol=1e-5, rtol=1e-5)


def test_the_law_of_rounding():
    """Tokens that are rounded by themselves: four times as many, four times their variance; β, per length, a quarter."""
    g, tokens = torch.Generator().manual_seed(0), precision.LONG // 4
    ends = [[tokens // 2, tokens]] * 500
    rollouts = rounding.Rollouts([], torch.zeros(500, tokens), ends, torch.zeros(0))
    beta = beta_per_nat(L2TConfig(), tokens)
    draw = lambda size: size * torch.randn(500, 2, generator=g, dtype=torch.float64)  # noqa: E731
    rewards, error = draw(1.0), draw(0.5 / beta)
    true = {"gains": rewards, "penalties": torch.zeros_like(rewards), "rewards": rewards}
    got = {"gains": rewards, "penalties": error, "rewards": rewards - beta * error}
    found = precision.shares({"true": true, "got": got}, "got", rollouts)
    assert found["measured"] == pytest.approx(1 / 5, rel=0.1)
    assert found[str(precision.LONG)] == pytest.approx(1 / 17, rel=0.1)
    assert precision.rank_correlation(rewards, rewards.exp()) == pytest.approx(1.0)
    assert precision.rank_correlation(rewards, -rewards) == pytest.approx(-1.0)

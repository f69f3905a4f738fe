"""Two real ranks that share every sequence (Ulysses) score by the expanded way; see ulysses_process.py for what is real."""

import pytest
import torch
from ranks import run_ranks
from stack import of_cpu_stack
from test_startup import check
from test_worker import expected
from tiny import write_model
from transformers import AutoModelForCausalLM
from ulysses_process import NAME, ROWS, ulysses_main
from worker_process import LONG

from l2t_verl.config import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("ulysses") / "model")


def ranks_of(folder, attention, result) -> list[dict]:
    run_ranks(ulysses_main, 2, folder, attention, result)
    return [torch.load(result / f"{rank}.pt", weights_only=False) for rank in range(2)]


@of_cpu_stack  # the gloo of torch 2.13 exchanges as verl does; 2.11's, of the stack for GPUs, does not
def test_both_ranks_make_every_call_and_the_scores_are_the_pure_function_s(folder, tmp_path):
    first, second = ranks_of(folder, NAME, tmp_path)
    assert first["why"] == second["why"] == "Ulysses splits the sequence over ranks"
    assert len(first["calls"]) == len(second["calls"]) > 1
    assert (set(first["calls"]), set(second["calls"])) == ({True}, {False})  # a rank holds all outputs or none
    assert second["scores"] is None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for found, row in zip(first["scores"], ROWS[:2], strict=False):
        torch.testing.assert_close(torch.tensor(found), expected(model, folder, row), atol=1e-6, rtol=1e-4)
    assert torch.tensor(first["scores"][2] + first["scores"][3]).isnan().all()


def test_verl_exchanges_nothing_under_another_attention(folder, tmp_path):
    """Each rank's tokens see its own half of a sequence only, and verl says nothing of it; so the start refuses it."""
    first, second = ranks_of(folder, "sdpa", tmp_path)
    assert len(first["calls"]) == len(second["calls"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    gap = (torch.tensor(first["scores"][0]) - expected(model, folder, LONG)).abs().max().item()
    print(f"scores differ by {gap:.1e}")
    assert gap > 1e-5  # ten times what is allowed above


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_is_refused_at_the_start(attention):
    overrides = [
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2",
        "actor_rollout_ref.model.use_remove_padding=True",
    ]
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    with pytest.raises(ConfigError, match=rf"attn_implementation={attention}: under Ulysses over 2 ranks verl exchanges"):
        check(*overrides, f"{key}={attention}")
    check(*overrides, f"{key}=flash_attention_2")

"""The controlled comparison's loop: the same as verl's workers do, its controls, its measures, its grid, its report."""

import socket

import pytest
import torch
from loop_process import rank_main

from recipes.controlled import start
from recipes.controlled.plans import ARMS, arm_settings

SEED = 20261126
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
}


@pytest.fixture(scope="session")
def tiny_start(tmp_path_factory):
    """A start that writes tags and, now and then, a right answer."""
    print(f"seed {SEED}")
    folder = tmp_path_factory.mktemp("starts") / "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads of so small a model wait for each other
    model, tokenizer = start.train(SEED, steps=250, rows=16, **TINY)
    torch.set_num_threads(threads)
    start.save(model, tokenizer, folder, {"seed": SEED})
    return folder


def test_identical_rollouts_give_what_verl_s_workers_make_of_them(tiny_start, tmp_path):
    """Over three updates: the advantages of all main arms, the loss, the weights."""
    tiny = {"prompts": 2, "group": 4, "limit": 60}
    arms = {name: vars(arm_settings(name, seed=3, start=1, **tiny)) for name in ARMS}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, (port, tiny_start, arms["shaped"], arms, tmp_path), nprocs=1)
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for ours, theirs in zip(found["loop"], found["verl"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
        for name in arms:
            torch.testing.assert_close(ours["advantages"][name], theirs["advantages"][name], atol=1e-3, rtol=1e-3)
    moved = max((a - found["start"][name]).abs().max() for name, (a, _) in found["parameters"].items())
    apart = max((a - b).abs().max() for a, b in found["parameters"].values())
    assert apart < 0.02 * moved

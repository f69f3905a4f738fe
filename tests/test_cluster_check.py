"""A Ray cluster that cannot train is refused before a worker is placed; the nodes are as `ray.nodes()` gives them."""

import pytest
from cluster import composed

from l2t_verl.config import ConfigError
from l2t_verl.plugin import cluster
from l2t_verl.plugin.trainer import L2TTrainerSync


def node(name: str, gpus: int, alive: bool = True) -> dict:
    resources = {"CPU": 8.0} | ({"GPU": float(gpus)} if gpus else {})
    return {"NodeID": name, "NodeName": name, "Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "enough"),
    [
        ([node("a", 8), node("b", 8)], True),
        ([node("a", 8), node("a", 8)], True),  # two on one machine
        ([node("a", 16)], True),  # verl places two groups of eight there
        ([node("a", 8), node("b", 4), node("c", 4)], False),
        ([node("a", 8), node("b", 8, alive=False)], False),
        ([node("head", 0)], False),
    ],
)
def test_gpus_are_counted_by_groups_of_a_node(nodes, enough):
    said = cluster.gpus_problem(nodes, 2, 8)
    assert (said is None) == enough
    assert enough or "trainer.nnodes=2 × trainer.n_gpus_per_node=8 GPUs are asked for" in said
    assert enough or f"({nodes[0]['NodeName']}: {nodes[0]['Resources'].get('GPU', 0):.0f}" in said


def test_a_cluster_is_refused_before_verl_places_a_worker(monkeypatch):
    trainer = L2TTrainerSync(composed("actor_rollout_ref.model.path=nowhere", "trainer.n_gpus_per_node=8"))
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [node("a", 4), node("b", 4)])
    found = {"a": "0.0.1", "b": "ModuleNotFoundError: No module named 'l2t_verl'"}
    monkeypatch.setattr(cluster, "_versions", lambda nodes: found)
    with pytest.raises(ConfigError) as refused:
        trainer._setup()
    _, gpus, versions = str(refused.value).splitlines()
    assert "(a: 4, b: 4); start the others" in gpus
    assert "a (0.0.1), b (ModuleNotFoundError: No module named 'l2t_verl'): install it there" in versions

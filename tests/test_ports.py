"""The port of a worker group: none that is ephemeral, and verl's own choice where asked."""

import socket

import pytest
from verl.single_controller.ray.base import RayWorkerGroup, get_master_addr_port

from l2t_verl.plugin.driver import ports

FIRST_EPHEMERAL = ports.first_ephemeral


def asked_for(**named) -> dict:
    """What verl's `__init__` would be given."""
    given = {}
    ports.with_range(lambda self, **rest: given.update(rest))(None, **named)
    return given


@pytest.fixture(autouse=True)
def usual(monkeypatch):
    monkeypatch.setattr(ports, "first_ephemeral", lambda: 32768)


def test_verl_takes_a_port_below_the_ephemeral_ones():
    """Its own task, asked as its worker group asks it: from one that is taken on to the next."""
    first, end = asked_for()["master_port_range"]
    assert ports.FIRST <= first < end <= ports.END
    first = int(get_master_addr_port._function(master_port_range=[first, end])[1])  # one that is free
    with socket.socket() as taken:
        taken.bind(("", first))
        _, port = get_master_addr_port._function(master_port_range=[first, end])
    assert first < int(port) < end


def test_verls_worker_groups_ask_for_it():
    assert RayWorkerGroup.__init__.__wrapped__.__module__ == RayWorkerGroup.__module__


def test_two_runs_that_start_at_once_look_in_different_places():
    assert len({asked_for()["master_port_range"][0] for _ in range(20)}) > 15


@pytest.mark.parametrize("named", [{"master_port": 29500}, {"master_port_range": [29500, 29510]}])
def test_what_is_asked_for_stays(named):
    assert asked_for(**named) == named


@pytest.mark.parametrize("said", ["1024 65535\n", "", "many\n", None])
def test_where_all_ports_are_ephemeral_or_nobody_says_verl_chooses(tmp_path, said):
    file = tmp_path / "ip_local_port_range"
    if said is not None:
        file.write_text(said)
    assert ports.free_range(FIRST_EPHEMERAL(file)) is None

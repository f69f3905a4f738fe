"""The port of a worker group: none that the kernel gives to whoever connects, and verl's own choice where asked."""

import socket

import pytest
from verl.single_controller.ray.base import RayWorkerGroup, get_master_addr_port

from l2t_verl.plugin.driver import ports


def asked_for(**named) -> dict:
    """What verl's `__init__` would be given."""
    given = {}
    ports.with_range(lambda self, **rest: given.update(rest))(None, **named)
    return given


def test_verl_takes_a_port_below_those_that_are_given_away():
    """Its own task, asked as its worker group asks it: from one that is taken on to the next."""
    first, end = asked_for()["master_port_range"]
    assert ports.FIRST <= first < end <= ports.first_given_away()
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
def test_where_the_kernel_gives_away_all_ports_or_does_not_say_verl_chooses(tmp_path, said):
    file = tmp_path / "ip_local_port_range"
    if said is not None:
        file.write_text(said)
    assert ports.free_range(ports.first_given_away(file)) is None

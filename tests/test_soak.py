"""A few of the soak's faults (tests/soak): what is killed and started again ends as what was let alone."""

import pytest
from soak import offline, training
from soak.record import Record
from tiny import write_model


@pytest.fixture
def record(tmp_path):
    write_model(tmp_path / "model")
    return Record(tmp_path / "record.json")


@pytest.mark.slow
def test_killed_tools_leave_the_files_of_those_that_were_not(tmp_path, record):
    offline.soak(tmp_path, record, kills=3, seed=0)
    assert (len(record.trials), record.failed()) == (3, [])
    offline.soak(tmp_path, record, kills=3, seed=0)
    assert len(Record(record.file).trials) == 3  # nothing is tried twice


@pytest.mark.slow
def test_a_killed_driver_goes_on_as_if_nothing_had_been(tmp_path, record):
    training.soak(tmp_path, record, kills=1, ends=0, deaths=False, seed=0)
    assert (len(record.trials), record.failed()) == (1, [])

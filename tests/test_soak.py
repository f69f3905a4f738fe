"""A few of the soak's faults (tests/soak): what is killed and started again ends as what was let alone."""

import shutil
import signal

import pytest
from soak import offline, training
from soak.record import Record
from tiny import read_jsonl, write_model

pytestmark = pytest.mark.slow


@pytest.fixture
def work(tmp_path):
    write_model(tmp_path / "model")
    return tmp_path


def test_killed_tools_leave_the_files_of_those_that_were_not(work):
    record = Record(work / "record.json")
    offline.soak(work, record, kills=5, seed=0)
    assert (len(record.trials), record.failed()) == (5, [])
    offline.soak(work, record, kills=5, seed=0)
    assert len(Record(record.file).trials) == 5  # nothing is tried twice


def test_a_driver_killed_before_its_checkpoint_counts_does_the_same_again(work):
    """In its last step, whose checkpoint is whole and which is not logged: it goes on from the one before."""
    training.prepare(work)
    checkpoints = work / "killed" / "checkpoints"
    last = checkpoints / f"global_step_{training.STEPS}"
    # the validation between the checkpoint and the log waits, so that the kill cannot come too late
    run = training.begin(work, "killed", variables={"NO_SAMPLES_WHILE": str(last)})
    held = checkpoints / training.HELD
    try:
        assert training.wait_for(run, lambda: last.exists() and held.exists()), run.tail()
        members = [member for member in run.family() if training.name_of(member) not in training.AGENTS]
        run.process.send_signal(signal.SIGKILL)
        run.process.wait(60)
        assert training.gone(members, 60) == []
    finally:
        run.end()
    assert (checkpoints / training.MARK).read_text() == str(training.STEPS - training.SAVED)
    before = shutil.copytree(run.folder, work / "before", ignore=shutil.ignore_patterns("checkpoints"))
    again = training.begin(work, "killed")
    assert training.finish(again) == 0, again.tail()
    assert [row["step"] for row in read_jsonl(again.folder / "metrics.jsonl")] == list(range(1, training.STEPS + 1))
    assert training.differing_steps(again.folder, before, training.STEPS - 1) == []
    assert (checkpoints / training.MARK).read_text() == str(training.STEPS)
    assert training.secrets_in(again.folder) == []

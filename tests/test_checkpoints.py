"""Which checkpoints stay, what they take, and a disk that cannot hold them; the files are real, verl's saving is not."""

import contextlib
import errno
import json
import resource
import shutil
import signal
from collections import namedtuple
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from cluster import composed
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.tracking import Tracking

from l2t_verl.config import ConfigError
from l2t_verl.plugin import stopping
from l2t_verl.plugin.driver import checkpoints, continued
from l2t_verl.plugin.driver.trainer import STATE_FILE, L2TTrainerSync
from recipes import arithmetic, disk, launch
from recipes.checks import problems_of

QWEN_7B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def steps_in(folder) -> list[int]:
    return sorted(int(path.name.removeprefix("global_step_")) for path in folder.glob("global_step_*"))


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A trainer whose verl writes a small folder, and whose validations give what they are told."""
    folder = tmp_path / "checkpoints"

    def save(self) -> None:
        (folder / f"global_step_{self.global_steps}" / "actor").mkdir(parents=True)
        (folder / checkpoints.MARK).write_text(str(self.global_steps))

    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save)
    monkeypatch.setattr(PPOTrainerSync, "_validate", lambda self: {"val-core/x/acc/mean@4": self.told, "val-aux/n/min": 1.0})

    def made(*overrides: str) -> L2TTrainerSync:
        options = ["actor_rollout_ref.model.path=nowhere", f"trainer.default_local_dir={folder}"]
        return L2TTrainerSync(composed(*options, *overrides))

    return made


def train(trainer: L2TTrainerSync, scores: dict[int, float]) -> None:
    trainer._dump_futures = []
    for trainer.global_steps, trainer.told in scores.items():
        trainer._save_checkpoint()
        trainer._validate()
        trainer.on_step_begin()  # of the next one: this one is logged


def test_the_last_two_and_the_best_by_validation_stay(trainer, tmp_path):
    folder = tmp_path / "checkpoints"
    train(trainer("+algorithm.l2t.checkpoints.keep_last=2"), {10: 0.2, 20: 0.6, 30: 0.5, 40: 0.4})
    assert steps_in(folder) == [20, 30, 40]
    # another process goes on: what was best, and what is old, is known from the disk
    train(trainer("+algorithm.l2t.checkpoints.keep_last=2"), {50: 0.1, 60: 0.7, 70: 0.3, 80: float("nan")})
    assert steps_in(folder) == [60, 70, 80]
    assert json.loads((folder / checkpoints.SCORES_FILE).read_text())["20"] == 0.6
    assert not list(folder.glob("*.partial"))
    train(trainer(), {90: 0.1, 100: 0.1})
    assert steps_in(folder) == [60, 70, 80, 90, 100]  # without the setting nothing goes


def test_a_checkpoint_counts_when_its_step_is_logged_and_dumped(trainer, tmp_path):
    """verl marks it before it validates and logs: a run killed in between would go on behind a step that nobody knows of."""
    folder, run = tmp_path / "checkpoints", trainer("+algorithm.l2t.checkpoints.keep_last=1")
    dumping = Future()
    run.told, run._dump_futures = 0.5, [dumping]
    run.global_steps = 10
    run._save_checkpoint()
    assert checkpoints.marked(folder) is None
    dumping.set_result(None)
    run.on_step_begin()
    assert checkpoints.marked(folder) == "10"
    run.global_steps = 20
    run._save_checkpoint()
    run._validate()
    assert (checkpoints.marked(folder), steps_in(folder)) == ("10", [10, 20])
    run.on_step_begin()
    assert (checkpoints.marked(folder), steps_in(folder)) == ("20", [20])
    only_one = trainer("trainer.max_actor_ckpt_to_keep=1")  # verl has removed the one before by then
    only_one.global_steps = 30
    only_one._save_checkpoint()
    assert checkpoints.marked(folder) == "30"


def test_a_rollout_dump_that_fails_leaves_the_step_uncounted(trainer, tmp_path):
    run = trainer()
    full = Future()
    full.set_exception(OSError(errno.ENOSPC, "No space left on device"))
    run.global_steps, run._dump_futures = 10, [full]
    run._save_checkpoint()
    with pytest.raises(OSError, match="No space left"):
        run.on_step_begin()
    assert checkpoints.marked(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("said", ["", "1", "9\x00", "²", "no number"])
def test_a_mark_that_a_full_disk_left_empty_names_the_newest_whole_checkpoint(tmp_path, said, caplog):
    for step in (9, 10, 11):
        (tmp_path / f"global_step_{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"global_step_{step}" / checkpoints.LAST_WRITTEN).write_text("x")
    (tmp_path / checkpoints.MARK).write_text(said)
    checkpoints.mend_mark(tmp_path)
    assert checkpoints.marked(tmp_path) == "10"
    assert "goes on from step 10" in caplog.text
    (tmp_path / checkpoints.MARK).write_text("9")
    checkpoints.mend_mark(tmp_path)
    assert checkpoints.marked(tmp_path) == "9"  # it names one


def test_a_mark_without_any_checkpoint_is_no_reason_to_begin_anew_without_a_word(tmp_path):
    checkpoints.mend_mark(tmp_path)  # a fresh run
    (tmp_path / checkpoints.MARK).write_text("30")
    with pytest.raises(checkpoints.CheckpointError, match=r"names no checkpoint .*remove the file to begin anew"):
        checkpoints.mend_mark(tmp_path)


@pytest.mark.parametrize("state", ["", "{", "[]", '{"version": "1"}', '{"length_cost": "x"}'])
def test_a_foreign_checkpoint_is_refused_with_the_way_on(trainer, tmp_path, monkeypatch, state):
    def load(self):
        self.global_steps = 7

    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", load)
    folder = tmp_path / "checkpoints" / "global_step_7"
    folder.mkdir(parents=True)
    (folder / STATE_FILE).write_text(state)
    with pytest.raises(checkpoints.CheckpointError, match=r"step 7 cannot be loaded: .*trainer\.resume_from_path"):
        trainer("algorithm.l2t.beta=0")._load_checkpoint()


def rows(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "data": {"x": step}}) + "\n" for step in steps)


def test_metrics_before_a_restart_stand_in_the_file_once(tmp_path):
    """verl empties it: the rows up to the checkpoint are given back, those after it are done again, half a line is none."""
    file = tmp_path / "metrics.jsonl"
    file.write_text(rows(1, 2, 3) + '{"step": 4, "da')
    continued.set_aside(file, 2)
    file.write_text("")  # verl, and a kill before it trained
    continued.set_aside(file, 2)
    with open(file, "wb", buffering=0) as written:
        continued.give_back(file, written.write)
        written.write(rows(3).encode())
    assert file.read_text() == rows(1, 2, 3)
    continued.set_aside(file, 0)  # nothing is kept of a run that begins anew
    assert list(tmp_path.iterdir()) == [file]


@contextlib.contextmanager
def room_for(size: int):
    """A disk with room for so many bytes of a file: the kernel takes them, and refuses what comes behind."""
    before, (soft, hard) = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_does_not_cut_a_row_short_without_a_word(trainer, tmp_path, monkeypatch):
    """verl's logger writes to the file as it is, and does not look at how much of it was taken."""
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    training, row = trainer("trainer.logger=[file]"), {"x": 0.123456789}
    training.logger = Tracking("a project", "a run", ["file"], {})
    with room_for(10):
        training.logger.log(row, 1)
    assert (tmp_path / "metrics.jsonl").stat().st_size == 10
    training.logger = Tracking("a project", "a run", ["file"], {})
    training.on_train_begin()
    with room_for(10), pytest.raises(OSError, match=r"metrics: .*metrics\.jsonl"):
        training.logger.log(row, 1)
    training.logger.finish()


def test_rollouts_that_find_no_room_are_named(trainer, tmp_path):
    long = ["x" * 20_000]  # more than Python keeps back
    with room_for(10), pytest.raises(OSError, match=r"rollouts of step 3: .*dumped"):
        trainer()._write_generations(long, long, long, [0.0], {}, str(tmp_path / "dumped"), 3)


def test_the_file_of_metrics_is_the_one_that_verl_s_logger_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    for named in (None, str(tmp_path / "metrics.jsonl")):
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", named) if named else monkeypatch.delenv("VERL_FILE_LOGGER_PATH", False)
        settings = composed().trainer
        expected = continued.file_of_metrics(settings)
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(rows(1))
        tracking = Tracking(settings.project_name, settings.experiment_name, "file", {})
        assert expected.read_text() == ""
        tracking.logger["file"].fp.write(b"x")
        assert expected.read_text() == "x"
        tracking.finish()
    assert continued.file_of_metrics(composed("trainer.logger=[console]").trainer) is None


def test_a_run_that_is_asked_to_end_is_saved_once_and_this_step_is_its_last(trainer, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(stopping, "asked", lambda: bool(asked))
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    run = trainer()
    run.total_training_steps, run._dump_futures = 100, []
    run.global_steps = 7
    run.on_step_end()
    assert (run.total_training_steps, steps_in(tmp_path / "checkpoints")) == (100, [])
    asked.append(True)
    run.on_step_end()
    assert (run.total_training_steps, steps_in(tmp_path / "checkpoints")) == (7, [7])


def test_sigterm_asks_a_trainer_that_listens_and_ends_anything_else(monkeypatch, capfd):
    kept, ended = {}, []
    store = SimpleNamespace(
        _internal_kv_put=kept.__setitem__, _internal_kv_get=kept.get, _internal_kv_del=lambda key: kept.pop(key, None)
    )
    monkeypatch.setattr(stopping, "_store", lambda: store)
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(1))  # Ray's own, which ends the process
    try:
        stopping._handle()
        signal.raise_signal(signal.SIGTERM)  # nobody listens
        assert len(ended) == 1
        stopping._handle()
        stopping.listen()
        assert not stopping.asked()
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked()
        assert "ends with a checkpoint after this step" in capfd.readouterr().err
        assert len(ended) == 1
        signal.raise_signal(signal.SIGTERM)
        assert len(ended) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_verl_would_resume_from_stays_and_what_was_half_removed_goes(tmp_path):
    for step in (10, 20, 30, 40):
        (tmp_path / f"global_step_{step}").mkdir()
    (tmp_path / f"global_step_5{checkpoints.REMOVED}").mkdir()
    (tmp_path / checkpoints.MARK).write_text("10")  # the others are still being written
    assert checkpoints.remove_others(tmp_path, last=2) == [20]
    assert steps_in(tmp_path) == [10, 30, 40]


def test_a_validation_without_a_number_chooses_nothing():
    assert checkpoints.validation_score({"val-aux/a/acc/mean@4": 1.0}) is None
    assert checkpoints.validation_score({"val-core/a/acc/mean@4": float("nan")}) is None


def test_both_ways_to_keep_are_not_set_at_once(trainer):
    with pytest.raises(ValueError, match=r"keep_last and verl's trainer\.max_actor_ckpt_to_keep are both set"):
        trainer("+algorithm.l2t.checkpoints.keep_last=2", "trainer.max_actor_ckpt_to_keep=2")


def test_sizes_are_those_of_real_files(tmp_path):
    """A tiny model's weights and moments as torch writes them; and a 7B arm's checkpoints, all of which were 1.4 TB."""
    import torch
    from tiny import write_model

    folder = write_model(tmp_path / "model")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    torch.save(list(model.parameters()), tmp_path / "model.pt")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    written = sum((tmp_path / name).stat().st_size for name in ("model.pt", "optimizer.pt"))
    counted = disk.checkpoint_size(arithmetic.shape_of(str(folder)), ["model", "optimizer", "extra"])
    assert counted == pytest.approx(written, rel=0.03)
    assert 15 * disk.checkpoint_size(arithmetic.MODELS[QWEN_7B], ["model", "optimizer", "extra"]) == pytest.approx(
        1.4e12, rel=0.03
    )


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_cannot_hold_them_is_refused_at_the_launch_and_said_in_the_dry_run(tmp_path, monkeypatch, capsys):
    words = ["launch", "r1_distill_7b", "l2t", f"trainer.default_local_dir={tmp_path / 'run' / 'checkpoints'}"]
    monkeypatch.setattr(launch, "attention_problem", lambda config: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2e12, 1.9e12, 300e9))
    monkeypatch.setattr("sys.argv", [*words, "--dry-run"])
    launch.main()
    out = capsys.readouterr().out
    assert "checkpoints: one every 10 steps, of 91.4 GB, at most 4 at once: 365.5 GB in" in out
    assert f"note: the disk of {tmp_path} has 300.0 GB for checkpoints, but 4 of 91.4 GB lie there at once" in out
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(
        SystemExit, match=r"launch: the disk of .*set trainer\.default_local_dir to a folder on a larger disk"
    ):
        launch.main()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2e12, 1e12, 1e12))
    monkeypatch.setattr("sys.argv", [*words, "--dry-run"])
    launch.main()
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "most"),
    [
        ([], 4),
        (["algorithm.l2t.checkpoints.keep_last=1"], 3),
        (["algorithm.l2t.checkpoints.keep_last=null"], None),
        (["algorithm.l2t.checkpoints.keep_last=null", "trainer.max_actor_ckpt_to_keep=2"], 3),
        (["trainer.total_training_steps=20"], 2),
        (["trainer.save_freq=-1"], 0),
    ],
)
def test_how_many_lie_there_at_once(overrides, most):
    assert disk.most_at_once(launch.composed("r1_distill_7b", overrides)) == most


@pytest.mark.parametrize("resume", [[], ["trainer.resume_mode=resume_path"]])
def test_a_checkpoint_of_another_world_size_is_refused_before_anything_starts(tmp_path, resume):
    folder = tmp_path / "global_step_7" / "actor"
    folder.mkdir(parents=True)
    for rank in range(2):
        (folder / f"model_world_size_2_rank_{rank}.pt").write_text("")
    (tmp_path / checkpoints.MARK).write_text("7")
    options = ["actor_rollout_ref.model.path=nowhere", f"trainer.default_local_dir={tmp_path}", *resume]
    options += [f"trainer.resume_from_path={folder.parent}"] * bool(resume)
    with pytest.raises(
        ConfigError, match=r"global_step_7 was written by 2 GPUs, but .* are 1: take as many as then, or begin"
    ):
        L2TTrainerSync(composed(*options))
    L2TTrainerSync(composed(*options, "trainer.n_gpus_per_node=2"))
    L2TTrainerSync(composed(*options[:2], "trainer.resume_mode=disable"))
    said = problems_of(launch.composed("gsm8k_3b", [f"trainer.default_local_dir={tmp_path}"]), 80 * arithmetic.GIB)
    assert [line for line in said if "was written by 2 GPUs" in line] == said

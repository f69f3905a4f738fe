"""Which checkpoints stay, what they take, and a disk that cannot hold them; the files are real, verl's saving is not."""

import json
import shutil
from collections import namedtuple

import pytest
from cluster import composed
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from l2t_verl.config import ConfigError
from l2t_verl.plugin.driver import checkpoints
from l2t_verl.plugin.driver.trainer import L2TTrainerSync
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
    for trainer.global_steps, trainer.told in scores.items():
        trainer._save_checkpoint()
        trainer._validate()


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

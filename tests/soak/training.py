"""Stock main_ppo on a tiny model, killed at random moments and started again, beside one that was not; and its parts killed.

A kill is `kill -9` of the driver: after a random share of the training's time, while a checkpoint is being written, or after
it and before the log of its step. A run is killed several times before it is let go on to its end, each time later. A full
disk is a small one in memory.
"""

import contextlib
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from cluster import Run, start
from soak.record import Record
from tiny import read_jsonl, write_data

from l2t_verl.plugin.driver.checkpoints import HELD, MARK

TESTS = Path(__file__).parents[1].resolve()
STEPS, SAVED, AT_ONCE = 4, 2, 4  # a run has so many steps, a checkpoint each so many, and so many kills
# Of tensors, as a share of their largest entry, and of metrics: rollouts come in any order, and Adam makes whole steps of
# what rounding leaves of a gradient near 0. Two runs that nobody stopped were 1.5e-4 apart.
APART = 1e-3
TRAINS = "weight update checked"
SETTINGS = [
    "actor_rollout_ref.actor.optim.lr=1e-3",
    f"trainer.save_freq={SAVED}",
    f"trainer.test_freq={SAVED}",
    "actor_rollout_ref.rollout.val_kwargs.n=1",
    "actor_rollout_ref.rollout.agent.default_agent_loop=seeded",
    f"reward.custom_reward_function.path={TESTS / 'two_turns.py'}",
    "reward.custom_reward_function.name=share_of_vowels",  # an outcome that moves λ
    "+algorithm.l2t.credit.token_budget=20",
    "+algorithm.l2t.credit.length_cost=0.5",
    "algorithm.l2t.diagnostics.compare_grpo=False",
]
SECRETS = {"WANDB_API_KEY": "marked-secret-wandb", "HF_TOKEN": "marked-secret-hub", "OPENAI_API_KEY": "marked-secret-openai"}
# Of a metric's name: what a clock or a scheduler decides, and no seed
BY_CHANCE = re.compile(r"timing|time|perf/|memory|throughput|num_preempted|staleness|_bubble|mfu|/cpu|weight_sync|wait")
PARTS = {  # name or command line of a part's process
    "vLLM's engine": "VLLM::EngineCor",
    "vLLM's server": "vLLMHttpServer",
    "the actor's worker": "WorkerDict",
    "the reward worker": "RewardLoopWorker",
    "the agent-loop worker": "AgentLoopWorker",
    "a grading process": "multiprocessing.spawn",
    "a storage unit of the TransferQueue": "SimpleStorageUnit",
    "the TransferQueue's controller": "TransferQueueController",
    "the raylet": "raylet/raylet",
    "Ray's store": "gcs_server",
}
AGENTS = {"ray::RuntimeEnvAgent", "ray::DashboardAgent"}  # Ray's own; a minute after the driver they were still there
BUSY, TRIES = "timed out during startup", 3  # what Ray says where a machine is so busy that it gives up; starts, then
LONGEST = 600.0  # seconds of a start with its training
SOON = 60.0  # seconds within which a death is to end a run
PAGE = 4096  # bytes, of which a disk in memory has a whole number


def prepare(work: Path) -> None:
    write_data(work / "data", rows=6)  # three steps: the fourth is in the second epoch
    (work / "agents.yaml").write_text(json.dumps([{"name": "seeded", "_target_": "seeded.Seeded"}]))


def begin(work: Path, name: str, steps: int = STEPS, *overrides: str, variables: dict[str, str] | None = None) -> Run:
    data = work / "data" / "train.parquet", work / "data" / "val.parquet"
    agents = f"actor_rollout_ref.rollout.agent.agent_loop_config_path={work / 'agents.yaml'}"
    return start(
        work / name, work / "model", data, steps, *SETTINGS, agents, *overrides, variables=SECRETS | (variables or {})
    )


def wait_for(run: Run, is_there, seconds: float = LONGEST) -> bool:
    """Wait for something; whether it came before the run's end."""
    end = time.monotonic() + seconds
    while not is_there():
        if run.process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def name_of(process: psutil.Process) -> str:
    """Its name; empty where it has ended."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def gone(members: list[psutil.Process], seconds: float) -> list[str]:
    """Wait for processes to end; the names of those that do not, which are ended then."""
    _, alive = psutil.wait_procs(members, timeout=seconds)
    names = [name for member in alive if (name := name_of(member))]
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    return names


def finish(run: Run) -> int:
    """Let a run come to its end; nothing of it stays."""
    end = time.monotonic() + LONGEST
    members = run.family()
    while run.process.poll() is None and time.monotonic() < end:
        members = run.family() or members
        time.sleep(0.5)
    run.end()
    gone(members, 30)
    return run.process.returncode


def let_alone(work: Path, name: str, variables: dict[str, str] | None = None) -> str:
    """Start a run and let it come to its end; with what it fails, if it does."""
    for _ in range(TRIES):
        run = begin(work, name, variables=variables)
        if not (status := finish(run)):
            return ""
        if BUSY not in run.tail():
            break
    return f"status {status}: {run.tail()[-500:]}"


# ---- what a run leaves


def tensors(path: Path) -> dict:
    import torch

    flat, todo = {}, [("", torch.load(path, weights_only=False, map_location="cpu"))]
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{name}/{key}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            todo += [(f"{name}/{key}", item) for key, item in enumerate(value)]
        else:
            flat[name] = value.to_local() if hasattr(value, "to_local") else value
    return flat


def apart(one: Path, other: Path) -> float:
    """The largest difference of two files of tensors, as a share of the largest entry; inf where they hold other things."""
    import torch

    a, b = tensors(one), tensors(other)
    if a.keys() != b.keys():
        return math.inf
    worst = 0.0
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            scale = max(1e-8, value.double().abs().max().item() if value.numel() else 0.0)
            worst = max(worst, (value.double() - b[name].double()).abs().max().item() / scale if value.numel() else 0.0)
        elif isinstance(value, (int, float, str)) and value != b[name]:
            return math.inf
    return worst


def rollouts(folder: Path) -> dict[int, list]:
    """Each step's rollouts, without their names, which are random, in an order of their own."""
    return {
        int(file.stem): sorted(
            json.dumps([row["input"], row["output"], row["gts"], round(row["score"], 4)])
            for row in read_jsonl(file)
            if row.get("l2t")  # the rest is verl's padding
        )
        for file in sorted((folder / "rollouts").glob("*.jsonl"))
    }


def differences(folder: Path, whole: Path) -> list[str]:
    """In what a run differs from one that was not stopped."""
    found = []
    marks = [(path / "checkpoints" / MARK).read_text() for path in (folder, whole)]
    if marks[0] != marks[1]:
        return [f"its last checkpoint is {marks[0]!r}"]
    last = f"checkpoints/global_step_{marks[0]}"
    for name in ("model", "optim"):
        worst = apart(*(path / last / "actor" / f"{name}_world_size_1_rank_0.pt" for path in (folder, whole)))
        if worst > APART:
            found.append(f"{name} by {worst:.1e}")
    ours, theirs = (json.loads((path / last / "l2t_state.json").read_text())["length_cost"] for path in (folder, whole))
    if any(abs(ours[name] - theirs[name]) > 1e-9 for name in theirs):
        found.append(f"λ {ours} for {theirs}")
    if apart(folder / last / "data.pt", whole / last / "data.pt") > 0:
        found.append("data.pt")
    return found + differing_steps(folder, whole, STEPS)


def differing_steps(folder: Path, whole: Path, steps: int) -> list[str]:
    """In what the metrics and rollouts of the first steps differ; a row that is lost or double is a difference."""
    found = []
    ours, theirs = ([row for row in read_jsonl(path / "metrics.jsonl") if row["step"] <= steps] for path in (folder, whole))
    wanted = list(range(1, steps + 1))
    if not [row["step"] for row in ours] == [row["step"] for row in theirs] == wanted:
        found.append(f"metrics of the steps {[row['step'] for row in ours]}")
    else:
        for row, other in zip(ours, theirs, strict=True):
            names = {name for name in {*row["data"], *other["data"]} if not BY_CHANCE.search(name)}
            values = {name: (row["data"].get(name), other["data"].get(name)) for name in names}
            wrong = [name for name, (a, b) in values.items() if not close(a, b)]
            found += [f"step {row['step']}: {name} {values[name]}" for name in sorted(wrong)[:3]]
    ours, theirs = rollouts(folder), rollouts(whole)
    return found + [
        f"rollouts of step {step}" for step in wanted if ours.get(step) is None or ours[step] != theirs.get(step)
    ]


def close(a: object, b: object) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=APART, abs_tol=APART) or (math.isnan(a) and math.isnan(b))
    return a == b


def secrets_in(folder: Path) -> list[str]:
    """Files of a run that hold a secret of its environment."""
    marks = [value.encode() for value in SECRETS.values()]
    texts = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".pt", ".safetensors")]
    return [str(path) for path in texts if any(mark in path.read_bytes() for mark in marks)]


# ---- faults


def moment_of(run: Run, draw: random.Random, seconds: float) -> str:
    """Wait for a random moment of the training; what it is."""
    folder, since = run.folder / "checkpoints", time.time()
    is_new = lambda path: path.exists() and path.stat().st_mtime > since  # noqa: E731 - an earlier start may have left one
    done = int((folder / MARK).read_text()) if (folder / MARK).exists() else 0
    kind, delay = draw.choice(("time", "time", "checkpoint", "mark")), draw.choice((0.0, 0.02, 0.1, 0.5))
    if kind == "time":
        left = seconds * (STEPS - done) / STEPS
        delay = draw.uniform(0.0, left)
        text = f"{delay:.1f} s of {left:.0f} after training began"
    elif kind == "checkpoint":
        wait_for(run, lambda: is_new(folder / f"global_step_{done + SAVED}" / "actor"))
        text = f"{delay:.2f} s after step {done + SAVED}'s checkpoint was begun"
    else:
        wait_for(run, lambda: is_new(folder / HELD))
        text = f"{delay:.2f} s after step {done + SAVED}'s checkpoint was whole and its step not logged"
    time.sleep(delay)
    return f"{text}, behind step {done}; {len(run.metrics())} steps were logged"


def stop(run: Run, draw: random.Random, starts: int, seconds: float, sign: int) -> tuple[str, str]:
    """Stop a run at a random moment of its training; which that was, and what went wrong.

    Args:
        run: that has just been started.
        draw: of the moment.
        starts: of this run, this one included.
        seconds: that training takes from its first step to its last.
        sign: the signal.
    """
    try:
        if not wait_for(run, lambda: run.log.count(TRAINS) >= starts):
            return "while it starts", f"start {starts} ended: {run.tail()[-500:]}"
        text = moment_of(run, draw, seconds)
        members = [member for member in run.family() if name_of(member) not in AGENTS]
        if run.process.poll() is not None:
            return text + " (it was over)", ""
        run.process.send_signal(sign)
        since = time.monotonic()
        status = run.process.wait(LONGEST)
        if sign == signal.SIGTERM and (status or not (run.folder / "checkpoints" / MARK).exists()):
            return text, f"it ended with {status} after SIGTERM: {run.tail()[-500:]}"
        left = gone(members, SOON)
        text += f"; all was gone after {time.monotonic() - since:.0f} s"
        return text, f"left behind: {left}" if left else ""
    finally:
        run.end()


def stopped(work: Path, whole: Path, name: str, times: int, seconds: float, sign: int) -> tuple[list[str], str]:
    """A run that is stopped and started again some times: when, and what became of it."""
    draw, moments = random.Random(name), []
    shutil.rmtree(work / name, ignore_errors=True)
    for number in range(times):
        for _ in range(TRIES):
            moment, wrong = stop(begin(work, name), draw, number + 1, seconds, sign)
            if BUSY not in wrong:
                break
        moments.append(moment)
        if wrong:
            return moments, f"FAILS: {wrong}"
    if fault := let_alone(work, name):
        return moments, f"FAILS: the last start ended with {fault}"
    found = differences(work / name, whole) + [f"a secret in {path}" for path in secrets_in(work / name)]
    if found:
        return moments, f"DIFFERS: {'; '.join(found)}"
    shutil.rmtree(work / name)
    return moments, "equal"


def death(work: Path, part: str) -> str:
    """A long run one of whose parts is killed."""
    name = "death-" + re.sub(r"\W+", "-", part)
    shutil.rmtree(work / name, ignore_errors=True)
    grading = ["reward.custom_reward_function.path=null"] if part == "a grading process" else []
    run = begin(work, name, 500, "trainer.save_freq=-1", "trainer.test_freq=-1", *grading)
    try:
        if not wait_for(run, lambda: len(run.metrics()) >= 1):
            return f"FAILS: {run.tail()[-500:]}"
        members = run.family()
        pattern = PARTS[part]
        victims = [member for member in members if pattern in name_of(member) + " ".join(member.cmdline())]
        if not victims:
            return f"FAILS: no process of this name among {sorted({name_of(member) for member in members})}"
        victims[-1].kill()
        since, steps = time.monotonic(), len(run.metrics())
        while run.process.poll() is None and time.monotonic() - since < SOON + 30:
            if len(run.metrics()) >= steps + 3:
                return f"survived: {len(run.metrics()) - steps} more steps in {time.monotonic() - since:.0f} s"
            time.sleep(0.2)
        taken = time.monotonic() - since
        if run.process.poll() is None:
            return f"HANGS: no end and no step for {taken:.0f} s"
        said = run.tail().splitlines()[-1][:300]
        if left := gone([member for member in members if name_of(member) not in AGENTS], SOON):
            return f"LEFT BEHIND: {left}; it ended after {taken:.0f} s: {said}"
        late = "" if taken <= SOON else "LATE: "
        return f"{late}ended after {taken:.0f} s with status {run.process.returncode}: {said}"
    finally:
        members = run.family()
        run.end()
        gone(members, 30)
        shutil.rmtree(work / name / "checkpoints", ignore_errors=True)


def full_disk(work: Path, whole: Path, written: str, seed: int) -> tuple[str, str]:
    """A run whose metrics or rollouts are on a disk that gets full, and that goes on once there is room.

    Args:
        work: folder for what is written.
        whole: a run that had room.
        written: `metrics` or `rollouts`.
        seed: of the disk's size.

    Returns:
        How much room there was, and what became of it.
    """
    name = f"no-room-for-{written}-{seed}"
    disk = work / name / written
    of_whole = [whole / "metrics.jsonl"] if written == "metrics" else sorted((whole / "rollouts").iterdir())
    wanted = sum(-(-file.stat().st_size // PAGE) for file in of_whole)
    pages = random.Random(name).randint(1, wanted - 1)
    moment = f"with room for {pages} of {wanted} pages"
    variables = {"VERL_FILE_LOGGER_PATH": str(disk / "metrics.jsonl")} if written == "metrics" else {}
    shutil.rmtree(work / name, ignore_errors=True)
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", str(disk)], check=True)
    try:
        run = begin(work, name, variables=variables)
        since = time.monotonic()
        if not finish(run):
            return moment, "FAILS: it ended as if nothing were lost"
        said = run.tail()[-300:].splitlines()[-1]
        if os.strerror(errno.ENOSPC) not in said:
            return moment, f"FAILS: it ended with {said}"
        if str(disk) not in said:
            return moment, f"FAILS: it does not say where: {said}"
        said = said.replace(f"{work}/", "")
        moment += f": ended {time.monotonic() - since:.0f} s after its start with {said}"
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        if fault := let_alone(work, name, variables):
            return moment, f"FAILS: with room it ended with {fault}"
        if written == "metrics":
            shutil.copy(disk / "metrics.jsonl", work / name)
        found = differences(work / name, whole)
        return moment, f"DIFFERS: {'; '.join(found)}" if found else "equal"
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def uninterrupted(work: Path) -> tuple[Path, float]:
    """The run that the others are compared with, and the seconds that it trained."""
    kept, whole = work / "whole.json", work / "whole"
    if not kept.exists():
        shutil.rmtree(whole, ignore_errors=True)
        run = begin(work, whole.name)
        if not wait_for(run, lambda: TRAINS in run.log):
            sys.exit(f"the run does not start: {run.tail()}")
        since = time.monotonic()
        if finish(run):
            sys.exit(f"the run fails: {run.tail()}")
        kept.write_text(json.dumps({"seconds": time.monotonic() - since}))
    return whole, json.loads(kept.read_text())["seconds"]


def soak(work: Path, record: Record, *, kills: int, ends: int, deaths: bool, disks: int, seed: int) -> None:
    """Stop runs, kill their parts and fill their disks, as often as the record has not yet; one cluster at a time.

    Args:
        work: folder for what is written.
        record: of the trials.
        kills: of the driver, counted from the seed; `AT_ONCE` of them are of one run.
        ends: SIGTERMs.
        deaths: whether each part is killed once.
        disks: that get full, for metrics and for rollouts in turn; root alone can make one.
        seed: of the first.
    """
    prepare(work)
    for fault, sign, count, at_once in (("SIGTERM", signal.SIGTERM, ends, 1), ("kill -9", signal.SIGKILL, kills, AT_ONCE)):
        what = f"the driver, {fault}"
        for first in range(seed, seed + count, at_once):
            seeds = range(first, min(first + at_once, seed + count))
            if all(record.has(what, number) for number in seeds):
                continue
            whole, seconds = uninterrupted(work)
            name = f"{fault.replace(' ', '')}-{first}"
            moments, outcome = stopped(work, whole, name, len(seeds), seconds, sign)
            for number, moment in zip(seeds, moments, strict=False):  # as far as it came
                record.add(what, number, fault, moment, outcome)
    for part in PARTS if deaths else ():
        if not record.has(part, 0):
            record.add(part, 0, "kill -9", "after the first step", death(work, part))
    for number in range(seed, seed + disks):
        written = ("metrics", "rollouts")[number % 2]
        if not record.has(what := f"a training's {written}", number):
            moment, outcome = full_disk(work, uninterrupted(work)[0], written, number)
            record.add(what, number, "no room", moment, outcome)

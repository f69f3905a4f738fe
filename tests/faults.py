"""Breaks a copy of the code on purpose, in each package and as it was broken once; says which fast tests see it.

    python tests/faults.py             each fault against the files that are meant to see it: minutes
    python tests/faults.py --whole     against the whole fast suite, until its first failure

Exit status 1 where a fault is seen by none.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.resolve()


class Fault(NamedTuple):
    """What is broken: in `file`, `now` becomes `then`; `tests` are meant to see it."""

    what: str
    file: str
    now: str
    then: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "the step that states the answer counts as one before it",
        "l2t_verl/preflight/seen.py",
        "k < stated",
        "k <= stated",
        ("tests/test_preflight.py",),
    ),
    Fault(
        "an episode of exactly the least length is merged",
        "l2t_verl/episodes/limits.py",
        ">= min_episode_tokens",
        "> min_episode_tokens",
        ("tests/test_episodes.py", "tests/test_episodes_properties.py"),
    ),
    Fault(
        "gains are taken from the start instead of the episode before",
        "l2t_verl/gain/differences.py",
        "scores[..., 1:] - scores[..., :-1]",
        "scores[..., 1:] - scores[..., :1]",
        ("tests/test_gain.py",),
    ),
    Fault(
        "a tool's tokens count in the penalty",
        "l2t_verl/compression/penalty.py",
        "ids = torch.where(response_mask > 0, episode_ids, -1)",
        "ids = episode_ids",
        ("tests/test_compression.py",),
    ),
    Fault(
        "the penalty counts where none is right",
        "l2t_verl/credit/groups.py",
        "torch.where(spared[:, None], process + cost.double(), process)",
        "process",
        ("tests/test_estimator.py",),
    ),
    Fault(
        "a worker that was still starting when training began is not watched",
        "l2t_verl/plugin/driver/liveness.py",
        'if actor["State"] != "DEAD") if only_present',
        'if actor["State"] == "ALIVE") if only_present',
        ("tests/test_liveness.py",),
    ),
    Fault(
        "a rollout's length is compared with its own, too",
        "l2t_verl/credit/length_price.py",
        "((own.sum(dim=0) - own) /",
        "(own.sum(dim=0) /",
        ("tests/test_credit.py", "tests/test_credit_properties.py"),
    ),
    Fault(
        "LASER-D expects a part of a right response",
        "l2t_verl/credit/baselines/laser_d.py",
        "2 * sizes // 3",
        "2 * sizes / 3",
        ("tests/test_credit_properties.py",),
    ),
    Fault(
        "a wrong response that is too long is forgiven",
        "l2t_verl/credit/baselines/truncation.py",
        ".clamp_max(0)",
        " * 0",
        ("tests/test_credit_properties.py",),
    ),
    Fault(
        "each copy of a split context gives its log-probs again",
        "l2t_verl/packing/rows.py",
        "first=self.first if i == 0 else None",
        "first=self.first",
        ("tests/test_packed.py",),
    ),
    Fault(
        "verl's padding rows enter the groups",
        "l2t_verl/plugin/driver/estimator.py",
        "rows = (~context.is_padding).nonzero().flatten()",
        "rows = torch.arange(len(context.is_padding))",
        ("tests/test_estimator.py",),
    ),
    Fault(
        "the sandbox refuses no system call",
        "l2t_verl/sandbox/seccomp.py",
        "for number in filter(None, refused):",
        "for number in ():",
        ("tests/test_sandbox.py",),
    ),
    Fault(
        "near duplicates look further apart than they are",
        "l2t_verl/data/duplicates.py",
        "(len(own) + self._sizes[position] - n)",
        "(len(own) + self._sizes[position])",
        ("l2t_verl/data", "tests/test_data.py"),
    ),
    Fault(
        "no answer is a vote",
        "l2t_verl/evaluate/statistics.py",
        "if answer is not None)",
        ")",
        ("l2t_verl/evaluate", "tests/test_evaluate.py"),
    ),
    Fault(
        "J is drawn upside down",
        "l2t_verl/inspector/sparkline.py",
        "HEIGHT * (1 - (score - self.low) / height)",
        "HEIGHT * ((score - self.low) / height)",
        ("l2t_verl/inspector", "tests/test_inspect_page.py"),
    ),
    Fault(
        "of a step done twice the first is shown",
        "l2t_verl/report/runs.py",
        "default=0), start[2].stat().st_mtime))",
        "default=0), start[2].stat().st_mtime), reverse=True)",
        ("tests/test_report.py",),
    ),
    Fault(
        "memory is pinned where there is no GPU",
        "patches/unpinned_offload.py",
        "return policy(pin_memory=False)",
        "return policy(pin_memory=pin_memory)",
        ("tests/test_patches.py",),
    ),
    Fault(
        "batches that cannot be divided are let through",
        "recipes/checks.py",
        "problems += _batches(config, model)",
        "",
        ("tests/test_recipes.py",),
    ),
    # from here on, what went wrong once on GPUs and clusters
    Fault(
        "the pins of the stack for GPUs are not there",
        "recipes/setup.sh",
        "constraints=$root/constraints-$kind.txt",
        "constraints=$root/pins-$kind.txt",
        ("tests/test_setup_script.py",),
    ),
    Fault(
        "a rank without output goes while the others make further calls",
        "l2t_verl/plugin/workers/collectives.py",
        "has_output = output is not None  # the same in every call",
        "has_output = output is not None\n        if not has_output:\n            return None",
        ("tests/test_collectives.py", "tests/test_ulysses.py"),
    ),
    Fault(
        "Slurm's step gets one CPU",
        "recipes/slurm.sh",
        'on=(srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" -w)',
        "on=(srun --overlap --nodes=1 --ntasks=1 -w)",
        ("tests/test_slurm_script.py",),
    ),
    Fault(
        "paths of a job are those of whoever started the raylets",
        "recipes/workers.py",
        "if absolute != value:",
        "if value is None:",
        ("recipes/workers.py", "tests/test_launch_environment.py"),
    ),
    Fault(
        "the launcher's variables stay with the driver",
        "recipes/workers.py",
        "if _matters(name)}",
        "if not name}",
        ("recipes/workers.py", "tests/test_launch_environment.py"),
    ),
    Fault(
        "without flash-attn the launcher advises to pad",
        "recipes/launch.py",
        "attn_implementation=sdpa (padding stays removed)",
        "use_remove_padding=False",
        ("tests/test_recipes.py::test_attention_that_is_not_installed_is_asked_for_before_anything_starts",),
    ),
    Fault(
        "of eight GPUs one evaluates",
        "l2t_verl/evaluate/parallel.py",
        'number = max(1, len(groups)) if asked == "auto" else int(asked)',
        "number = 1",
        ("l2t_verl/evaluate/parallel.py", "tests/test_evaluate.py"),
    ),
    Fault(
        "checkpoints are never deleted",
        "l2t_verl/plugin/driver/checkpoints.py",
        "removed = sorted(set(found) - kept)",
        "removed: list[int] = []",
        ("tests/test_checkpoints.py",),
    ),
    Fault(
        "a run that was out of memory may not go on with less",
        "recipes/run_folder.py",
        " or MEMORY.search(name) is not None",
        "",
        ("tests/test_recipes.py::test_after_running_out_of_memory_a_run_goes_on_with_less",),
    ),
    Fault(
        "a run may go on with another end",
        "recipes/run_folder.py",
        "name.startswith(FREE) and not name.startswith(FIXED)",
        "name.startswith(FREE)",
        ("tests/test_recipes.py::test_what_makes_another_run_of_it_is_refused",),
    ),
    Fault(
        "the first step trains with a learning rate of 0",
        "recipes/base.yaml",
        "zero_indexed_step: False",
        "zero_indexed_step: True",
        ("tests/test_recipes.py::test_no_step_trains_with_a_learning_rate_of_0",),
    ),
    Fault(
        "nothing says that scores fell back",
        "l2t_verl/plugin/driver/metrics.py",
        "NAN if context.packs_rows is None else float(context.packs_rows)",
        "NAN",
        ("tests/test_metrics.py",),
    ),
    Fault(
        "weights are read while they are offloaded",
        "l2t_verl/plugin/workers/worker.py",
        "with torch.no_grad(), now.eval_mode(), start.eval_mode():",
        "with torch.no_grad():",
        ("tests/test_displacement.py",),
    ),
    Fault(
        "the logits of the old log-probs take no memory",
        "recipes/arithmetic.py",
        "logits = (2 + 2 * plan.scaled + 8 * (not plan.chunked))",
        "logits = 0 * (2 + 2 * plan.scaled + 8 * (not plan.chunked))",
        ("tests/test_recipes.py::test_the_old_log_probs_logits_decide_on_small_cards",),
    ),
    Fault(
        "each sampled answer crosses Ray by itself",
        "l2t_verl/plugin/rollout/agent_loop.py",
        'getattr(server, "l2t_generate_after", None)',
        'getattr(server, "none", None)',
        ("tests/test_agent_loop.py",),
    ),
    Fault(
        "a CUDA build on the path for CPUs is let through",
        "recipes/environment.py",
        "    if cuda is not None:",
        "    if cuda == version:",
        ("tests/test_setup_script.py",),
    ),
    Fault(
        "two clusters of one machine share the socket of weights",
        "l2t_verl/plugin/rollout/transfer.py",
        'return job if job.endswith(f"-{cluster}") else f"{job}-{cluster}"',
        "return job",
        ("tests/test_transfer.py",),
    ),
)


def copied(folder: Path) -> Path:
    """The tracked files, as they are."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "l2t_verl" / "patches").symlink_to("../patches")  # where the package carries them when it is installed
    return folder


def seen_by(copy: Path, fault: Fault, whole: bool) -> str:
    """The first test that fails with the fault in place; empty where none does."""
    file = copy / fault.file
    text = file.read_text()
    if text.count(fault.now) != 1:
        sys.exit(f"{fault.file} holds {fault.now!r} {text.count(fault.now)} times instead of once: mend tests/faults.py")
    file.write_text(text.replace(fault.now, fault.then))
    try:
        # the path is for what the tests start: their processes shall not find the installed checkout first
        variables = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        line = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *(() if whole else fault.tests)]
        done = subprocess.run(line, cwd=copy, env=variables, capture_output=True, text=True, check=False)
    finally:
        file.write_text(text)
    if done.returncode > 1:
        sys.exit(f"the tests could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="the whole fast suite for each fault")
    whole = parser.parse_args().whole
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for fault in FAULTS:
            test = seen_by(copy, fault, whole)
            unseen += not test
            print(f"{'seen' if test else 'NOT SEEN'}: {fault.file}: {fault.what}{f' ({test})' if test else ''}", flush=True)
    print(f"{len(FAULTS) - unseen} of {len(FAULTS)} faults are seen")
    sys.exit(min(unseen, 1))


if __name__ == "__main__":
    main()

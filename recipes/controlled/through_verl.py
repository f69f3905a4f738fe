"""One arm through verl itself: stock main_ppo with Ray, vLLM and FSDP2 trains the same start on the same problems.

python -m recipes.controlled.through_verl shaped --steps 20

The run folder holds verl's log, metrics and rollouts; its curve stands beside the loop's in RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from l2t_verl.files import whole
from recipes.controlled import loop
from recipes.controlled.grid import STARTS_FOLDER
from recipes.controlled.plans import ARMS, SEEDS, arm_settings, start_of
from recipes.controlled.run import made_by, write
from recipes.controlled.settings import FORCING, Settings
from recipes.controlled.solutions import written_answer
from recipes.controlled.task import problems
from recipes.controlled.vocabulary import END
from recipes.run_folder import leaves

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "through_verl"
CURVE = {
    "accuracy": "critic/score/mean",
    "tokens": "response_length/mean",
    "episodes": "l2t/episodes/mean",
    "J start": "l2t/answer_score/start",
    "J end": "l2t/answer_score/end",
    "gain": "l2t/fitting_gain/mean",
    "penalty": "l2t/compression/mean",
    "loss": "actor/pg_loss",
    "gradient norm": "actor/grad_norm",
    "seconds": "timing_s/step",
}


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """Verl's hook for custom rewards: 1 for the true answer."""
    return float(written_answer(solution_str.removesuffix(END)) == ground_truth)


def overrides(settings: Settings) -> list[str]:
    """Hydra overrides of the quickstart's configuration that say what the loop's settings say."""
    rows = settings.prompts * settings.group
    shared = {"gain": FORCING, "episodes": {"method": "episode_tags"}}
    return [
        *of_settings(settings, shared, rows),
        f"reward.custom_reward_function.path={Path(__file__).resolve()}",
        "data.max_prompt_length=64",
        f"actor_rollout_ref.rollout.max_num_seqs={rows}",
    ]


def of_settings(settings: Settings, shared: dict[str, Any], rows: int) -> list[str]:
    """Overrides that say what every bed's settings do.

    Args:
        settings: of the run.
        shared: what of `algorithm.l2t` the bed's arms share.
        rows: responses of a micro-batch.
    """
    actor, tree = "actor_rollout_ref.actor", {"alpha": 0.8} | settings.l2t
    computed = {"float32": "fp32", "bfloat16": "bf16"}[settings.compute]
    whole = tree | {name: given | tree.get(name, {}) for name, given in shared.items()}
    return [
        "~algorithm.l2t",
        *(f"+algorithm.l2t.{path}={_quoted(value)}" for path, value in leaves(whole).items()),
        f"algorithm.adv_estimator={settings.estimator}",
        "data.shuffle=False",
        f"data.max_response_length={settings.limit}",
        f"data.train_batch_size={settings.prompts}",
        f"actor_rollout_ref.rollout.n={settings.group}",
        "actor_rollout_ref.rollout.max_model_len=256",
        *(f"actor_rollout_ref.{role}.log_prob_micro_batch_size_per_gpu={rows}" for role in ("rollout", "ref")),
        f"{actor}.ppo_micro_batch_size_per_gpu={rows}",
        f"actor_rollout_ref.rollout.dtype={settings.compute}",
        *(f"actor_rollout_ref.{role}.fsdp_config.mixed_precision.param_dtype={computed}" for role in ("actor", "ref")),
        f"{actor}.ppo_mini_batch_size={settings.prompts}",
        f"{actor}.optim.lr={settings.learning_rate}",
        f"{actor}.optim.weight_decay={loop.WEIGHT_DECAY}",
        f"{actor}.optim.lr_warmup_steps=0",
        f"{actor}.optim.clip_grad={loop.CLIP}",
        f"{actor}.use_kl_loss={settings.kl_loss > 0}",
        f"{actor}.kl_loss_coef={settings.kl_loss}",
        f"{actor}.kl_loss_type=low_var_kl",
    ]


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def write_problems(file: Path, count: int, seed: int) -> None:
    """The problems that a run of the loop with this seed sees, in their order, as verl reads them."""
    drawn = itertools.islice(problems("train", 1_000_000 + seed), count)
    write_rows(file, "controlled", [([{"role": "user", "content": str(problem)}], problem.answer) for problem in drawn])


def write_rows(file: Path, source: str, asked: list[tuple[list[dict[str, str]], str]]) -> None:
    """Messages and answers as verl's data files have them."""
    import pandas as pd

    rows = [
        {
            "data_source": source,
            "prompt": messages,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"index": index},
        }
        for index, (messages, answer) in enumerate(asked)
    ]
    with whole(file) as partial:
        pd.DataFrame(rows).to_parquet(partial)


def train(run: Path, model: Path, train: Path, test: Path, steps: int, given: list[str]) -> None:
    """Let verl train a model with the quickstart's configuration and these overrides.

    Raises:
        CalledProcessError: it failed, and has said why.
    """
    (run / "prepared.json").write_text(json.dumps({"model": str(model), "train": str(train), "test": str(test)}))
    quickstart = [sys.executable, str(ROOT / "recipes" / "quickstart" / "train.py"), "--run", str(run)]
    quickstart += ["--prepared", str(run / "prepared.json"), "--steps", str(steps)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([*quickstart, *given], check=True, env=os.environ | {"PYTHONPATH": paths})


def curve(run: Path) -> list[dict[str, float]]:
    """What verl measured at each step."""
    rows = [row["data"] for row in read_rows(run / "metrics.jsonl")]
    return [{name: row[key] for name, key in CURVE.items() if key in row} for row in rows]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of verl's; not by `splitlines`, for a model writes U+2028 too, which ends no line of JSON."""
    return [json.loads(line) for line in file.read_text().split("\n") if line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=SEEDS[0])
    parser.add_argument("--starts", type=Path, default=STARTS_FOLDER)
    parser.add_argument("--run", type=Path, help="where verl writes; default runs/controlled/verl/ARM")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the curve's file")
    arguments, extra = parser.parse_known_args()
    settings = arm_settings(arguments.arm, arguments.seed, start_of(arguments.seed), steps=arguments.steps)
    run = (arguments.run or ROOT / "runs" / "controlled" / "verl" / arguments.arm).resolve()
    run.mkdir(parents=True, exist_ok=True)
    data = run / "problems.parquet"
    write_problems(data, settings.prompts * settings.steps, settings.seed)
    start = (arguments.starts / str(settings.start)).resolve()
    train(run, start, data, data, settings.steps, [*overrides(settings), *extra])
    found = {"settings": dataclasses.asdict(settings), "made by": made_by("cpu"), "curve": curve(run)}
    write(arguments.results / f"{settings.arm}-{settings.seed}.json", found)


if __name__ == "__main__":
    main()

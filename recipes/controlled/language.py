"""A bed of a real language model: SmolLM2-135M on word problems that it half solves, trained through verl itself.

python -m recipes.controlled.language start --model runs/quickstart/models/SmolLM2-135M-Instruct
python -m recipes.controlled.language run grpo length_penalty guided_charged --seeds 0 1 2
python -m recipes.controlled.table runs/controlled/language --table recipes/controlled/language.parquet
python -m recipes.controlled.language table

A run that was ended goes on from its last checkpoint when its command is given again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from l2t_verl.evaluate.model import fingerprint
from recipes.controlled import start, tables, through_verl
from recipes.controlled.bed import RUNS, loaded
from recipes.controlled.comparison import Run, accuracy, load, on_test, tokens
from recipes.controlled.intervals import estimate
from recipes.controlled.plans import CANDIDATES
from recipes.controlled.quality import auc
from recipes.controlled.run import made_by, once
from recipes.controlled.settings import Settings
from recipes.controlled.word_problems import SAID_LAST, WordProblem, label, problems, solution

TABLE = Path(__file__).with_name("language.parquet")
START = RUNS / "language_start"
RUN, RESULTS = RUNS / "language_runs", RUNS / "language"
FINE_TUNING: dict[str, Any] = {"steps": 120, "rows": 12, "rate": 1e-4}
TRAINED = 24  # updates of a run
SHARED: dict[str, Any] = {
    "start": 1,
    "prompts": 4,
    "group": 8,
    "limit": 128,
    "test": 400,
    "learning_rate": 1e-5,
    "compute": "bfloat16",  # as language models are trained; a third of float32's time where the CPU reckons in it
}
FORCING = {"forcing_suffix": f"\n\n{SAID_LAST}", "closing": "<|im_end|>"}
EPISODES = {"method": "paragraphs", "max_episodes": 12, "min_episode_tokens": 4}
ARMS: dict[str, dict[str, Any]] = {
    "start": {},
    "grpo": {"estimator": "grpo"},
    "length_penalty": {"estimator": "l2t", "l2t": {"credit": {"method": "length_penalty", "length_penalty": 0.6}}},
    "guided_charged": {"estimator": "l2t", "l2t": CANDIDATES["guided_charged"].tree(4.0)},
}
TITLES = {
    "start": "the start",
    "grpo": "GRPO",
    "length_penalty": "length penalty 0.6",
    "guided_charged": "L2T's default: the critic, guided by own gain",
}
EARLY = 4  # steps of whose rollouts the gains are looked at


def examples(tokenizer: Any, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and responses without end, for fine-tuning."""
    generator = random.Random(f"language/solutions/{seed}")
    for problem in problems("train", seed):
        prompt = tokenizer.apply_chat_template(_asked(problem), add_generation_prompt=True, tokenize=True, return_dict=False)
        yield prompt, [*tokenizer.encode(solution(problem, generator), add_special_tokens=False), tokenizer.eos_token_id]


def make_start(origin: Path, folder: Path, seed: int = 1) -> None:
    """Fine-tune the language model briefly on written solutions.

    Raises:
        FileExistsError: something is in the folder's place.
    """
    model, tokenizer = loaded(origin)
    start.fit(model, tokenizer, examples(tokenizer, seed), seed, **FINE_TUNING)
    start.save(model, tokenizer, folder, {"seed": seed, "from": origin.name} | FINE_TUNING)


def settings_of(arm: str, seed: int, steps: int, split: str = "test") -> Settings:
    """An arm's run."""
    return Settings(arm, seed, steps=0 if arm == "start" else steps, split=split, **(SHARED | ARMS[arm]))


def write_problems(file: Path, source: Iterator[WordProblem], count: int) -> None:
    """Problems as verl reads them."""
    rows = [(_asked(problem), problem.answer) for problem in itertools.islice(source, count)]
    through_verl.write_rows(file, "l2t/gsm8k", rows)


def overrides(settings: Settings, run: Path) -> list[str]:
    """What this bed adds to the quickstart's configuration."""
    untrained = settings.steps == 0
    return [
        *through_verl.of_settings(settings, {"gain": FORCING, "episodes": EPISODES}, rows=8),
        "data.max_prompt_length=96",
        "actor_rollout_ref.rollout.max_num_seqs=64",
        f"actor_rollout_ref.rollout.seed={settings.seed}",
        *(f"actor_rollout_ref.rollout.val_kwargs.{name}" for name in ("do_sample=True", "temperature=1.0", "n=1")),
        f"trainer.validation_data_dir={run / 'validation'}",
        f"trainer.val_before_train={untrained}",
        f"trainer.val_only={untrained}",
        f"trainer.test_freq={max(1, settings.steps)}",  # after the last step
        "trainer.save_freq=8",
        "+algorithm.l2t.checkpoints.keep_last=1",
    ]


def run(settings: Settings, start: Path, results: Path) -> Path:
    """Train the start through verl, unless the run's file is there, and measure it on the problems of its split."""
    folder = (RUN / settings.name).resolve()
    command = "python -m recipes.controlled.language start --model FOLDER"
    file = once(settings, start, results, command, lambda: _found(settings, start, folder))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return file


def _found(settings: Settings, start: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    train, test, steps = folder / "train.parquet", folder / "test.parquet", max(1, settings.steps)
    write_problems(train, problems("train", 1_000_000 + settings.seed), settings.prompts * steps)
    write_problems(test, problems(settings.split, 0), settings.test)
    through_verl.train(folder, start.resolve(), train, test, steps, overrides(settings, folder))
    tokenizer = AutoTokenizer.from_pretrained(start)
    early = sorted((folder / "rollouts").glob("*.jsonl"), key=lambda path: int(path.stem))[:EARLY]
    written = through_verl.read_rows(folder / "validation" / f"{settings.steps}.jsonl")
    return {
        "made by": made_by("cpu") | {"start": fingerprint(str(start))[:12]},  # made again, it is another
        "configuration": ARMS[settings.arm] | {"gain": FORCING, "episodes": EPISODES},
        "curve": through_verl.curve(folder) if settings.steps else [],
        "evaluation": evaluate(written, tokenizer)
        | {"gains": ordered([row for file in early for row in through_verl.read_rows(file)])},
    }


def evaluate(rows: list[dict[str, Any]], tokenizer: Any) -> dict[str, float]:
    """Share of right answers, mean tokens of a response and the share of its paragraphs that are needless."""
    paragraphs = [part for row in rows for part in row["output"].split("\n\n") if not part.startswith(SAID_LAST.strip())]
    return {
        "accuracy": float(np.mean([row["score"] for row in rows])),
        "tokens": float(np.mean([1 + len(tokenizer.encode(row["output"], add_special_tokens=False)) for row in rows])),
        "needless": float(np.mean([label(part) != "step" for part in paragraphs])),
    }


def ordered(rows: list[dict[str, Any]]) -> float | None:
    """How often a step's gain is above a needless paragraph's, before the answer is stated; None without one of either."""
    gains, useful = [], []
    for row in rows:
        for episode in row.get("l2t", {}).get("episodes", []):
            if episode["states_answer"]:
                break
            if not episode["text"].lstrip().startswith(SAID_LAST.strip()):
                gains.append(episode["gain"])
                useful.append(label(episode["text"]) == "step")
    found = auc(np.array(gains), np.array(useful, dtype=bool), ~np.array(useful, dtype=bool))
    return None if np.isnan(found) else found


def table(runs: list[Run]) -> str:
    """Means over seeds, and differences paired by seed."""
    of_arm = {arm: {run["settings"]["seed"]: run for run in on_test(runs, arm)} for arm in ARMS}
    rows = []
    for arm, own in of_arm.items():
        if not own:
            continue
        mean = lambda read, own=own: estimate([(1, read(run)) for run in own.values()]).text()  # noqa: E731
        row = [TITLES[arm], str(len(own)), mean(accuracy), mean(tokens), mean(_needless)]
        for base in (of_arm["grpo"], of_arm["length_penalty"]):
            compared = own is not base and set(own) & set(base) and arm != "start"
            row += [each.text() for each in tables.gaps(own, base)] if compared else ["–", "–"]
        told = [100 * run["evaluation"]["gains"] for run in own.values() if run["evaluation"]["gains"] is not None]
        rows.append([*row, estimate([(1, share) for share in told]).text(digits=0) if told else "–"])
    header = ["arm", "seeds", "right, %", "tokens", "needless paragraphs, %"]
    header += ["Δ right to GRPO, points", "Δ tokens to GRPO, %"]
    header += ["Δ right to the length penalty, points", "Δ tokens to the length penalty, %"]
    header += ["steps whose gain is above a needless paragraph's, %"]
    return tables.table(header, rows)


def _needless(run: Run) -> float:
    return 100 * run["evaluation"]["needless"]


def _asked(problem: WordProblem) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem.question}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "run", "table"))
    parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--model", type=Path, help="of start: folder of SmolLM2-135M-Instruct, as the quickstart leaves it")
    parser.add_argument("--start", type=Path, default=START, help="made or trained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=TRAINED)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--results", type=Path, help=f"of run: a folder; of table: that, or {TABLE.name}")
    arguments = parser.parse_args()
    if arguments.what == "start":
        if arguments.model is None:
            parser.error(
                "start needs --model, a folder: bash recipes/quickstart/run.sh leaves one in runs/quickstart/models"
            )
        make_start(arguments.model, arguments.start)
    elif arguments.what == "run":
        if not arguments.arms or not set(arguments.arms) <= set(ARMS):
            parser.error(f"run needs arms, of {', '.join(ARMS)}; got {' '.join(arguments.arms) or 'none'}")
        for seed, arm in itertools.product(arguments.seeds, arguments.arms):
            chosen = settings_of(arm, seed, arguments.steps, arguments.split)
            print(run(chosen, arguments.start, arguments.results or RESULTS))
    else:
        print(table(load(arguments.results or TABLE)))


if __name__ == "__main__":
    main()

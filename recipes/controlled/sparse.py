"""A bed where right answers are rare: several chains at once, of which the answer needs every last value.

A problem is two, three or four chains of two computed values, and asks for the end of each:
`a=3;b:4+a;c:2*b;d=5;e:1-d;f:3+e;?cf`. The start learns from solutions with 45 % mistakes, so that nearly all groups are all
wrong: what an arm moves there is noise.

python -m recipes.controlled.sparse start
python -m recipes.controlled.sparse run start grpo critic length_penalty default --seeds 0
python -m recipes.controlled.sparse run grpo default charged --seeds 0 --steps 100
python -m recipes.controlled.table runs/controlled/sparse --table recipes/controlled/sparse.parquet
python -m recipes.controlled.sparse table
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from recipes.controlled import loop, start, tables
from recipes.controlled.comparison import Run, accuracy, late, load, tokens
from recipes.controlled.measure import is_right
from recipes.controlled.run import made_by, write
from recipes.controlled.sampling import Rollout, sample
from recipes.controlled.settings import Settings
from recipes.controlled.solutions import Rates, written_answer
from recipes.controlled.task import LETTERS, MODULUS, OPERATORS, Definition, Problem, split_of

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parents[1] / "runs" / "controlled" / "sparse"
TABLE = FOLDER / "sparse.parquet"
START = FOLDER.parents[1] / "runs" / "controlled" / "sparse_start"
CHAINS = {"two": 2, "three": 3, "four": 4}
COMPUTED = 2  # values of a chain
RATES = Rates(restate=0.15, recheck=0.2, detour=0.0, mistake=0.45, correction=0.3, closing=0.0)
LIMIT = 180  # tokens of a response
TEST = 1200  # validation problems of the evaluation; nothing is tuned on them
TRAINED, LONG = 30, 100  # updates of a run
STEPS, RATE = 800, 5e-4  # of the start's fine-tuning, from the comparison's first start
IMMEDIATE = {"beta": 0.0, "credit": {"method": "episode"}}
ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"estimator": "grpo"},
    "length_penalty": {"estimator": "l2t", "l2t": {"credit": {"method": "length_penalty", "length_penalty": 0.6}}},
    "default": {"estimator": "l2t"},
    "charged": {"estimator": "l2t", "l2t": {"compression": {"in_wrong_groups": True}}},
    "episode": {"estimator": "l2t", "l2t": IMMEDIATE},
    "critic": {"estimator": "l2t", "l2t": {"beta": 0.0, "credit": {"method": "critic"}}},
    "true_labels": {"estimator": "l2t", "l2t": IMMEDIATE, "change": "true_labels"},
}
TITLES = {
    "start": "the start",
    "grpo": "GRPO",
    "length_penalty": "length penalty 0.6",
    "default": "L2T's defaults",
    "charged": "… with the penalty in groups that are all wrong, too",
    "episode": "own gain, no penalty",
    "critic": "J as a critic",
    "true_labels": "bound: true labels in place of gains",
}


def draw(generator: random.Random, tier: str) -> Problem:
    """A random problem of as many chains as the tier says."""
    names = iter(generator.sample(LETTERS, len(LETTERS)))
    digit = lambda: generator.randrange(MODULUS)  # noqa: E731
    definitions: list[Definition] = []
    asked = ""
    for _ in range(CHAINS[tier]):
        definitions.append(Definition(next(names), digit()))
        for _ in range(COMPUTED):
            definitions.append(Definition(next(names), digit(), generator.choice(OPERATORS), definitions[-1].name))
        asked += definitions[-1].name
    return Problem(tuple(definitions), asked, tier)


def problems(split: str, seed: int) -> Iterator[Problem]:
    """Problems of a split without end, the tiers in turn."""
    generator = random.Random(f"sparse/{split}/{seed}")
    for tier in itertools.cycle(CHAINS):
        problem = draw(generator, tier)
        while split_of(problem) != split:
            problem = draw(generator, tier)
        yield problem


def make_start(seed: int, origin: Path, folder: Path, steps: int = STEPS) -> None:
    """Fine-tune a start of the comparison on the bed's solutions."""
    model = Qwen2ForCausalLM.from_pretrained(origin, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(origin)
    generator = random.Random(f"sparse/solutions/{seed}")
    source = start.written(tokenizer, problems("train", seed), generator, RATES, LIMIT)
    start.fit(model, tokenizer, source, seed, steps, start.ROWS, RATE)
    start.save(model, tokenizer, folder, {"seed": seed, "steps": steps, "from": origin.name})


def run(settings: Settings, folder: Path, results: Path) -> Path:
    """Train the start on the bed, unless the run's file is there, and measure it on validation problems."""
    file = results / f"{settings.name}.json"
    if file.exists():
        return file
    started = time.time()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = problems("train", 1_000_000 + settings.seed)  # the start was trained on other draws
    report = lambda line: print(line, flush=True)  # noqa: E731
    _, curve = loop.train(settings, model, tokenizer, report, source)
    chosen = list(itertools.islice(problems(settings.split, 0), settings.test))
    torch.manual_seed(settings.seed)
    rollouts = sample(model, tokenizer, chosen, limit=settings.limit)
    found = {
        "settings": dataclasses.asdict(settings),
        "made by": made_by("cpu"),
        "configuration": loop.method(settings).model_dump(),
        "curve": curve,
        "evaluation": evaluate(rollouts, tokenizer),
        "seconds": time.time() - started,
    }
    write(file, found)
    return file


def evaluate(rollouts: list[Rollout], tokenizer: Any) -> dict[str, float]:
    """Share of right answers and of right digits, and mean tokens of a response; an answer that is not there has none."""
    right = [is_right(rollout, tokenizer) for rollout in rollouts]
    digits = [right_digits(rollout, tokenizer) for rollout in rollouts]
    count = len(rollouts)
    return {
        "accuracy": sum(right) / count,
        "digits": sum(digits) / count,
        "tokens": sum(len(rollout.response) for rollout in rollouts) / count,
    }


def right_digits(rollout: Rollout, tokenizer: Any) -> float:
    """Share of the answer's digits that a response has right."""
    answer = rollout.problem.answer
    written = written_answer(tokenizer.decode(rollout.response).removesuffix(tokenizer.eos_token), len(answer)) or ""
    return sum(a == b for a, b in zip(answer, written, strict=False)) / len(answer)


def arm_settings(arm: str, seed: int, steps: int = TRAINED) -> Settings:
    """An arm's run on the bed; `start` is the start as it is."""
    shared: dict[str, Any] = {"start": 1, "limit": LIMIT, "test": TEST, "split": "validation"}
    return Settings(arm, seed, steps=0 if arm == "start" else steps, **shared, **ARMS.get(arm, {}))


def moved(runs: list[Run]) -> float:
    """KL from the start to the policy, in nats a response, over the last ten steps of all runs."""
    return statistics.mean(late(run, "kl") for run in runs)


def of_arm(runs: list[Run], arm: str, steps: int) -> list[Run]:
    """An arm's runs of so many updates."""
    return [run for run in runs if (run["settings"]["arm"], run["settings"]["steps"]) == (arm, steps)]


def moved_against_grpo(runs: list[Run], arm: str, steps: int) -> float:
    """How far an arm moves from the start, as a multiple of what GRPO does in as many updates; NaN without either."""
    own, base = (of_arm(runs, name, steps) for name in (arm, "grpo"))
    return moved(own) / moved(base) if own and base else math.nan


def table(runs: list[Run]) -> str:
    """Means over runs, and differences from GRPO of as many updates; ± is over the evaluation's problems, not over seeds."""
    rows = []
    for steps, (arm, title) in itertools.product((0, TRAINED, LONG), TITLES.items()):
        own, base = of_arm(runs, arm, steps), of_arm(runs, "grpo", steps or TRAINED)
        if not own:
            continue
        means = [over_problems(own, accuracy), over_problems(own, digits)]
        row = [title, str(steps), str(len(own)), *(f"{mean:.1f} ± {half:.1f}" for mean, half in means)]
        row += [f"{statistics.mean(map(tokens, own)):.0f}", f"{moved(own):.1f}" if steps else "0"]
        for (mean, half), read in zip(means, (accuracy, digits), strict=True):
            of_base, half_of_base = over_problems(base, read) if base and arm != "grpo" else (mean, math.nan)
            half = math.hypot(half, half_of_base)
            row.append("–" if math.isnan(half) else f"{mean - of_base:+.1f} ± {half:.1f}")
        rows.append(row)
    header = ["arm", "steps", "seeds", "right, %", "digits right, %", "tokens", "KL, nats"]
    return tables.table([*header, "Δ right, points", "Δ digits, points"], rows)


def over_problems(runs: list[Run], read: Callable[[Run], float]) -> tuple[float, float]:
    r"""Mean of a share in percent, and half its 95 % interval over the problems of all runs' evaluations.

    1.96 √(p (1 − p) / n) is the interval of shares that are 0 or 1, and at least that of shares in between, as a response's
    share of right digits is.

    Example:
        >>> run = {"settings": {"test": 100}, "evaluation": {"accuracy": 0.5}}
        >>> [round(value, 2) for value in over_problems([run], accuracy)]
        [50.0, 9.8]
    """
    share = statistics.mean(map(read, runs)) / 100
    count = sum(run["settings"]["test"] for run in runs)
    return 100 * share, 196 * math.sqrt(share * (1 - share) / count)


def digits(run: Run) -> float:
    """Right digits of the evaluation, in percent."""
    return 100 * run["evaluation"]["digits"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "run", "table"))
    parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(TITLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=TRAINED)
    parser.add_argument("--start", type=Path, default=START)
    parser.add_argument(
        "--results", type=Path, help=f"of run: a folder, {RESULTS.relative_to(FOLDER.parents[1])}; of table: {TABLE.name}"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "start":
        make_start(arguments.seeds[0], FOLDER / "starts" / "1", arguments.start)
    elif arguments.what == "run":
        if not arguments.arms or not set(arguments.arms) <= set(TITLES):
            parser.error(f"run needs arms, of {', '.join(TITLES)}; got {' '.join(arguments.arms) or 'none'}")
        for seed in arguments.seeds:
            for arm in arguments.arms:
                print(run(arm_settings(arm, seed, arguments.steps), arguments.start, arguments.results or RESULTS))
    else:
        print(table(load(arguments.results or TABLE)))


if __name__ == "__main__":
    main()

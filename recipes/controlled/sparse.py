"""A bed where right answers are rare: several chains at once, of which the answer needs every last value.

A problem is two, three or four chains of two computed values, and asks for the end of each:
`a=3;b:4+a;c:2*b;d=5;e:1-d;f:3+e;?cf`. The start learns from solutions with 45 % mistakes, so that nearly all groups are all
wrong: what an arm moves there is noise.

python -m recipes.controlled.sparse start
python -m recipes.controlled.sparse run grpo --seed 0
python -m recipes.controlled.sparse table
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from recipes.controlled import loop, start
from recipes.controlled.measure import is_right
from recipes.controlled.run import made_by, write
from recipes.controlled.sampling import sample
from recipes.controlled.settings import Settings
from recipes.controlled.solutions import Rates
from recipes.controlled.task import LETTERS, MODULUS, OPERATORS, Definition, Problem, split_of

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parents[1] / "runs" / "controlled" / "sparse"
START = FOLDER.parents[1] / "runs" / "controlled" / "sparse_start"
CHAINS = {"two": 2, "three": 3, "four": 4}
COMPUTED = 2  # values of a chain
RATES = Rates(restate=0.15, recheck=0.2, detour=0.0, mistake=0.45, correction=0.3, closing=0.0)
LIMIT = 180  # tokens of a response
STEPS, RATE = 800, 5e-4  # of the start's fine-tuning, from the comparison's first start
ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"estimator": "grpo"},
    "default": {"estimator": "l2t"},
    "episode": {"estimator": "l2t", "l2t": {"beta": 0.0, "credit": {"method": "episode"}}},
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
        "evaluation": {
            "accuracy": sum(is_right(rollout, tokenizer) for rollout in rollouts) / len(rollouts),
            "tokens": sum(len(rollout.response) for rollout in rollouts) / len(rollouts),
        },
        "seconds": time.time() - started,
    }
    write(file, found)
    return file


def arm_settings(arm: str, seed: int, steps: int = 100) -> Settings:
    """An arm's run on the bed."""
    return Settings(arm, seed, start=1, steps=steps, limit=LIMIT, test=600, split="validation", **ARMS[arm])


def moved(found: dict[str, Any]) -> float:
    """KL from the start to the policy, in nats a response: the mean of the last ten steps."""
    last = found["curve"][-10:]
    return sum(point["kl"] for point in last) / len(last)


def table(results: Path) -> str:
    """The runs as a table, with each arm's KL over GRPO's of the same seed."""
    runs = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    base = {r["settings"]["seed"]: moved(r) for r in runs if r["settings"]["arm"] == "grpo"}
    lines = ["| arm | seed | right, % | tokens | KL, nats | KL / GRPO's |", "| --- | --- | --- | --- | --- | --- |"]
    for found in runs:
        settings, seen = found["settings"], found["evaluation"]
        ratio = f"{moved(found) / base[settings['seed']]:.2f}" if settings["seed"] in base else "–"
        lines.append(
            f"| {settings['arm']} | {settings['seed']} | {100 * seen['accuracy']:.1f} | {seen['tokens']:.0f} | "
            f"{moved(found):.1f} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "run", "table"))
    parser.add_argument("arm", nargs="?", choices=list(ARMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--start", type=Path, default=START)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "start":
        make_start(arguments.seed, FOLDER / "starts" / "1", arguments.start)
    elif arguments.what == "run":
        if arguments.arm is None:
            parser.error(f"run needs an arm: {', '.join(ARMS)}")
        print(run(arm_settings(arguments.arm, arguments.seed, arguments.steps), arguments.start, arguments.results))
    else:
        print(table(arguments.results))


if __name__ == "__main__":
    main()

"""Other beds than the comparison's: problems whose answer has several digits, a start that is fine-tuned on them, runs."""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.controlled import loop, start
from recipes.controlled.comparison import Run, load
from recipes.controlled.measure import is_right
from recipes.controlled.run import made_by, once
from recipes.controlled.sampling import Rollout, sample
from recipes.controlled.settings import Settings
from recipes.controlled.solutions import Rates, written_answer
from recipes.controlled.task import Problem, drawn

ORIGIN = Path(__file__).parent / "starts" / "1"
RUNS = Path(__file__).parents[2] / "runs" / "controlled"
RATES = Rates(restate=0.15, recheck=0.2, detour=0.0, mistake=0.45, correction=0.3, closing=0.0)
LIMIT = 180  # tokens of a response
COMPUTED = 2  # values of one digit of the answer
TEST = 1200  # problems of an evaluation


@dataclass(frozen=True)
class Bed:
    """A bed.

    Attributes:
        name: seeds its draws, and names its folders.
        tiers: of problems, in turn, with what `draw` reads of each.
        draw: a random problem of a tier.
        steps: of the fine-tuning that makes its start of the comparison's first.
        rate: its learning rate.
    """

    name: str
    tiers: dict[str, int]
    draw: Callable[[random.Random, str], Problem]
    steps: int
    rate: float

    def problems(self, split: str, seed: int) -> Iterator[Problem]:
        """Problems of a split without end, the tiers in turn."""
        return drawn(split, random.Random(f"{self.name}/{split}/{seed}"), self.tiers, self.draw)

    def make_start(self, seed: int, folder: Path) -> None:
        """Fine-tune the comparison's first start on solutions of which nearly half the steps are mistakes.

        Raises:
            FileExistsError: something is in the folder's place.
        """
        model, tokenizer = loaded(ORIGIN)
        generator = random.Random(f"{self.name}/solutions/{seed}")
        source = start.written(tokenizer, self.problems("train", seed), generator, RATES, LIMIT)
        start.fit(model, tokenizer, source, seed, self.steps, start.ROWS, self.rate)
        start.save(model, tokenizer, folder, {"seed": seed, "steps": self.steps, "from": ORIGIN.name})

    def run(self, settings: Settings, folder: Path, results: Path) -> Path:
        """Train the start, unless the run's file is there, and measure it on the problems of its split."""
        return once(settings, folder, results, "the command `start` of this bed", lambda: self._found(settings, folder))

    def _found(self, settings: Settings, folder: Path) -> dict[str, Any]:
        model, tokenizer = loaded(folder)
        source = self.problems("train", 1_000_000 + settings.seed)  # the start was trained on other draws
        report = lambda line: print(line, flush=True)  # noqa: E731
        _, curve = loop.train(settings, model, tokenizer, report, source)
        chosen = list(itertools.islice(self.problems(settings.split, 0), settings.test))
        torch.manual_seed(settings.seed)
        rollouts = sample(model, tokenizer, chosen, limit=settings.limit)
        return {
            "made by": made_by("cpu"),
            "configuration": loop.method(settings).model_dump(),
            "curve": curve,
            "evaluation": evaluate(rollouts, tokenizer),
        }


def settings_of(arms: dict[str, dict[str, Any]], arm: str, seed: int, steps: int, split: str, start: int = 1) -> Settings:
    """An arm's run on a bed; `start` is the start as it is."""
    shared: dict[str, Any] = {"start": start, "limit": LIMIT, "test": TEST, "split": split}
    return Settings(arm, seed, steps=0 if arm == "start" else steps, **shared, **arms.get(arm, {}))


@dataclass(frozen=True)
class Command:
    """`python -m recipes.controlled.BED`: make the start, do runs, print the table.

    Attributes:
        bed: what is trained on.
        settings: a run's, of its arm, seed and updates.
        table: of all runs, as Markdown.
        arms: that are known.
        trained: updates of a run, where nobody says.
        file: the committed table of runs.
        kept: folder of the bed's start, where it is committed.
    """

    bed: Bed
    settings: Callable[[str, int, int], Settings]
    table: Callable[[list[Run]], str]
    arms: tuple[str, ...]
    trained: int
    file: Path
    kept: Path | None = None

    @property
    def made(self) -> Path:
        """Folder in which a start is made."""
        return RUNS / f"{self.bed.name}_start"

    def main(self, about: str | None) -> None:
        """Do what the command line says."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("what", choices=("start", "run", "table"))
        parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(self.arms))
        parser.add_argument("--seeds", type=int, nargs="+", default=[0])
        parser.add_argument("--steps", type=int, default=self.trained)
        parser.add_argument(
            "--start", type=Path, help=f"made or trained; trained, unless one is named: {self.kept or self.made}"
        )
        parser.add_argument("--results", type=Path, help=f"of run: a folder; of table: that, or {self.file.name}")
        arguments = parser.parse_args()
        torch.set_num_threads(1)
        if arguments.what == "start":
            self.bed.make_start(arguments.seeds[0], arguments.start or self.made)
        elif arguments.what == "run":
            if not arguments.arms or not set(arguments.arms) <= set(self.arms):
                parser.error(f"run needs arms, of {', '.join(self.arms)}; got {' '.join(arguments.arms) or 'none'}")
            results = arguments.results or RUNS / self.bed.name
            for seed, arm in itertools.product(arguments.seeds, arguments.arms):
                folder = arguments.start or self.kept or self.made
                print(self.bed.run(self.settings(arm, seed, arguments.steps), folder, results))
        else:
            print(self.table(load(arguments.results or self.file)))


def digits(run: Run) -> float:
    """Right digits of the evaluation, in percent."""
    return 100 * run["evaluation"]["digits"]


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def evaluate(rollouts: list[Rollout], tokenizer: Any) -> dict[str, float]:
    """Share of right answers and of right digits, and mean tokens of a response; an answer that is not there has none."""
    right = [is_right(rollout, tokenizer) for rollout in rollouts]
    shares = [right_digits(rollout, tokenizer) for rollout in rollouts]
    count = len(rollouts)
    return {
        "accuracy": sum(right) / count,
        "digits": sum(shares) / count,
        "tokens": sum(len(rollout.response) for rollout in rollouts) / count,
    }


def right_digits(rollout: Rollout, tokenizer: Any) -> float:
    """Share of the answer's digits that a response has right."""
    answer = rollout.problem.answer
    written = written_answer(tokenizer.decode(rollout.response).removesuffix(tokenizer.eos_token), len(answer)) or ""
    return sum(a == b for a, b in zip(answer, written, strict=False)) / len(answer)

"""What `l2t-verl preflight` says of the comparison's starts before they are trained; RESULTS.md has beside it what came.

python -m recipes.controlled.foretold
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch

from l2t_verl.compression.beta import BETA_TOKENS, with_beta_per_nat
from l2t_verl.config import load_config
from l2t_verl.evaluate.model import fingerprint
from l2t_verl.evaluate.store import without_nan
from l2t_verl.files import check_settings, write_whole
from l2t_verl.inspector import scoring
from l2t_verl.inspector.records import Record
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.preflight.command import look_at_all
from l2t_verl.preflight.figures import Estimate, outcomes, sight
from l2t_verl.preflight.responses import Response, groups_of
from l2t_verl.preflight.seen import CONFIGURED, Looker, SeenFile
from l2t_verl.preflight.verdict import verdict
from recipes.controlled import bed, parts, tables
from recipes.controlled.comparison import TITLES, Run, confirming, of_starts
from recipes.controlled.grid import STARTS_FOLDER
from recipes.controlled.measure import is_right
from recipes.controlled.plans import ALL, BEST, DEFAULT
from recipes.controlled.run import made_by
from recipes.controlled.sampling import sample
from recipes.controlled.settings import FORCING
from recipes.controlled.solutions import LIMIT
from recipes.controlled.task import Problem, problems

FILE = Path(__file__).parent / "foretold.json"
QUESTIONS, SAMPLES = 100, 4
LOST, KEPT = "parts 1", "parts 2"
PARTS = {LOST: parts.LOST, KEPT: parts.KEPT}
RARE_QUESTIONS = 400  # of the bed of parts, whose right responses are too few in a hundred
CONFIG = load_config({"gain": FORCING | ALL[DEFAULT].l2t["gain"]})


def responses(model: torch.nn.Module, tokenizer: Any, asked: list[Problem], limit: int, seed: int) -> list[Response]:
    """Four responses to each problem."""
    torch.manual_seed(seed)
    found = []
    every = [problem for problem in asked for _ in range(SAMPLES)]
    for number, rollout in enumerate(sample(model, tokenizer, every, limit=limit)):
        known = {"response_ids": rollout.response}
        text, right = tokenizer.decode(rollout.response, skip_special_tokens=True), float(is_right(rollout, tokenizer))
        answers = (rollout.problem.answer,)
        record = Record(f"response {number}", str(rollout.problem), None, text, answers, right, known=known)
        found.append(Response(record, str(rollout.problem), right, len(rollout.response)))
    return found


def foretell(start: Path, scratch: Path, asked: list[Problem], limit: int = LIMIT, seed: int = 0) -> dict[str, Any]:
    """The advice for a start on these problems, and the figures that it rests on."""
    about = {"weights": fingerprint(str(start)), "settings": CONFIG.model_dump(mode="json"), "seed": seed}
    check_settings(scratch / f"{start.name}.json", about)
    model, tokenizer = scoring.load(str(start), "cpu", "float32"), scoring.load_tokenizer(str(start))
    found = responses(model, tokenizer, asked, limit, seed)
    scorer = Scorer(model, tokenizer, with_beta_per_nat(CONFIG, BETA_TOKENS))
    looked, _, unscored = look_at_all(found, Looker(scorer, seed), SeenFile(scratch / f"{start.name}.jsonl"), 0.0)
    if unscored:
        raise SystemExit(f"{unscored} responses of start {start.name} cannot be scored")
    told = outcomes(groups_of(found))
    seen = sight(looked, (CONFIG.episodes.method, CONFIGURED, CONFIG.gain.kind), seed)
    advice = verdict(told, seen)
    numbers = {"accuracy": told.accuracy, "mixed": told.mixed, "tokens": told.tokens}
    estimates = {name: _numbers(getattr(seen, name)) for name in ("rise", "within", "useful", "useful_before", "redundant")}
    return without_nan({"advice": advice.advice.name.lower()} | numbers | estimates)


def table(found: dict[str, Any], runs: list[Run], of_parts: list[Run]) -> str:
    """What was said of each start, and what training it came to, against GRPO."""
    rows, arms = [], ("length_penalty", "episode", BEST, DEFAULT)
    for name, told in found["starts"].items():
        if name in PARTS:
            names, of_start = {"length_penalty": parts.PENALTY}, of_starts(of_parts, (PARTS[name],))
            own = {arm: parts.confirming(of_start, names.get(arm, arm)) for arm in ("grpo", *arms)}
        else:
            own = {arm: confirming(of_starts(runs, (int(name),)), arm) for arm in ("grpo", *arms)}
        came = [tables.gaps(own[arm], own["grpo"])[0].text() if own[arm] else "–" for arm in arms]
        shown = [_words(told[figure]) for figure in ("rise", "useful_before", "within")]
        rows.append([name, told["advice"].replace("_", " "), *shown, *came])
    header = ["start", "advice", "J's rise before the answer", "own over needless before it", "right over wrong at the end"]
    return tables.table([*header, *(f"{TITLES[arm]}: Δ accuracy, points" for arm in arms)], rows)


def _words(numbers: list[float | None]) -> str:
    value, low, high = numbers
    return "–" if value is None or low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _numbers(estimate: Estimate) -> list[float]:
    return [round(value, 4) for value in (estimate.value, estimate.low, estimate.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--rare-questions", type=int, default=RARE_QUESTIONS, help="on the bed of parts")
    parser.add_argument("--scratch", type=Path, default=Path("runs/controlled/foretold"))
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    starts = sorted(folder for folder in STARTS_FOLDER.iterdir() if folder.is_dir())
    asked = list(itertools.islice(problems("validation", 0), arguments.questions))
    found = {start.name: foretell(start, arguments.scratch, asked) for start in starts}
    asked = list(itertools.islice(parts.BED.problems("validation", 0), arguments.rare_questions))
    found[LOST] = json.loads(FILE.read_text())["starts"][LOST]  # whose weights are gone
    found[KEPT] = foretell(parts.START, arguments.scratch, asked, bed.LIMIT)
    write_whole(FILE, json.dumps({"made by": made_by("cpu"), "starts": found}, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()

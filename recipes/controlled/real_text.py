"""Does the gain rank the steps of real solutions above needless ones? GSM8K's own solutions, scored by a real model.

python -m recipes.controlled.real_text --model runs/quickstart/models/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2t_verl import episodes, gain
from l2t_verl.packing import Branch, PackedRow
from l2t_verl.preflight.seen import FORWARD_KINDS
from recipes.controlled import scoring
from recipes.controlled.quality import auc, interval
from recipes.controlled.run import made_by, write
from recipes.controlled.words import NEEDLESS, SUFFIXES, TEXT_KINDS

DATA = Path(__file__).parent.parent / "quickstart" / "gsm8k.jsonl"
FILE = Path(__file__).parent / "real_text.json"
INSTRUCTION = 'Solve it step by step, one step per paragraph, and give the answer after "####".'
CLOSINGS = {"####": "\n", "boxed": "}", "sentence": ".\n"}
DECOYS, SAMPLES = 4, 4


@dataclass(frozen=True)
class Solution:
    """A written solution.

    Attributes:
        question: of the problem.
        answer: the right one.
        steps: its paragraphs.
        labels: `step`, or what was inserted (`restated`, `rechecked`, `foreign`).
    """

    question: str
    answer: str
    steps: list[str]
    labels: list[str]


def solutions(count: int, least: int = 3) -> list[Solution]:
    """The first solutions of the test split that have at least so many steps, as written.

    Example:
        >>> solutions(1)[0].labels[:3]
        ['step', 'step', 'step']
    """
    found = []
    for line in DATA.read_text().splitlines():
        row = json.loads(line)
        *steps, last = re.sub(r"<<.*?>>", "", row["answer"]).splitlines()
        if row["split"] == "test" and len(steps) >= least:
            found.append(
                Solution(row["question"], last.split("####")[1].strip().replace(",", ""), steps, ["step"] * len(steps))
            )
    return found[:count]


def with_needless(solution: Solution, others: list[Solution], draws: random.Random) -> Solution:
    """The same with needless steps: one after each second step, on average; a third of each kind."""
    steps, labels = [], []
    for i, step in enumerate(solution.steps):
        steps.append(step)
        labels.append("step")
        if draws.random() < 0.5:
            kind = draws.choice(NEEDLESS)
            labels.append(kind)
            if kind == "restated":
                steps.append(f"As found above: {draws.choice(solution.steps[: i + 1])}")
            elif kind == "rechecked":
                steps.append(f"Wait, let me check that again. {step} Yes, that is right.")
            else:
                steps.append(draws.choice(draws.choice([other for other in others if other != solution]).steps))
    return Solution(solution.question, solution.answer, steps, labels)


def shuffled(solution: Solution, draws: random.Random) -> tuple[Solution, list[int]]:
    """The same steps in another order, and which step stands where."""
    order = list(range(len(solution.steps)))
    while order == sorted(order):
        draws.shuffle(order)
    return Solution(solution.question, solution.answer, [solution.steps[i] for i in order], solution.labels), order


def scores(
    model: torch.nn.Module, tokenizer: Any, written: list[Solution], decoys: list[list[str]], name: str, seed: int
) -> tuple[list[dict[str, torch.Tensor]], dict[str, float]]:
    """[K+1] scores of each kind for each solution, with a forcing suffix; and what each kind reads.

    What is read are the forced answers' tokens over the responses' own: once for a score, once for each of the answers that
    `contrastive` compares, once for each sample.

    Raises:
        ValueError: the paragraphs that the segmenter finds are not the steps.
    """
    template = gain.ForcingTemplate(SUFFIXES[name], CLOSINGS[name], think_close="</think>")
    generator = np.random.default_rng(seed)
    rows, lengths, read = [], [], np.zeros(3)
    for solution, wrong in zip(written, decoys, strict=True):
        message = [{"role": "user", "content": f"{solution.question} {INSTRUCTION}"}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)
        response = tokenizer.encode("\n\n".join(solution.steps), add_special_tokens=False)
        ends = episodes.segment(response, tokenizer, method="paragraphs", thinking=False)
        if len(ends) != len(solution.steps):
            raise ValueError(f"{len(ends)} paragraphs in a solution of {len(solution.steps)} steps: {solution.steps}")
        branches, of_answers = [], []
        for answer in [solution.answer, *wrong]:
            targets = gain.answer_targets(tokenizer, prompt, response, ends, answer, template)
            branches += [
                Branch(len(prompt) + end, list(target.suffix_ids), list(target.answer_ids))
                for end, target in zip([0, *ends], targets, strict=True)
            ]
            of_answers.append(torch.tensor([len(target.answer_ids) for target in targets]))
        rows.append(PackedRow([*prompt, *response], branches))
        lengths.append(of_answers)
        forced = [len(branch.suffix) + len(branch.answer) for branch in branches]
        read += (len(response), sum(forced[: len(ends) + 1]), sum(forced))
    found = []
    for of_answers, log_probs in zip(lengths, scoring.forward(model, rows).answers, strict=True):
        width, split = len(of_answers[0]), iter(log_probs)
        tables = [
            torch.nn.utils.rnn.pad_sequence(list(itertools.islice(split, width)), batch_first=True) for _ in of_answers
        ]
        of_kind = {kind: gain.reduce_log_probs(tables[0], of_answers[0], kind=kind).double() for kind in FORWARD_KINDS}
        drawn = generator.binomial(SAMPLES, of_kind["probability"].clamp(0, 1).numpy())
        of_kind["monte_carlo"] = torch.from_numpy(drawn / SAMPLES)
        likely = [gain.reduce_log_probs(t, n, kind="geometric").double() for t, n in zip(tables, of_answers, strict=True)]
        of_kind["contrastive"] = likely[0] / sum(likely)
        found.append(of_kind)
    own, every = read[1:] / read[0]
    return found, {kind: {"monte_carlo": SAMPLES * own, "contrastive": every}.get(kind, own) for kind in TEXT_KINDS}


def measure(model: torch.nn.Module, tokenizer: Any, count: int, seed: int) -> dict[str, Any]:
    """AUCs of the gains, for each suffix and kind."""
    written = solutions(count)
    draws = random.Random(seed)
    inserted = [with_needless(solution, written, draws) for solution in written]
    mixed = [shuffled(solution, draws) for solution in written]
    decoys = [draws.sample(sorted({other.answer for other in written} - {solution.answer}), DECOYS) for solution in written]
    labels = np.array([label for solution in inserted for label in solution.labels])
    owners = np.repeat(np.arange(len(inserted)), [len(solution.steps) for solution in inserted])
    known = np.array([value for solution in inserted for value in _known(solution)], dtype=bool)
    found: dict[str, Any] = {"solutions": len(written), "steps": int((labels == "step").sum())}
    found["needless"] = {kind: int((labels == kind).sum()) for kind in NEEDLESS}
    for name in SUFFIXES:
        (of_written, read), (of_inserted, _), (of_mixed, _) = (
            scores(model, tokenizer, texts, decoys, name, seed)
            for texts in (written, inserted, [solution for solution, _ in mixed])
        )
        found[name] = {}
        for kind in TEXT_KINDS:
            gains = np.concatenate([s[kind].diff().numpy() for s in of_inserted])
            useful, needless, early = labels == "step", labels != "step", ~known
            ordered = np.concatenate([s[kind].diff().numpy() for s in of_written])
            elsewhere = np.concatenate(
                [s[kind].diff().numpy()[np.argsort(order)] for s, (_, order) in zip(of_mixed, mixed, strict=True)]
            )
            both = np.concatenate([ordered, elsewhere])
            first = np.arange(len(both)) < len(ordered)
            found[name][kind] = {
                "J start": float(np.mean([s[kind][0] for s in of_written])),
                "J end": float(np.mean([s[kind][-1] for s in of_written])),
                "steps over needless": auc(gains, useful, needless),
                "interval": interval(gains, useful, needless, owners),
                "before the answer is known": auc(gains, useful & early, needless & early),
                "interval before": interval(gains, useful & early, needless & early, owners),
                "by label": {label: auc(gains, useful, labels == label) for label in NEEDLESS},
                "in order over shuffled": auc(both, first, ~first),
                "negative before the answer": float((gains[useful & early & ~_states(inserted)] < 0).mean()),
                "read": float(read[kind]),
            }
    return found


def _known(solution: Solution) -> list[bool]:
    """Whether the answer was stated before each step."""
    return [any(_says(step, solution.answer) for step in solution.steps[:i]) for i in range(len(solution.steps))]


def _states(written: list[Solution]) -> np.ndarray:
    """Whether each step states the answer."""
    return np.array([_says(step, solution.answer) for solution in written for step in solution.steps], dtype=bool)


def _says(text: str, answer: str) -> bool:
    return re.search(rf"(?<![\d.]){re.escape(answer)}(?![\d]|\.\d)", text.replace(",", "")) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a hub name")
    parser.add_argument("--solutions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    found = measure(model, tokenizer, arguments.solutions, arguments.seed)
    write(arguments.file, {"model": Path(arguments.model).name, "seed": arguments.seed, "made by": made_by("cpu")} | found)


if __name__ == "__main__":
    main()

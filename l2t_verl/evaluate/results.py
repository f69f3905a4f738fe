"""What the samples say: one entry a benchmark, for JSON and for a table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2t_verl.data import Problem
from l2t_verl.evaluate.run import Settings, by_question
from l2t_verl.evaluate.statistics import bootstrap, majority, pass_at_k, powers_of_two
from l2t_verl.evaluate.store import Sample


def results(
    samples: Mapping[Any, Sample],
    benchmarks: Mapping[str, Sequence[Problem]],
    left_out: Mapping[str, int],
    settings: Settings,
) -> dict[str, Any]:
    """Compute the numbers of each benchmark, and of each of its tiers if it has some.

    Args:
        samples: of the run.
        benchmarks: their problems.
        left_out: for each benchmark, how many problems were left out because their own answer is not graded as right.
        settings: of the run.
    """
    found: dict[str, Any] = {}
    for name, problems in benchmarks.items():
        questions = dict(by_question(samples, name))
        entry = measures(questions) | {"left out": left_out.get(name, 0)}
        tiers = tiers_of(problems)
        levels = sorted(set(tiers.values()), key=lambda level: (len(level), level))
        if 1 < len(levels) <= 20:
            split = {level: {q: s for q, s in questions.items() if tiers.get(q) == level} for level in levels}
            entry["tiers"] = {level: measures(of) for level, of in split.items()}
        entry["budgets"] = {
            str(budget): accuracy_of(dict(by_question(samples, name, budget)))
            for budget in settings.budgets
            if any(sample.budget == budget and sample.benchmark == name for sample in samples.values())
        }
        found[name] = entry
    return found


def tiers_of(problems: Sequence[Problem]) -> dict[str, str]:
    """Find the tier of each problem that has a level.

    The tier is the level itself, or its whole part if levels have fractions, as Omni-MATH's have (1 to 10).

    Example:
        >>> tiers_of([Problem("a", "?", "1", "4.5"), Problem("b", "?", "1", "10.0"), Problem("c", "?", "1")])
        {'a': '4', 'b': '10'}
    """
    levels = {problem.id: problem.level for problem in problems if problem.level}
    if any(re.fullmatch(r"\d+\.\d+", level) for level in levels.values()):
        return {name: re.sub(r"^(\d+)\.\d+$", r"\1", level) for name, level in levels.items()}
    return levels


def accuracy_of(questions: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """pass@1 in %, as the mean over questions of the mean over samples, with its interval over questions."""
    means = np.array([np.mean([sample.score for sample in of]) for of in questions.values()])
    low, high = bootstrap(means)
    return {"pass@1": 100 * float(means.mean()), "interval": [100 * low, 100 * high]}


def measures(questions: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """All numbers of a set of questions with the same number of samples each."""
    everything = [sample for of in questions.values() for sample in of]
    n = len(next(iter(questions.values())))
    tokens = np.array([sample.tokens for sample in everything])
    thinking = np.array([sample.thinking_tokens for sample in everything])
    found = {"questions": len(questions), "samples": n} | accuracy_of(questions)
    for k in powers_of_two(n):
        right = [pass_at_k(n, round(sum(sample.score for sample in of)), k) for of in questions.values()]
        found[f"pass@{k}"] = 100 * float(np.mean(right))
        if any(sample.answer is not None for sample in everything):
            votes = [majority([s.answer for s in of], [s.score for s in of], k) for of in questions.values()]
            found[f"maj@{k}"] = 100 * float(np.mean(votes))
    mean_tokens = np.array([np.mean([sample.tokens for sample in of]) for of in questions.values()])
    return found | {
        "tokens": float(tokens.mean()),
        "tokens interval": list(bootstrap(mean_tokens)),
        "median tokens": float(np.median(tokens)),
        "thinking tokens": float(thinking.mean()),
        "answer tokens": float((tokens - thinking).mean()),
        "cut off": 100 * float(np.mean([sample.finish == "length" for sample in everything])),
        "accuracy per 1k tokens": found["pass@1"] / (float(tokens.mean()) / 1000) if tokens.sum() else math.nan,
        "not graded": dict(Counter(sample.grading for sample in everything if sample.grading != "ok")),
    }


def table(found: Mapping[str, Any], model: str) -> str:
    """A Markdown table of the shape of the paper's: accuracy of each benchmark and the average, then the tokens."""
    names = list(found)
    head = ["model", *names, "average"]
    accuracy = [f"{entry['pass@1']:.1f} ({entry['interval'][0]:.1f}–{entry['interval'][1]:.1f})" for entry in found.values()]
    average = np.mean([entry["pass@1"] for entry in found.values()])
    lines = [_line(head), _line(["---"] * len(head)), _line([f"{model}, pass@1, %", *accuracy, f"{average:.1f}"])]
    rows = {
        "tokens": "{:.0f}",
        "median tokens": "{:.0f}",
        "thinking tokens": "{:.0f}",
        "answer tokens": "{:.0f}",
        "cut off": "{:.1f} %",
        "accuracy per 1k tokens": "{:.1f}",
    }
    known = dict.fromkeys(key for entry in found.values() for key in entry if key.startswith(("pass@", "maj@")))
    for key, form in ({key: "{:.1f}" for key in known if key != "pass@1"} | rows).items():
        lines.append(_line([key, *(form.format(entry[key]) if key in entry else "–" for entry in found.values()), ""]))
    lines.append(_line(["questions × samples", *(f"{e['questions']} × {e['samples']}" for e in found.values()), ""]))
    lines.append(_line(["left out: own answer not graded", *(str(entry["left out"]) for entry in found.values()), ""]))
    lines.append(_line(["no grade, counted as wrong", *(_reasons(entry["not graded"]) for entry in found.values()), ""]))
    for name, entry in found.items():
        for title, part in (("tier", entry.get("tiers", {})), ("budget", entry["budgets"])):
            if part:
                lines += ["", f"{name}, pass@1 in % by {title}:", ""]
                lines += [_line([title, "pass@1", "interval"]), _line(["---"] * 3)]
                lines += [
                    _line([key, f"{of['pass@1']:.1f}", "{:.1f}–{:.1f}".format(*of["interval"])]) for key, of in part.items()
                ]
    return "\n".join(lines) + "\n"


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "0"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""How the graders read what people have: self-grades, wrong answers taken, right ones refused, samples a second.

    python tests/bench/grading.py FILE... [--cases FILE] [--traces FILE] [--baseline FOLDER] [--most 4000] [--json OUT]

FILE is an answer file that `l2t_verl.data` reads, or a folder of them; all draws are seeded. `--cases` is a list of inputs
with what is expected (see `handed`), `--traces` a JSON file of recorded responses (`tasks`, each with `correct_answer` and
`model_answers`), or a folder of them. `--baseline` is another checkout, whose pool is timed in turn with this one's. A
table of everything ends it; `--json` keeps what failed.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import logging
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.path.insert(0, str(Path(__file__).parents[1]))
from l2t_verl.data.rows import file_rows
from l2t_verl.grading import Grader, GradeResult, grade_math, grade_math_score

SEED = 20250510
COLUMNS = ("answer", "final_answer", "reward_model", "solution")
LIMIT = 2.0  # seconds for a hostile sample
# what, where it stands in the results, the bound, whether it is a lower one
TARGETS = [
    ("handed cases that do not hold", "handed cases.failing", 0, False),
    ("self-grades that fail", "answers.self-grades that fail", None, False),
    ("one-change mutants accepted", "answers.mutants accepted", 5, False),
    ("benign re-formattings refused", "answers.re-formattings refused", 5, False),
    ("real responses: right answers refused", "real responses.right answers refused", 0, False),
    ("real responses: cut-off thoughts paid", "real responses.cut-off thoughts paid", 0, False),
    ("hostile samples that are paid or outlast their limit", "hostile.failing", 0, False),
    ("samples after a hostile one that are not graded", "hostile.next ones not graded", 0, False),
    ("samples a second of the pool, over the baseline's", "samples a second.ratio", 1, True),
]
OUT_OF = {
    "handed cases.failing": "cases",
    "answers.self-grades that fail": "rows",
    "answers.mutants accepted": "mutants",
    "answers.re-formattings refused": "re-formattings",
    "real responses.right answers refused": "responses",
    "real responses.cut-off thoughts paid": "responses",
    "hostile.failing": "samples",
    "hostile.next ones not graded": "samples",
}


def truths(file: Path) -> list[str]:
    """The truths of a file as they stand there; of a list its first, of a written solution what follows `####`.

    None of programs: they have tests.
    """
    found = []
    for row in file_rows(file):
        if "entry_point" in row or "test_list" in row:
            continue
        value: Any = next((row[name] for name in COLUMNS if name in row), "")
        value = value.get("ground_truth") if isinstance(value, dict) else value
        value = (value or [""])[0] if isinstance(value, list) else value
        found.append(str("" if value is None else value).rpartition("####")[2].strip())
    return found


def verdict(response: str, truth: str, **options: Any) -> bool | str:
    """Whether it is graded as right, or why it has no grade."""
    signal.alarm(10)
    try:
        return grade_math(response, truth, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:100]
    finally:
        signal.alarm(0)


def is_distinctive(truth: str) -> bool:
    """Whether one changed character makes another answer: three digits or more, and no words."""
    return len(re.findall(r"\d", truth)) >= 3 and not re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+", "", truth))


def mutants(truth: str, draw: random.Random) -> Iterator[str]:
    """The truth with one digit changed, and with its sign changed."""
    places = [match.start() for match in re.finditer(r"\d", truth)]
    place = draw.choice(places)
    yield truth[:place] + draw.choice([d for d in "123456789" if d != truth[place]]) + truth[place + 1 :]
    if re.fullmatch(r"[\d.]+|\\frac\{\d+\}\{\d+\}", truth) and re.search("[1-9]", truth):
        yield f"-{truth}"


def reformatted(truth: str, draw: random.Random) -> str:
    """A response that states the truth in another dress."""
    forms = [
        f"The answer is $\\boxed{{{truth}}}$.", f"\\[\n\\boxed{{{truth}}}\n\\]", f"\\boxed{{ {truth} }}",
        f"\\boxed{{${truth}$}}",
        f"<think>Perhaps \\boxed{{-1}}?</think>\n\\boxed{{{truth}}}", f"<answer>{truth}</answer>", f"\\fbox{{{truth}}}",
        f"\\boxed{{{truth}.}}", f"\\boxed{{\\text{{The answer is }} {truth}}}",
    ]  # fmt: skip
    if re.fullmatch(r"\d{4,}", truth):
        grouped = f"{int(truth):,}"
        forms += [f"\\boxed{{{grouped.replace(',', by)}}}" for by in (",", "{,}", "\\,", " ", "~", "\\text{,}")]
    if "\\frac" in truth:
        forms.append(f"\\boxed{{{truth.replace(chr(92) + 'frac', chr(92) + 'dfrac')}}}")
    if re.fullmatch(r"-?[\d.]+", truth):
        forms += [f"\\boxed{{\\${truth}}}", f"#### {truth}", f"\\boxed{{{truth}\\text{{ cm}}}}", f"**Answer:** {truth}"]
        forms += [f"\\boxed{{{truth.replace('-', '−')}}}"]
    return draw.choice(forms)


def counts(known: list[str], most: int) -> dict[str, Any]:
    """Self-grades of all, mutants and re-formattings of a draw."""
    draw = random.Random(SEED)
    own = {truth: verdict(f"\\boxed{{{truth}}}", truth) for truth in dict.fromkeys(known)}
    failing = [truth for truth in known if own[truth] is not True]
    good = sorted(truth for truth, right in own.items() if right is True)
    distinctive = [truth for truth in good if is_distinctive(truth)]
    changed = [
        (new, truth) for truth in draw.sample(distinctive, min(most, len(distinctive))) for new in mutants(truth, draw)
    ]
    taken = [pair for pair in changed[:most] if verdict(f"\\boxed{{{pair[0]}}}", pair[1]) is True]
    plain = [truth for truth in good if "\\boxed" not in truth and "$" not in truth and "\\[" not in truth]
    dressed = [(reformatted(truth, draw), truth) for truth in draw.sample(plain, min(most, len(plain)))]
    refused = [pair for pair in dressed if verdict(*pair) is not True]
    return {
        "rows": len(known), "self-grades that fail": len(failing), "failing": sorted(set(failing)),
        "mutants": len(changed[:most]), "mutants accepted": len(taken), "accepted": taken,
        "re-formattings": len(dressed), "re-formattings refused": len(refused), "refused": refused,
    }  # fmt: skip


def real(files: list[Path]) -> dict[str, Any]:
    """Recorded responses: right answers refused, and thoughts that were cut off and are paid.

    A model of whose responses some close a thought thinks in all of them: its prompts have opened it.
    """
    tasks = [task for file in files for task in json.loads(file.read_text())["tasks"]]
    thinks = {name for task in tasks for name, text in task["model_answers"].items() if "</think>" in text}
    knows = "opened" in inspect.signature(grade_math).parameters
    refused, paid, total = [], [], 0
    for task in tasks:
        truth = task["correct_answer"].rpartition("####")[2].strip().replace(",", "")
        for name, text in task["model_answers"].items():
            total += 1
            is_cut = name in thinks and "</think>" not in text
            right = verdict(text, truth, **({"opened": True} if knows and name in thinks else {})) is True
            box = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text.rpartition("</think>")[2])
            stated = [re.sub(r"[^\d.\-]", "", of.split("=")[-1]).rstrip(".").removesuffix(".00") for of in box[-1:]]
            if is_cut and right:
                paid.append(text[-100:])
            elif not is_cut and not right and stated == [truth]:
                refused.append((text[-200:], truth))
    return {
        "responses": total,
        "right answers refused": len(refused),
        "cut-off thoughts paid": len(paid),
        "refused": refused,
    }


def hostile() -> dict[str, Any]:
    """Each hostile answer in the pool, with an honest one after it."""
    from hostile_answers import HOSTILE

    async def run() -> list[tuple[str, GradeResult, float, GradeResult]]:
        grader = Grader(workers=1, seconds_per_sample=LIMIT)
        try:
            await grader.grade(grade_math_score, "\\boxed{4}", "4")
            found = []
            for name, response in HOSTILE.items():
                start = time.perf_counter()
                result = await grader.grade(grade_math_score, response, "4")
                seconds = time.perf_counter() - start
                found.append((name, result, seconds, await grader.grade(grade_math_score, "\\boxed{4}", "4")))
            return found
        finally:
            grader.close()

    found = asyncio.run(run())
    failing = [name for name, result, seconds, _ in found if result.score or seconds > LIMIT + 3]
    lost = [name for name, _, _, after in found if after.score != 1]
    return {
        "samples": len(found), "failing": len(failing), "next ones not graded": len(lost), "names": failing + lost,
        "slowest (s)": max(seconds for _, _, seconds, _ in found),
    }  # fmt: skip


async def _rate(pairs: list[tuple[str, str]]) -> float:
    grader = Grader(workers=2, seconds_per_sample=10.0)
    try:
        await grader.grade(grade_math_score, "\\boxed{1}", "1")
        await asyncio.gather(*(grader.grade(grade_math_score, f"\\boxed{{{n}}}", "1") for n in range(20)))
        start = time.perf_counter()
        await asyncio.gather(*(grader.grade(grade_math_score, *pair) for pair in pairs))
        return len(pairs) / (time.perf_counter() - start)
    finally:
        grader.close()


def rates(files: list[str], baseline: Path | None) -> dict[str, Any]:
    """Samples a second of the pool, three times, in turn with the baseline's; each in a fresh process."""
    here = Path(__file__).parents[2]
    found: dict[str, Any] = {"here": [], **({"baseline": []} if baseline else {})}
    for _ in range(3):
        for name in found:
            root = here if name == "here" else baseline
            code = f"import sys; sys.path.insert(0, {str(root)!r}); import runpy; "
            code += f"runpy.run_path({str(Path(__file__).resolve())!r})['print_rate']({files!r})"
            run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
            found[name].append(float(run.stdout.split()[-1]))
    return found | ({"ratio": statistics.median(found["here"]) / statistics.median(found["baseline"])} if baseline else {})


def print_rate(files: list[str]) -> None:
    """The rate of the checkout that stands first on the path."""
    draw = random.Random(SEED)
    known = [truth for file in files for truth in truths(Path(file)) if truth]
    drawn = draw.sample(known, min(3000, len(known)))
    stated = [truth if number % 2 else drawn[number - 1] for number, truth in enumerate(drawn)]  # half of them wrong
    pairs = [(f"So it is \\boxed{{{text}}}.", truth) for text, truth in zip(stated, drawn, strict=True)]
    print(asyncio.run(_rate(pairs)))


def table(found: dict[str, Any]) -> str:
    """The targets with what was measured, as Markdown."""
    lines = ["| what | target | measured |", "|---|---|---|"]
    for what, path, bound, lower in TARGETS:
        section, _, name = path.partition(".")
        if (value := found.get(section, {}).get(name)) is None:
            continue
        met = bound is None or (value >= bound if lower else value <= bound)
        target = "listed" if bound is None else f"{'≥' if lower else '≤'} {bound}"
        of = found[section].get(OUT_OF.get(path, ""))
        shown = f"{value:.2f}" if isinstance(value, float) else f"{value}"
        lines.append(f"| {what} | {target} | {shown}{f' of {of}' if of else ''}{'' if met else ' (missed)'} |")
    return "\n".join(lines)


def expanded(paths: list[Path]) -> list[Path]:
    """The files that are read, of folders too."""
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def main() -> None:
    """Count, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--most", type=int, default=4000, help="mutants and re-formattings drawn")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-rate", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, _too_slow)
    files = expanded(arguments.files)
    found: dict[str, Any] = {}
    if arguments.cases:
        from handed import failing

        total, wrong = failing(arguments.cases, files)
        found["handed cases"] = {"cases": total, "failing": len(wrong), "which": wrong}
    found["answers"] = counts([truth for file in files for truth in truths(file)], arguments.most)
    if arguments.traces:
        found["real responses"] = real(expanded([arguments.traces]))
    found["hostile"] = hostile()
    if not arguments.no_rate:
        found["samples a second"] = rates([str(file.resolve()) for file in files], arguments.baseline)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(text + "\n")


def _too_slow(*_: object) -> None:
    raise TimeoutError("more than 10 s")


if __name__ == "__main__":
    main()

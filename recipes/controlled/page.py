"""Tables and plots of RESULTS.md from the runs' files; the text between them is left as it is.

python -m recipes.controlled.page
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from recipes.controlled.evaluation import BUDGETS
from recipes.controlled.labels import LABELS, REMOVABLE, USEFUL
from recipes.controlled.plans import ALL, ARMS, BEST, FRONTIER, LONG, LONG_STEPS, MEASURED, OTHERS, STARTS
from recipes.controlled.quality import KINDS
from recipes.controlled.real_text import FILE as REAL_TEXT
from recipes.controlled.real_text import KINDS as REAL_KINDS
from recipes.controlled.real_text import NEEDLESS, SUFFIXES
from recipes.controlled.task import TIERS
from recipes.controlled.through_verl import FOLDER as THROUGH_VERL

FOLDER = Path(__file__).parent
Run = dict[str, Any]
TITLES = {"start": "start"} | {name: arm.title for name, arm in ALL.items()}


def load(folder: Path) -> list[Run]:
    """All runs of a folder, in the order of their names."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def confirming(runs: list[Run], arm: str, strength: float | str | None = None) -> dict[int, Run]:
    """An arm's runs on the test problems at the chosen strength or at another, by seed."""
    wanted = ALL[arm].chosen if strength is None and arm in ALL else strength
    of_arm = [run for run in runs if run["settings"]["arm"] == arm and run["settings"]["split"] == "test"]
    return {run["settings"]["seed"]: run for run in of_arm if arm not in ALL or strength_of(run["settings"]) == wanted}


def with_interval(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean and 95 % interval (Student's t) as text."""
    mean, half = mean_and_half(values)
    return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval; NaN for a single value's width."""
    if len(values) < 2:
        return (values[0] if values else float("nan")), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    found, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = round(largest, 12)
    return found


def removed(run: Run, base: Run, labels: frozenset[str]) -> float:
    """Share of the baseline's tokens of these labels that a run does not write, over all tiers."""
    own, other = (
        sum(tier["tokens by label"][label] for tier in r["evaluation"]["tiers"].values() for label in labels)
        for r in (run, base)
    )
    return 1 - own / other if other else float("nan")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def arms_table(runs: list[Run], arms: list[str]) -> str:
    """Accuracy and tokens of each arm, and the differences paired by seed with GRPO, Holm-corrected over the arms."""
    base, start = confirming(runs, "grpo"), confirming(runs, "start")
    rows, tests = [], []
    for arm in ["start", *arms]:
        own = confirming(runs, arm)
        if not own:
            continue
        row = [TITLES[arm], str(len(own))]
        row += [with_interval([r["evaluation"]["accuracy"] for r in own.values()], 100)]
        row += [with_interval([r["evaluation"]["tokens"] for r in own.values()])]
        kls = [np.mean([point["kl"] for point in r["curve"][-10:]]) for r in own.values() if r["curve"]]
        row += [with_interval(kls) if kls else "0"]
        shared = sorted(set(own) & set(base))
        if arm in ("grpo", "start") or len(shared) < 2:
            row += ["–"] * 4
        else:
            gaps = [own[s]["evaluation"]["accuracy"] - base[s]["evaluation"]["accuracy"] for s in shared]
            ratios = [own[s]["evaluation"]["tokens"] / base[s]["evaluation"]["tokens"] - 1 for s in shared]
            row += [with_interval(gaps, 100), None, with_interval(ratios, 100), None]
            tests.append((len(rows), gaps, ratios))
        if start and arm != "start":
            of_start = {
                s: start[min(start, key=lambda seed: start[seed]["settings"]["start"] != r["settings"]["start"])]
                for s, r in own.items()
            }
            for labels in (REMOVABLE, USEFUL):
                row.append(with_interval([removed(own[s], of_start[s], labels) for s in own], 100, 0))
        else:
            row += ["–", "–"]
        rows.append(row)
    for column, which in ((6, 1), (8, 2)):
        corrected = holm([float(stats.ttest_1samp(test[which], 0).pvalue) for test in tests])
        for test, p in zip(tests, corrected, strict=True):
            rows[test[0]][column] = f"{p:.2g}"
    header = [
        "arm",
        "seeds",
        "accuracy, %",
        "tokens",
        "KL, nats",
        "Δ accuracy, points",
        "p",
        "Δ tokens, %",
        "p",
        "removable tokens gone, %",
        "necessary lost, %",
    ]
    return table(header, rows)


def short_table(runs: list[Run]) -> str:
    """What the first screen of the README shows: differences are paired by seed with GRPO."""
    base = confirming(runs, "grpo")
    rows = []
    for arm in ARMS:
        own = confirming(runs, arm)
        if not own:
            continue
        shared = [] if arm == "grpo" else sorted(set(own) & set(base))
        gaps = [100 * (own[s]["evaluation"]["accuracy"] - base[s]["evaluation"]["accuracy"]) for s in shared]
        ratios = [100 * (own[s]["evaluation"]["tokens"] / base[s]["evaluation"]["tokens"] - 1) for s in shared]
        values = [[r["evaluation"][key] for r in own.values()] for key in ("accuracy", "tokens")]
        rows.append(
            [
                TITLES[arm],
                str(len(own)),
                with_interval(values[0], 100),
                with_interval(values[1]),
                with_interval(gaps) if gaps else "–",
                with_interval(ratios, digits=0) if ratios else "–",
            ]
        )
    return table(["arm", "seeds", "accuracy, %", "tokens", "Δ accuracy, points", "Δ tokens, %"], rows)


def starts_table(runs: list[Run]) -> str:
    """Accuracy and differences from GRPO for each start: `short_table` of its seeds."""
    rows = []
    for start in STARTS:
        of_start = [run for run in runs if run["settings"]["start"] == start]
        for line in short_table(of_start).splitlines()[2:]:
            rows.append([str(start), *[cell.strip() for cell in line.strip("| ").split("|")]])
    return table(["start", "arm", "seeds", "accuracy, %", "tokens", "Δ accuracy, points", "Δ tokens, %"], rows)


def tiers_table(runs: list[Run], arms: list[str]) -> str:
    """Accuracy and tokens by tier."""
    rows = []
    for arm in ["start", *arms]:
        own = confirming(runs, arm).values()
        if own:
            cells = [
                f"{with_interval([r['evaluation']['tiers'][tier]['accuracy'] for r in own], 100)} / "
                f"{with_interval([r['evaluation']['tiers'][tier]['tokens'] for r in own])}"
                for tier in TIERS
            ]
            rows.append([TITLES[arm], *cells])
    return table(["arm (accuracy, % / tokens)", *TIERS], rows)


def frontier(runs: list[Run]) -> dict[str, list[tuple[float, float, float]]]:
    """For each arm its tuning runs: (strength, mean tokens, mean accuracy) in the order of strength."""
    found: dict[str, dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        settings = run["settings"]
        if settings["split"] == "validation":
            found[settings["arm"]][strength_of(settings)].append(run)
    return {
        arm: [
            (
                strength,
                float(np.mean([r["evaluation"]["tokens"] for r in group])),
                float(np.mean([r["evaluation"]["accuracy"] for r in group])),
            )
            for strength, group in sorted(of_arm.items())
        ]
        for arm, of_arm in sorted(found.items(), key=lambda item: list(TITLES).index(item[0]))
    }


def choose(points: dict[str, list[tuple[float, float, float]]]) -> dict[str, float]:
    """The strength of each arm that is confirmed, from the tuning runs: one rule for all.

    For GRPO the most accurate. For the others the fewest tokens among those at most one point less accurate than that; the
    most accurate if none is.

    Example:
        >>> choose({"grpo": [(1e-4, 60, 0.7), (2e-4, 65, 0.8)], "shaped": [(1.0, 50, 0.8), (2.0, 40, 0.795), (4.0, 9, 0.6)]})
        {'grpo': 0.0002, 'shaped': 2.0}
    """
    best = {arm: max(of_arm, key=lambda point: point[2]) for arm, of_arm in points.items()}
    found = {}
    for arm, of_arm in points.items():
        good = [point for point in of_arm if point[2] >= best["grpo"][2] - 0.01]
        found[arm] = (min(good, key=lambda point: point[1]) if good and arm != "grpo" else best[arm])[0]
    return found


def strength_of(settings: dict[str, Any]) -> float:
    """The value of the arm's strength in a run's settings."""
    path = ALL[settings["arm"]].strength
    if path in settings:
        return settings[path]
    node = settings["l2t"]
    for name in path.split("."):
        node = node[name]
    return node


def frontier_table(runs: list[Run]) -> str:
    """The tuning runs."""
    rows = [
        [TITLES[arm], f"`{ALL[arm].strength}`={strength:g}", f"{100 * accuracy:.1f}", f"{tokens:.1f}"]
        for arm, points in frontier(runs).items()
        for strength, tokens, accuracy in points
    ]
    return table(["arm", "strength", "accuracy, %", "tokens"], rows)


def against_penalty_table(runs: list[Run]) -> str:
    """Points of L2T's frontiers on fresh seeds, and what the length penalty's frontier has at as many tokens.

    The length penalty's accuracy is interpolated between its strengths for each seed; beyond its ends the end's holds.
    """
    strengths = sorted({0.0, ALL["length_penalty"].chosen, *FRONTIER["length_penalty"]})
    line = {  # strength 0 is GRPO
        value: confirming(runs, "length_penalty", value) if value else confirming(runs, "grpo") for value in strengths
    }
    rows = []
    for arm in ARMS:
        if arm in ("grpo", "length_penalty"):
            continue
        for strength in sorted({ALL[arm].chosen, *FRONTIER.get(arm, ())}):
            own = confirming(runs, arm, strength)
            shared = sorted(set(own).intersection(*line.values()))
            if len(shared) < 2:
                continue
            points = {
                seed: sorted(
                    (of_seed[seed]["evaluation"]["tokens"], of_seed[seed]["evaluation"]["accuracy"])
                    for of_seed in line.values()
                )
                for seed in shared
            }
            there = [np.interp(own[seed]["evaluation"]["tokens"], *zip(*points[seed], strict=True)) for seed in shared]
            accuracy = [own[seed]["evaluation"]["accuracy"] for seed in shared]
            rows.append(
                [
                    TITLES[arm],
                    f"`{ALL[arm].strength}`={strength:g}",
                    str(len(shared)),
                    with_interval([own[seed]["evaluation"]["tokens"] for seed in shared]),
                    f"{100 * np.mean(accuracy):.1f}",
                    f"{100 * np.mean(there):.1f}",
                    with_interval([a - b for a, b in zip(accuracy, there, strict=True)], 100),
                ]
            )
    header = ["arm", "strength", "seeds", "tokens", "accuracy, %", "length penalty's there, %", "difference, points"]
    return table(header, rows)


def quality_runs(runs: list[Run], arm: str) -> list[Run]:
    """An arm's runs with a quality."""
    return [run for run in confirming(runs, arm).values() if "quality" in run]


def quality_table(runs: list[Run], arms: list[str]) -> str:
    """AUC of useful above removable episodes, by kind of J."""
    rows = []
    for arm in ["start", *arms]:
        own = quality_runs(runs, arm)
        if not own:
            continue
        for kind in KINDS:
            of_kind = [run["quality"][kind] for run in own]
            average = lambda read, group=of_kind: np.mean([read(q) for q in group])  # noqa: E731
            low, high = (average(lambda q, i=i: q["gain"]["interval"][i]) for i in (0, 1))
            cells = [
                TITLES[arm],
                f"`{kind}`",
                f"{average(lambda q: q['gain']['useful over removable']):.2f} ({low:.2f}–{high:.2f})",
            ]
            cells += [
                f"{average(lambda q, k=k: q['gain'][k]):.2f}" for k in ("before the answer is known", "useful over mistakes")
            ]
            cells += [f"{average(lambda q: q['process reward']['useful over removable']):.2f}"]
            cells += [f"{average(lambda q: q['J_K and correctness']):.2f}", f"{average(lambda q: q['sd(βC)/sd(g)']):.2f}"]
            rows.append(cells)
        penalty = [run["quality"]["penalty"] for run in own]
        low, high = (np.mean([q["interval"][i] for q in penalty]) for i in (0, 1))
        value = np.mean([q["useful over removable"] for q in penalty])
        known = [f"{np.mean([q[k] for q in penalty]):.2f}" for k in ("before the answer is known", "useful over mistakes")]
        rows.append([TITLES[arm], "−C alone", f"{value:.2f} ({low:.2f}–{high:.2f})", *known, "–", "–", "–"])
    header = [
        "policy",
        "J",
        "AUC of g",
        "before a* is known",
        "over mistakes",
        "AUC of g − βC",
        "J_K with correctness, in groups",
        "sd(βC)/sd(g)",
    ]
    return table(header, rows)


def credit_table(runs: list[Run], arms: list[str]) -> str:
    """How token advantages follow the labels."""
    rows = []
    for arm in ["start", *arms]:
        own = quality_runs(runs, arm)
        for name in own[0]["quality"]["credit"] if own else ():
            values = [run["quality"]["credit"][name] for run in own]
            keys = ("correlation", "within", "exploding", "flipped", "stop")
            means = [np.nanmean([v[k] for v in values]) if any(v[k] == v[k] for v in values) else float("nan") for k in keys]
            rows.append([TITLES[arm], name, *[f"{m:.2f}" for m in means]])
    header = [
        "policy",
        "credit",
        "correlation with labels",
        "within a response",
        "share |A| > 5",
        "sign flipped",
        "gap at the decision to stop",
    ]
    return table(header, rows)


def real_table(found: Run) -> str:
    """AUC of real steps above needless ones, by forcing suffix and kind of J."""
    rows = []
    for name, suffix in SUFFIXES.items():
        for kind in REAL_KINDS:
            own = found[name][kind]
            (low, high), (low_before, high_before) = own["interval"], own["interval before"]
            rows.append(
                [
                    f"`{suffix!r}`".replace("'", ""),
                    f"`{kind}`",
                    f"{own['steps over needless']:.2f} ({low:.2f}–{high:.2f})",
                    f"{own['before the answer is known']:.2f} ({low_before:.2f}–{high_before:.2f})",
                    *[f"{own['by label'][label]:.2f}" for label in NEEDLESS],
                    f"{own['in order over shuffled']:.2f}",
                    f"{100 * own['negative before the answer']:.0f}",
                    f"{own['J start']:.2f} → {own['J end']:.2f}",
                ]
            )
    header = [
        "forcing suffix",
        "J",
        "AUC of g, steps over needless",
        "before a* is stated",
        *[f"over {label}" for label in NEEDLESS],
        "in order over shuffled",
        "negative before a*, %",
        "J_0 → J_K",
    ]
    return table(header, rows)


def long_table(runs: list[Run]) -> str:
    """What becomes of a policy that is trained long: means over seeds of the evaluation and of the last ten steps."""
    rows = []
    for arm in [name.removeprefix("long_") for name in LONG]:
        for name, title in ((arm, "60"), (f"long_{arm}", str(LONG_STEPS))):
            own = [run for seed, run in confirming(runs, name).items() if seed in confirming(runs, f"long_{arm}")]
            if not own:
                continue
            late = [point for run in own for point in run["curve"][-10:]]
            mean = {key: np.mean([point[key] for point in late]) for key in late[0]}
            labels = [tier["tokens by label"] for run in own for tier in run["evaluation"]["tiers"].values()]
            rows.append(
                [
                    TITLES[arm],
                    title,
                    f"{100 * np.mean([run['evaluation']['accuracy'] for run in own]):.1f}",
                    f"{np.mean([run['evaluation']['tokens'] for run in own]):.1f}",
                    f"{mean['episodes']:.2f}",
                    f"{mean['tokens'] / max(mean['episodes'], 1e-9):.1f}",
                    f"{np.mean([of_tier['other'] for of_tier in labels]):.2f}",
                    f"{np.mean([of_tier['mistake'] for of_tier in labels]):.2f}",
                    f"{mean['J start']:.2f} → {mean['J end']:.2f}",
                    f"{mean['kl']:.1f}",
                ]
            )
    header = ["arm", "steps", "accuracy, %", "tokens", "episodes", "tokens of one", "tokens of unknown steps", "of mistakes"]
    return table([*header, "J_0 → J_K", "KL, nats"], rows)


def verl_table(runs: list[Run], through: list[Run]) -> str:
    """Training through verl itself beside the loop's: the same start, problems and settings, other samples."""
    rows = []
    for run in through:
        settings, curve = run["settings"], run["curve"]
        own = confirming(runs, settings["arm"]).get(settings["seed"])
        for name, points in (("main_ppo, vLLM, FSDP2", curve), ("the loop", own["curve"][: len(curve)] if own else [])):
            late = points[len(points) // 2 :]
            if points:
                means = [np.mean([point[key] for point in late]) for key in ("accuracy", "tokens", "episodes", "J end")]
                cells = [f"{100 * means[0]:.1f}", f"{means[1]:.1f}", f"{means[2]:.2f}", f"{means[3]:.3f}"]
                span = f"{len(points) - len(late) + 1}–{len(points)}"
                rows.append([TITLES[settings["arm"]], name, f"{points[0]['J start']:.3f}", span, *cells])
    header = ["arm", "trained by", "J_0 at step 1", "mean over steps", "accuracy, %", "tokens", "episodes", "J_K"]
    return table(header, rows)


def plot_main(runs: list[Run], file: Path) -> None:
    """Accuracy over tokens: confirmed arms with intervals, tuning runs as thin lines."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), constrained_layout=True)
    colours = {arm: f"C{i}" for i, arm in enumerate(ARMS)}
    for arm, points in frontier(runs).items():
        if arm not in ARMS:
            continue
        _, tokens, accuracy = zip(*points, strict=True)
        axes.plot(tokens, 100 * np.array(accuracy), "-", marker=".", color=colours[arm], alpha=0.35, linewidth=1)
    for arm in ["start", *ARMS]:
        own = list(confirming(runs, arm).values())
        if own:
            (x, dx), (y, dy) = (mean_and_half([r["evaluation"][k] for r in own]) for k in ("tokens", "accuracy"))
            style = {"fmt": "X" if arm == "start" else "o", "color": colours.get(arm, "black"), "capsize": 3}
            axes.errorbar(x, 100 * y, xerr=dx, yerr=100 * dy, label=f"{TITLES[arm].replace('`', '')} ({len(own)})", **style)
    axes.set(xlabel="tokens of a response (test problems)", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(title="arm (seeds), 95 % interval", fontsize=8)
    _save(figure, file)


def plot_curves(runs: list[Run], file: Path) -> None:
    """Training curves: means over seeds, smoothed over five steps."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for arm in ARMS:
        own = list(confirming(runs, arm).values())
        for axis, name in zip(axes, ("accuracy", "tokens", "kl"), strict=True):
            if own:
                curves = np.array([[point[name] for point in run["curve"]] for run in own]).mean(axis=0)
                axis.plot(np.convolve(curves, np.ones(5) / 5, mode="valid"), label=TITLES[arm].replace("`", ""))
                axis.set(xlabel="step", title={"kl": "KL to the start, nats a response"}.get(name, name))
                axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    _save(figure, file)


def plot_budgets(runs: list[Run], file: Path) -> None:
    """Accuracy against tokens of thinking."""
    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for arm in ["start", *ARMS]:
        own = list(confirming(runs, arm).values())
        if own:
            values = np.array([[run["evaluation"]["budgets"][str(b)] for b in BUDGETS] for run in own]).mean(axis=0)
            axes.plot(
                BUDGETS,
                100 * values,
                marker=".",
                color="black" if arm == "start" else None,
                label=TITLES[arm].replace("`", ""),
            )
    axes.set(xlabel="budget, tokens of thinking", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, file)


def plot_labels(runs: list[Run], file: Path) -> None:
    """Tokens of a response by what its steps are."""
    arms = [arm for arm in ["start", *ARMS] if confirming(runs, arm)]
    figure, axes = plt.subplots(figsize=(7, 3.6), constrained_layout=True)
    left = np.zeros(len(arms))
    for label in LABELS:
        values = np.array(
            [
                np.mean(
                    [
                        np.mean([t["tokens by label"][label] for t in r["evaluation"]["tiers"].values()])
                        for r in confirming(runs, arm).values()
                    ]
                )
                for arm in arms
            ]
        )
        axes.barh([TITLES[arm].replace("`", "") for arm in arms], values, left=left, label=label)
        left += values
    axes.invert_yaxis()
    axes.set(xlabel="tokens of a response, mean over tiers")
    axes.legend(fontsize=7, ncols=7, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def fill(text: str, tables: dict[str, str]) -> str:
    """Put tables between their marks `<!-- name -->` and `<!-- end -->`.

    Raises:
        ValueError: a table has no place, or a mark no table.

    Example:
        >>> fill("<!-- a --><!-- end -->", {"a": "| 1 |"})
        '<!-- a -->\\n| 1 |\\n<!-- end -->'
    """
    marks = re.findall(r"<!-- (?!end)(.+?) -->", text)
    if sorted(marks) != sorted(tables):
        raise ValueError(f"the page has places for {', '.join(sorted(marks))}; there are tables {', '.join(sorted(tables))}")
    put: Callable[[re.Match], str] = lambda m: f"<!-- {m[1]} -->\n{tables[m[1]]}\n<!-- end -->"  # noqa: E731
    return re.sub(r"<!-- (?!end)(.+?) -->.*?<!-- end -->", put, text, flags=re.DOTALL)


def tables(runs: list[Run], real: Run, through: list[Run]) -> dict[str, str]:
    """All tables of the page, from the runs, from what `real_text` found, and from the runs through verl."""
    return {
        "long": long_table(runs),
        "real": real_table(real),
        "verl": verl_table(runs, through),
        "arms": arms_table(runs, list(ARMS)),
        "controls": arms_table(runs, ["grpo", BEST, *OTHERS]),
        "by start": starts_table(runs),
        "tiers": tiers_table(runs, list(ARMS)),
        "frontier": frontier_table(runs),
        "against the length penalty": against_penalty_table(runs),
        "quality": quality_table(runs, list(MEASURED)),
        "credit": credit_table(runs, list(MEASURED)),
    }


def pages(runs: list[Run]) -> dict[Path, str]:
    """The pages with the tables that belong in them."""
    whole = tables(runs, json.loads(REAL_TEXT.read_text()), load(THROUGH_VERL))
    of_page = {FOLDER / "RESULTS.md": whole, FOLDER.parents[1] / "README.md": {"controlled comparison": short_table(runs)}}
    return {page: fill(page.read_text(), of_tables) for page, of_tables in of_page.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    parser.add_argument("--plots", type=Path, default=FOLDER / "plots")
    parser.add_argument("--plot-only", action="store_true", help="the plots, and the table of arms on the screen; no page")
    arguments = parser.parse_args()
    runs = load(arguments.results)
    if not runs:
        raise SystemExit(f"{arguments.results} holds no runs: make them with python -m recipes.controlled.grid one")
    for name, plot in {"main": plot_main, "curves": plot_curves, "budgets": plot_budgets, "labels": plot_labels}.items():
        plot(runs, arguments.plots / f"{name}.png")
    if arguments.plot_only:
        print(short_table(runs))
        print(f"plots: {arguments.plots}")
        return
    for page, text in pages(runs).items():
        partial = page.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, page)


if __name__ == "__main__":
    main()

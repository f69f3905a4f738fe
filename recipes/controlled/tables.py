"""The tables of RESULTS.md."""

from __future__ import annotations

import numpy as np
from scipy import stats

from recipes.controlled.comparison import (
    TITLES,
    Run,
    confirming,
    frontier,
    holm,
    length_penalty_at_equal_length,
    of_starts,
    removed,
    with_interval,
)
from recipes.controlled.labels import REMOVABLE, USEFUL
from recipes.controlled.plans import ACROSS_ARMS, ALL, ARMS, FRESH_STARTS, FRONTIER, LONG, LONG_STEPS, STARTS
from recipes.controlled.quality import KINDS
from recipes.controlled.real_text import KINDS as REAL_KINDS
from recipes.controlled.real_text import NEEDLESS, SUFFIXES
from recipes.controlled.task import TIERS


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def arms_table(runs: list[Run], arms: list[str], other: str = "grpo", equal_length: bool = False) -> str:
    """Accuracy and tokens of each arm, and the differences paired by seed with another, Holm-corrected over the arms.

    With `equal_length` the accuracy is also compared with the length penalty's at as many tokens.
    """
    base, start = confirming(runs, other), confirming(runs, "start")
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
        if arm in (other, "start") or len(shared) < 2:
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
        if equal_length:
            there = {} if arm in ("start", "grpo") else length_penalty_at_equal_length(runs, own)
            gaps = [own[s]["evaluation"]["accuracy"] - there[s] for s in there]
            row.append(with_interval(gaps, 100) if gaps else "–")
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
        *(["over the length penalty at equal length, points"] if equal_length else []),
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
    for start in (*STARTS, *FRESH_STARTS):
        for line in short_table(of_starts(runs, (start,))).splitlines()[2:]:
            rows.append([str(start), *[cell.strip() for cell in line.strip("| ").split("|")]])
    return table(["start", "arm", "seeds", "accuracy, %", "tokens", "Δ accuracy, points", "Δ tokens, %"], rows)


def across_table(runs: list[Run]) -> str:
    """Differences from GRPO for a start that nobody has seen: each start's mean counts once, intervals are over starts."""
    rows = []
    for arm in ACROSS_ARMS[1:]:
        means = []
        for start in (*STARTS, *FRESH_STARTS):
            own, base = (confirming(of_starts(runs, (start,)), name) for name in (arm, "grpo"))
            pairs = [(own[seed]["evaluation"], base[seed]["evaluation"]) for seed in sorted(set(own) & set(base))]
            if pairs:
                gaps = [(a["accuracy"] - b["accuracy"], a["tokens"] / b["tokens"] - 1) for a, b in pairs]
                means.append(np.mean(gaps, axis=0))
        if means:
            rows.append([TITLES[arm], str(len(means)), *(with_interval([m[i] for m in means], 100) for i in (0, 1))])
    return table(["arm", "starts", "Δ accuracy, points", "Δ tokens, %"], rows)


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


def frontier_table(runs: list[Run]) -> str:
    """The tuning runs."""
    rows = [
        [TITLES[arm], f"`{ALL[arm].strength}`={strength:g}", f"{100 * accuracy:.1f}", f"{tokens:.1f}"]
        for arm, points in frontier(runs).items()
        for strength, tokens, accuracy in points
    ]
    return table(["arm", "strength", "accuracy, %", "tokens"], rows)


def against_penalty_table(runs: list[Run]) -> str:
    """Points of L2T's frontiers on fresh seeds, and what the length penalty's frontier has at as many tokens."""
    rows = []
    for arm in ARMS:
        for strength in [] if arm in ("grpo", "length_penalty") else sorted({ALL[arm].chosen, *FRONTIER.get(arm, ())}):
            own = confirming(runs, arm, strength)
            there = length_penalty_at_equal_length(runs, own)
            if len(there) < 2:
                continue
            accuracy = {seed: own[seed]["evaluation"]["accuracy"] for seed in there}
            rows.append(
                [
                    TITLES[arm],
                    f"`{ALL[arm].strength}`={strength:g}",
                    str(len(there)),
                    with_interval([own[seed]["evaluation"]["tokens"] for seed in there]),
                    f"{100 * np.mean(list(accuracy.values())):.1f}",
                    f"{100 * np.mean(list(there.values())):.1f}",
                    with_interval([accuracy[seed] - there[seed] for seed in there], 100),
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
            areas = []
            for what in ("gain", "process reward"):
                value = average(lambda q, what=what: q[what]["useful over removable"])
                low, high = (average(lambda q, i=i, what=what: q[what]["interval"][i]) for i in (0, 1))
                areas.append(f"{value:.2f} ({low:.2f}–{high:.2f})")
            cells = [TITLES[arm], f"`{kind}`", areas[0]]
            cells += [
                f"{average(lambda q, k=k: q['gain'][k]):.2f}" for k in ("before the answer is known", "useful over mistakes")
            ]
            cells += [
                areas[1],
                f"{average(lambda q: q['J_K and correctness']):.2f}",
                f"{average(lambda q: q['sd(βC)/sd(g)']):.2f}",
            ]
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
            rows.append([TITLES[arm], name, *["–" if np.isnan(m) else f"{m:.2f}" for m in means]])
    header = [
        "policy",
        "credit",
        "correlation with labels",
        "within a response",
        "share beyond ±5",
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

"""The tables of RESULTS.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.controlled.comparison import (
    TITLES,
    AtEqualLength,
    Run,
    accuracy,
    confirming,
    frontier,
    late,
    length_penalty_at_equal_length,
    of_starts,
    paired,
    removed,
    start,
    tokens,
    values,
)
from recipes.controlled.intervals import Estimate, estimate, holm
from recipes.controlled.plans import (
    ACROSS_ARMS,
    ALL,
    ARMS,
    BEST,
    BUDGET,
    BUDGETS,
    CANDIDATES,
    FEW,
    FRESH_STARTS,
    FRONTIER,
    LONG,
    LONG_STEPS,
    OTHERS,
    OUTCOMES,
    ROUNDED,
    STARTS,
    Arm,
)
from recipes.controlled.task import TIERS
from recipes.controlled.words import CREDITS, KINDS, NEEDLESS, REMOVABLE, STRENGTHS, SUFFIXES, TEXT_KINDS, USEFUL


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def key_table() -> str:
    """The arms' names in words, those that commands and files have, and what is set for each at its chosen strength."""
    best, rows = _settings(ALL[BEST]), []
    for name, arm in (ARMS | CANDIDATES | OTHERS).items():
        own, text = _settings(arm), ""
        if name != BEST and set(best) <= set(own) and own["credit.method"] == best["credit.method"]:
            own, text = {path: value for path, value in own.items() if best.get(path) != value}, f"`{BEST}`, "
        rows.append([arm.title, f"`{name}`", text + " ".join(f"`{path}={value}`" for path, value in own.items())])
    return table(["arm", "in commands", "settings"], rows)


def _settings(arm: Arm) -> dict[str, Any]:
    """What an arm sets below `algorithm.l2t`, by dotted path, and in `Settings`."""
    tree = arm.tree(arm.chosen)
    return dict(_leaves(tree)) | ({arm.strength: arm.chosen} if tree is arm.l2t else {})


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def arms_table(runs: list[Run], arms: list[str]) -> str:
    """Accuracy and tokens of each arm, and the differences paired by seed with GRPO's, Holm-corrected over the arms."""
    return _arms(runs, arms, _to_grpo(runs, arms), {})


def controls_table(runs: list[Run], arms: list[str], best: str) -> str:
    """The same for few seeds, with the differences from all of the best arm's runs on the same starts, not paired by seed.

    The last column is the accuracy over the length penalty's at as many tokens, paired by seed.
    """
    base = confirming(runs, best).values()
    of_start = {number: float(np.mean([tokens(run) for run in base if start(run) == number])) for number in map(start, base)}
    percent = lambda run: 100 * tokens(run) / of_start[start(run)]  # noqa: E731
    differences, equal_length = {}, {}
    for arm in arms:
        own = confirming(runs, arm)
        if arm != best and len(own) > 1:
            differences[arm] = (
                estimate(values(own.values(), accuracy), values(base, accuracy)),
                estimate(values(own.values(), percent), values(base, percent)),
            )
        there = {} if arm == "grpo" else length_penalty_at_equal_length(runs, own)
        equal_length[arm] = _over(own, there) if there else "–"
    return _arms(runs, arms, differences, {"over the length penalty at equal length, points": equal_length})


def outcomes_table(runs: list[Run]) -> str:
    """What others reward, beside the main arms on the same seeds; the last column as in the controls' table."""
    alike = [run for run in runs if run["settings"]["seed"] in FEW]
    arms = ["grpo", "length_penalty", *OUTCOMES, *CANDIDATES]
    differences = _to_grpo(alike, arms)
    own = {arm: confirming(alike, arm) for arm in differences}
    equal_length = {arm: _over(own[arm], length_penalty_at_equal_length(alike, own[arm])) for arm in differences}
    return _arms(alike, arms, differences, {"over the length penalty at equal length, points": equal_length})


def _to_grpo(runs: list[Run], arms: list[str]) -> dict[str, tuple[Estimate, Estimate]]:
    """`gaps` to GRPO of the arms that share more than one seed with it."""
    base, found = confirming(runs, "grpo"), {}
    for arm in arms:
        own = confirming(runs, arm)
        if arm != "grpo" and len(set(own) & set(base)) > 1:
            found[arm] = gaps(own, base)
    return found


def gaps(own: dict[int, Run], base: dict[int, Run]) -> tuple[Estimate, Estimate]:
    """Differences paired by seed: accuracy in points, tokens in percent of the base's."""
    return (
        estimate(paired(own, base, lambda a, b: accuracy(a) - accuracy(b))),
        estimate(paired(own, base, lambda a, b: 100 * (tokens(a) / tokens(b) - 1))),
    )


def _at_equal_length(own: dict[int, Run], there: dict[int, AtEqualLength]) -> Estimate:
    """Accuracy over the length penalty's at equal length."""
    return estimate([(start(own[seed]), accuracy(own[seed]) - of_seed.accuracy) for seed, of_seed in there.items()])


def _over(own: dict[int, Run], there: dict[int, AtEqualLength]) -> str:
    """The same in words, marked where some run lies beyond its ends."""
    return _at_equal_length(own, there).text() + " †" * any(of_seed.beyond for of_seed in there.values())


def _arms(
    runs: list[Run],
    arms: list[str],
    differences: dict[str, tuple[Estimate, Estimate]],
    further: dict[str, dict[str, str]],
) -> str:
    untrained = confirming(runs, "start")
    corrected = [holm([found[i].p for found in differences.values()]) for i in (0, 1)]
    p_values = {arm: of_arm for arm, *of_arm in zip(differences, *corrected, strict=True)}
    rows = []
    for arm in ["start", *arms]:
        own = confirming(runs, arm)
        if not own:
            continue
        row = [TITLES[arm], str(len(own)), *(estimate(values(own.values(), read)).text() for read in (accuracy, tokens))]
        trained = [run for run in own.values() if run["curve"]]
        row.append(estimate(values(trained, lambda run: late(run, "kl"))).text() if trained else "0")
        for i in (0, 1):
            row += (
                [differences[arm][i].text(), f"{p:.2g}" if (p := p_values[arm][i]) >= 1e-9 else "< 1e-9"]
                if arm in differences
                else ["–", "–"]
            )
        for labels in (REMOVABLE, USEFUL):
            if arm == "start" or not untrained:
                row.append("–")
                continue
            of_start = {start(run): run for run in reversed(untrained.values())}
            shares = [(start(run), removed(run, of_start[start(run)], labels)) for run in own.values()]
            row.append(estimate(shares).text(100, 0))
        rows.append(row + [column.get(arm, "–") for column in further.values()])
    header = ["arm", "seeds", "accuracy, %", "tokens", "KL, nats", "Δ accuracy, points", "p", "Δ tokens, %", "p"]
    return table([*header, "removable tokens gone, %", "necessary lost, %", *further], rows)


def short_table(runs: list[Run]) -> str:
    """What the first screen of the README shows: differences are paired by seed with GRPO."""
    base = confirming(runs, "grpo")
    rows = []
    for arm in ["start", *ARMS, *CANDIDATES]:
        own = confirming(runs, arm)
        if own:
            row = [TITLES[arm], str(len(own)), *(estimate(values(own.values(), read)).text() for read in (accuracy, tokens))]
            found = gaps(own, base) if arm not in ("start", "grpo") and set(own) & set(base) else ()
            rows.append(row + ([found[0].text(), found[1].text(digits=0)] if found else ["–", "–"]))
    return table(["arm", "seeds", "accuracy, %", "tokens", "Δ accuracy, points", "Δ tokens, %"], rows)


def starts_table(runs: list[Run]) -> str:
    """Accuracy and differences from GRPO for each start: `short_table` of its seeds."""
    rows = []
    for number in (*STARTS, *FRESH_STARTS):
        for line in short_table(of_starts(runs, (number,))).splitlines()[2:]:
            rows.append([str(number), *[cell.strip() for cell in line.strip("| ").split("|")]])
    return table(["start", "arm", "seeds", "accuracy, %", "tokens", "Δ accuracy, points", "Δ tokens, %"], rows)


def across_table(runs: list[Run]) -> str:
    """Differences from GRPO for a start that nobody has seen: each start's mean counts once, intervals are over starts."""
    rows = []
    for arm in ACROSS_ARMS[1:]:
        means = []
        for number in (*STARTS, *FRESH_STARTS):
            own, base = (confirming(of_starts(runs, (number,)), name) for name in (arm, "grpo"))
            if set(own) & set(base):
                means.append([found.mean for found in gaps(own, base)])
        if means:
            rows.append([TITLES[arm], str(len(means)), *_over_starts(means)])
    return table(["arm", "starts", "Δ accuracy, points", "Δ tokens, %"], rows)


def _over_starts(means: list[list[float]]) -> list[str]:
    """Each column's estimate from a row of means for each start: starts are the unit here, so none is held fixed."""
    return [estimate([(0, mean) for mean in column]).text() for column in zip(*means, strict=True)]


def beside_penalty_table(runs: list[Run]) -> str:
    """Differences from the length penalty at its chosen strength, paired by seed.

    At whatever length each has; and at equal length, on the line from that point to GRPO's, which all seeds have.
    """
    rows, chosen = [], (ALL["length_penalty"].chosen,)
    for arm in (BEST, *CANDIDATES):
        means = []
        for numbers in (STARTS, *((number,) for number in (*STARTS, *FRESH_STARTS))):
            among = of_starts(runs, numbers)
            own, base = confirming(among, arm), confirming(among, "length_penalty")
            if not (seeds := set(own) & set(base)):
                continue
            found = (*gaps(own, base), _at_equal_length(own, length_penalty_at_equal_length(among, own, chosen)))
            if len(numbers) == 1:
                means.append([each.mean for each in found])
            rows.append([TITLES[arm], " and ".join(map(str, numbers)), str(len(seeds)), *(each.text() for each in found)])
        if len(means) > 1:
            rows.append([TITLES[arm], f"{len(means)}, each once", "–", *_over_starts(means)])
    header = ["arm", "start", "seeds", "Δ accuracy, points", "Δ tokens, %", "Δ accuracy at equal length, points"]
    return table(header, rows)


def tiers_table(runs: list[Run], arms: list[str]) -> str:
    """Accuracy and tokens by tier."""
    rows = []
    for arm in ["start", *arms]:
        own = confirming(runs, arm).values()
        if own:
            cells = []
            for tier in TIERS:
                right, length = (
                    estimate([(start(run), run["evaluation"]["tiers"][tier][key]) for run in own])
                    for key in ("accuracy", "tokens")
                )
                cells.append(f"{right.text(100)} / {length.text()}")
            rows.append([TITLES[arm], *cells])
    return table(["arm (accuracy, % / tokens)", *TIERS], rows)


def frontier_table(runs: list[Run]) -> str:
    """The tuning runs."""
    rows = [
        [TITLES[arm], f"{STRENGTHS[ALL[arm].strength]} {strength:g}", f"{100 * right:.1f}", f"{length:.1f}"]
        for arm, points in frontier(runs).items()
        for strength, length, right in points
    ]
    return table(["arm", "strength", "accuracy, %", "tokens"], rows)


def against_penalty_table(runs: list[Run]) -> str:
    """Points of L2T's frontiers on fresh seeds, and what the length penalty's frontier has at as many tokens."""
    rows = []
    for arm in ARMS | CANDIDATES:
        for strength in [] if arm in ("grpo", "length_penalty") else sorted({ALL[arm].chosen, *FRONTIER.get(arm, ())}):
            every = confirming(runs, arm, strength)
            there = length_penalty_at_equal_length(runs, every)
            own = {seed: every[seed] for seed in there}
            if len(own) < 2:
                continue
            rows.append(
                [
                    TITLES[arm],
                    f"{STRENGTHS[ALL[arm].strength]} {strength:g}",
                    str(len(own)),
                    estimate(values(own.values(), tokens)).text(),
                    f"{np.mean([accuracy(run) for run in own.values()]):.1f}",
                    f"{np.mean([of_seed.accuracy for of_seed in there.values()]):.1f}",
                    _over(own, there),
                    *(_over(own, {seed: there[seed] for seed in there if start(own[seed]) == number}) for number in STARTS),
                ]
            )
    header = ["arm", "strength", "seeds", "tokens", "accuracy, %", "length penalty's there, %", "difference, points"]
    return table([*header, *(f"on start {number}" for number in STARTS)], rows)


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
            cells = [TITLES[arm], KINDS[kind], areas[0]]
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
            rows.append([TITLES[arm], CREDITS[name], *["–" if np.isnan(m) else f"{m:.2f}" for m in means]])
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
        for kind in TEXT_KINDS:
            own = found[name][kind]
            (low, high), (low_before, high_before) = own["interval"], own["interval before"]
            rows.append(
                [
                    f"`{suffix!r}`".replace("'", ""),
                    TEXT_KINDS[kind],
                    f"{own['steps over needless']:.2f} ({low:.2f}–{high:.2f})",
                    f"{own['before the answer is known']:.2f} ({low_before:.2f}–{high_before:.2f})",
                    *[f"{own['by label'][label]:.2f}" for label in NEEDLESS],
                    f"{own['in order over shuffled']:.2f}",
                    f"{100 * own['negative before the answer']:.0f}",
                    f"{own['J start']:.2f} → {own['J end']:.2f}",
                    f"{100 * own['read']:.0f}",
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
        "read beside the response, %",
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
            mean = {key: np.mean([late(run, key) for run in own]) for key in own[0]["curve"][-1]}
            labels = [tier["tokens by label"] for run in own for tier in run["evaluation"]["tiers"].values()]
            rows.append(
                [
                    TITLES[f"long_{arm}"].removesuffix(", long"),
                    title,
                    f"{100 * np.mean([run['evaluation']['accuracy'] for run in own]):.1f}",
                    f"{np.mean([run['evaluation']['tokens'] for run in own]):.1f}",
                    f"{mean['episodes']:.2f}",
                    f"{mean['tokens'] / mean['episodes']:.1f}" if mean["episodes"] > 0.01 else "–",
                    f"{np.mean([of_tier['other'] for of_tier in labels]):.2f}",
                    f"{np.mean([of_tier['mistake'] for of_tier in labels]):.2f}",
                    f"{mean['J start']:.2f} → {mean['J end']:.2f}",
                    f"{mean['kl']:.1f}",
                ]
            )
    header = ["arm", "steps", "accuracy, %", "tokens", "episodes", "tokens to each, tail included"]
    return table([*header, "tokens of unknown steps", "of mistakes", "J_0 → J_K", "KL, nats"], rows)


def rounded_table(runs: list[Run]) -> str:
    """What an arm comes to when it computes in bfloat16, beside its own runs in float32 with the same seeds and starts."""
    rows = []
    for name in ROUNDED:
        rounded, exact = confirming(runs, name), confirming(runs, name.removeprefix("bfloat16_"))
        for seed in sorted(set(rounded) & set(exact)):
            for run, precision in ((exact[seed], "float32"), (rounded[seed], "bfloat16")):
                row = [TITLES[name].removesuffix(", in bfloat16"), str(start(run)), precision]
                row += [f"{accuracy(run):.1f}", f"{tokens(run):.1f}", f"{late(run, 'kl'):.2f}"]
                rows.append([*row, f"{late(run, 'penalty'):.4f}", f"{late(run, 'gain'):.3f}"])
    return table(["arm", "start", "computes in", "accuracy, %", "tokens", "KL, nats", "C of an episode, nats", "g"], rows)


LAST = 30  # steps of a run with a budget that are averaged


def over_budget(run: Run) -> float:
    """Mean tokens of right responses over the last steps of a run with a budget, as a share of the budget, less 1."""
    return float(np.mean([point["correct tokens"] for point in run["curve"][-LAST:]])) / BUDGET - 1


def budget_table(runs: list[Run]) -> str:
    """Tokens of right responses over the last steps with a 95 % interval over steps, and the extremes of ten on the way."""
    rows = []
    for run in [run for name in BUDGETS for run in runs if run["settings"]["arm"] == name]:
        lengths = [point["correct tokens"] for point in run["curve"]]
        half = 1.96 * np.std(lengths[-LAST:], ddof=1) / LAST**0.5
        tens = [np.mean(lengths[i : i + 10]) for i in range(0, len(lengths), 10)]
        costs = [run["curve"][step]["length cost"] for step in (0, -1)]
        row = [TITLES[run["settings"]["arm"]], f"{costs[0]:.1f} → {costs[1]:.1f}"]
        row += [f"{np.mean(lengths[-LAST:]):.1f} ± {half:.1f}", f"{100 * over_budget(run):+.1f}"]
        rows.append([*row, f"{max(tens):.0f}, {min(tens):.0f}", f"{accuracy(run):.1f}"])
    header = ["run", "λ, first → last", "tokens", "over the budget, %", "most, least on the way"]
    return table([*header, "accuracy on validation problems, %"], rows)


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

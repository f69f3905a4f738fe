"""Tables and plots of RESULTS.md from the tables of runs; the text between them is left as it is.

python -m recipes.controlled.page
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

from l2t_verl.files import write_whole
from recipes.controlled import plots, tables
from recipes.controlled.comparison import Run, load, of_starts
from recipes.controlled.plans import ARMS, BEST, CANDIDATES, MEASURED, OTHERS, STARTS
from recipes.controlled.table import FILE as TABLE

FOLDER = Path(__file__).parent
FRONTIER = "frontier.svg"


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


def all_tables(every: list[Run], real: Run, through: list[Run]) -> dict[str, str]:
    """All tables of the page, from the runs, from what `real_text` found, and from the runs through verl.

    The fresh starts were trained by a few arms alone, so that they stand in tables of their own.
    """
    runs = of_starts(every, STARTS)
    return {
        "key": tables.key_table(),
        "short": tables.short_table(runs),
        "long": tables.long_table(runs),
        "real": tables.real_table(real),
        "bfloat16": tables.rounded_table(runs),
        "token budget": tables.budget_table(runs),
        "verl": tables.verl_table(runs, through),
        "arms": tables.arms_table(runs, [*ARMS, *CANDIDATES]),
        "controls": tables.controls_table(runs, ["grpo", BEST, *OTHERS], BEST),
        "outcomes": tables.outcomes_table(runs),
        "by start": tables.starts_table(every),
        "across starts": tables.across_table(every),
        "beside the length penalty": tables.beside_penalty_table(every),
        "tiers": tables.tiers_table(runs, list(ARMS)),
        "frontier": tables.frontier_table(runs),
        "against the length penalty": tables.against_penalty_table(runs),
        "quality": tables.quality_table(runs, list(MEASURED)),
        "credit": tables.credit_table(runs, list(MEASURED)),
    }


def pages(every: list[Run]) -> dict[Path, str]:
    """The pages with the tables that belong in them, and the drawing that both show."""
    # with torch and verl, which a plot does not need
    from recipes.controlled import agreement, foretold, parts, real_text, sparse, through_verl

    whole = all_tables(every, json.loads(real_text.FILE.read_text()), load(through_verl.FOLDER))
    whole["sparse"] = sparse.table(load(sparse.TABLE))
    of_parts = load(parts.TABLE)
    whole["parts"], whole["parts, tuning"] = parts.table(of_parts), parts.tuning_table(of_parts)
    whole["agreement"] = agreement.table(json.loads(agreement.FILE.read_text()))
    whole["foretold"] = foretold.table(json.loads(foretold.FILE.read_text()), every, of_parts)
    of_page = {
        FOLDER / "RESULTS.md": whole,
        FOLDER.parents[1] / "README.md": {"controlled comparison": tables.short_table(of_starts(every, STARTS))},
    }
    drawn = {FOLDER / "plots" / FRONTIER: plots.frontier(of_starts(every, STARTS))}
    return {page: fill(page.read_text(), of_tables) for page, of_tables in of_page.items()} | drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=TABLE, help="table, or a folder of runs")
    parser.add_argument("--plots", type=Path, default=FOLDER / "plots")
    parser.add_argument("--plot-only", action="store_true", help="the plots, and the table of arms on the screen; no page")
    arguments = parser.parse_args()
    every = load(arguments.results)
    if not every:
        raise SystemExit(f"{arguments.results} holds no runs: make them with python -m recipes.controlled.grid one")
    runs = of_starts(every, STARTS)
    for name, plot in plots.PLOTS.items():
        plot(runs, arguments.plots / f"{name}.png")
    if arguments.plot_only:
        (arguments.plots / FRONTIER).write_text(plots.frontier(runs))
        print(tables.short_table(runs))
        print(f"plots: {arguments.plots}")
        return
    for page, text in pages(every).items():
        write_whole(page, text)


if __name__ == "__main__":
    main()

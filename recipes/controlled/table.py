"""All runs in one file, results.parquet: a row for each run, and one for each of its steps.

python -m recipes.controlled.table FOLDER [--table FILE]    adds the runs of a folder to the table, each under its name

    import pandas as pd
    table = pd.read_parquet("recipes/controlled/results.parquet")
    table[table["step"].isna() & (table["split"] == "test")].groupby("arm")[["accuracy", "tokens"]].mean()

A run's row has no step; its accuracy (a share) and tokens are those of the evaluation, and what is nested (settings, the
whole configuration, what it was made by, evaluation, quality) is JSON. A step's row has what training measured at that step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from l2t_verl.files import whole

FILE = Path(__file__).with_name("results.parquet")
PLAIN = ("arm", "seed", "start", "split")  # of a run's settings, as columns of their own
NESTED = ("settings", "made by", "configuration", "evaluation", "quality")


def table_of(runs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The table of runs by their names.

    Raises:
        KeyError: a run holds something that has no place in the table.
    """
    rows: list[dict[str, Any]] = []
    for name, run in sorted(runs.items()):
        if extra := set(run) - {*NESTED, "curve", "seconds"}:
            raise KeyError(f"{name}: there is no column for {', '.join(sorted(extra))}")
        plain = {"run": name} | {key: run["settings"][key] for key in PLAIN}
        measured = {key: run["evaluation"][key] for key in ("accuracy", "tokens")} | {"seconds": run["seconds"]}
        rows.append(plain | measured | {key: json.dumps(run[key]) for key in NESTED if key in run})
        rows += [plain | {"step": step} | point for step, point in enumerate(run["curve"], 1)]
    return pd.DataFrame(rows).astype({"step": "Int64"})


def runs_of(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The runs of a table, as each run's own file has them; what a step did not measure is not a number."""
    nested = [key for key in NESTED if key in table]
    points = [column for column in table if column not in (*nested, "run", "step", *PLAIN)]
    steps = dict(list(table[table["step"].notna()].groupby("run")))
    found = {}
    for row in table[table["step"].isna()].to_dict("records"):
        run = {key: json.loads(row[key]) for key in nested if isinstance(row[key], str)} | {"seconds": row["seconds"]}
        own = steps.get(row["run"])
        run["curve"] = [] if own is None else own.sort_values("step")[points].to_dict("records")
        found[str(row["run"])] = run
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs' files")
    parser.add_argument("--table", type=Path, default=FILE)
    arguments = parser.parse_args()
    runs = runs_of(pd.read_parquet(arguments.table)) if arguments.table.exists() else {}
    new = {file.stem: json.loads(file.read_text()) for file in sorted(arguments.folder.glob("*.json"))}
    if not new:
        raise SystemExit(f"{arguments.folder} holds no runs: make them with python -m recipes.controlled.grid one")
    with whole(arguments.table) as partial:
        table_of(runs | new).to_parquet(partial, compression="zstd", index=False)
    print(f"{arguments.table}: {len(runs | new)} runs, {len(new)} of them from {arguments.folder}")


if __name__ == "__main__":
    main()

"""Runs of a plan in as many processes as there are cores; what is done already is not done again.

python -m recipes.controlled.grid one
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from recipes.controlled.plans import PLANS
from recipes.controlled.settings import Settings

RESULTS = Path("runs/controlled/results")  # RESULTS.md's are in one table: recipes/controlled/table.py
STARTS_FOLDER = Path(__file__).parent / "starts"


def work(settings: list[Settings], starts: Path, results: Path, processes: int) -> list[str]:
    """Make the starts that are needed, then do the runs; those that fail are named at the end.

    Returns:
        A line for each run that failed.
    """
    failed = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recipes.controlled.run"])  # torch and verl are imported once, not by each process
    # a run is worth minutes: each is done as soon as a process is free, and its file is whole when it is done
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare) as pool:
        missing = [seed for seed in sorted({s.start for s in settings}) if not (starts / str(seed)).is_dir()]
        for made in [pool.submit(_make_start, seed, starts / str(seed)) for seed in missing]:
            made.result()
        futures: dict[Future, Settings] = {pool.submit(_run, s, starts / str(s.start), results): s for s in settings}
        for done, future in enumerate(as_completed(futures), 1):
            name = futures[future].name
            if error := future.exception():
                failed.append(f"{name}: {type(error).__name__}: {error}")
            print(f"[{done} of {len(futures)}] {name}{': failed' if error else ''}", flush=True)
    return failed


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)  # one run a core


def _make_start(seed: int, folder: Path) -> None:
    from recipes.controlled import start

    model, tokenizer = start.train(seed)
    start.save(model, tokenizer, folder, {"seed": seed, "steps": start.STEPS})


def _run(settings: Settings, start: Path, results: Path) -> None:
    from recipes.controlled.run import run

    run(settings, start, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=[*PLANS, "all"])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--starts", type=Path, default=STARTS_FOLDER, help="folder of the starts; those missing are made")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, help="updates of each run, in place of the plan's")
    parser.add_argument("--test", type=int, help="problems of each evaluation, in place of the plan's")
    arguments = parser.parse_args()
    smaller = {name: value for name in ("steps", "test") if (value := getattr(arguments, name)) is not None}
    chosen = [
        dataclasses.replace(s, **smaller)
        for name, plan in PLANS.items()
        if arguments.plan == name or (arguments.plan == "all" and name != "one")  # whose runs `main` holds
        for s in plan
    ]
    chosen = list({s.name: s for s in chosen}.values())
    failed = work(chosen, arguments.starts, arguments.results, arguments.processes)
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} of {len(chosen)} runs failed:", *failed]))


if __name__ == "__main__":
    main()

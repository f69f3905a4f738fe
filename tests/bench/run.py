"""The benchmark of the process-reward engine: every ratio that the page of costs states, from one run in one process.

    python tests/bench/run.py [--device cuda] [--repeats 8] [--json tests/bench/results/cpu.json]

On a CPU a small model and everything; with `--device cuda` Qwen2.5-1.5B's shape with random weights in bfloat16, and the
parts that need torch and transformers only. Times are medians over the repeats, taken in turn; compare ratios.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import advantages
import derivatives
import imports
import scores
import step

# what, where it stands in the results, the bound, whether it is a lower one
TARGETS = [
    ("packed against expanded, float32, worst mean log p (nats)", "scores.main.largest difference (nats)", 1e-4, False),
    ("… bfloat16, as a multiple of expanded's own error", "scores.bfloat16.ratio", 1.5, False),
    ("all scores / plain pass, time", "scores.main.packed / plain", 0.75, False),
    ("all scores / plain pass, memory", "scores.main.packed / plain, memory", 0.25, False),
    ("fused, on top of the plain pass", "scores.main.fused on top", 0.5, False),
    ("operations at Qwen2.5-1.5B's shape, T 8,192, K 30 (counted): all scores / plain pass", "scores.counted.packed / plain",
     1.05, False),
    ("… fused, on top (counted)", "scores.counted.fused on top", 0.15, False),
    ("prefixes one by one with all logits / packed", "scores.main.one by one / packed", 10, True),
    ("expanded / packed", "scores.main.expanded / packed", 5, True),
    ("K 64 / K 4 at T 2,048", "scores.most / fewest episodes", 2, False),
    ("log-log slope in T, 512 … 4,096", "scores.slope in tokens", 1.3, False),
    ("log_ratio, share of a step", "step.log_ratio / step", 0.01, False),
    ("directional / plain pass", "derivatives.directional / plain", 2.3, False),
    ("directional against exact, full rank, relative 2-norm", "derivatives.directional against exact", 1e-3, False),
    ("shaped / vectorised GRPO", "advantages.ratios.shaped", 2, False),
    ("step, L2T / GRPO", "step.l2t / grpo", 1.15, False),
    ("seconds that the plugin adds to `import verl`", "imports.plugin adds (s)", 0.2, False),
]  # fmt: skip


def table(results: dict) -> str:
    """The targets with what was measured, as Markdown."""
    lines = ["| what | target | measured |", "|---|---|---|"]
    for what, path, bound, lower in TARGETS:
        value: object = results
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            met = value >= bound if lower else value <= bound
            lines.append(f"| {what} | {'≥' if lower else '≤'} {bound:g} | {value:.3g}{'' if met else ' (missed)'} |")
    return "\n".join(lines)


def machine(device: str) -> dict:
    """What it ran on."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else (names or [platform.processor()])[0],
        "threads": torch.get_num_threads(),
        "dtype": "bfloat16" if device == "cuda" else "float32",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Run all sections that the device and the environment allow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", type=Path, default=None, help="where the results are written")
    arguments = parser.parse_args()
    sections = {
        "scores": lambda: scores.run(arguments.device, arguments.repeats),
        "derivatives": lambda: derivatives.run(arguments.device, arguments.repeats),
    }
    if arguments.device == "cpu" and importlib.util.find_spec("verl"):
        os.environ.setdefault("VERL_PLATFORM", "cpu")
        import verl  # noqa: F401 - before anything of ours that it loads

        sections["advantages"] = lambda: advantages.run(arguments.repeats)
        sections["imports"] = lambda: imports.run(arguments.repeats)
        sections["step"] = lambda: step.run(max(2, arguments.repeats // 2))
    results = {"machine": machine(arguments.device), "repeats": arguments.repeats}
    print(results["machine"], flush=True)
    for name, section in sections.items():
        results[name] = section()
        print(name, json.dumps(results[name], indent=1, ensure_ascii=False), flush=True)
    print(table(results))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        partial = arguments.json.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        partial.replace(arguments.json)


if __name__ == "__main__":
    main()

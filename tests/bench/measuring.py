"""Times as medians over repeats, taken in turn so that a noisy machine hits all alike; and memory beyond what was there."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int, device: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each call and its last result; the first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    results = {}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            gc.collect()
            _wait(device)
            start = time.perf_counter()
            results[name] = call()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}, results


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most memory that a call held beyond what was there: torch's allocator on a GPU, its profiler on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

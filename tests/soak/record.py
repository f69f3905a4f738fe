"""What the soak has tried: one JSON file, written after each trial, from which it goes on."""

import json
import os
import platform
from pathlib import Path

from l2t_verl.files import write_whole

COMMAND = "python tests/soak --work FOLDER"


class Record:
    """Trials in a file; a trial is known by its seed and what it is of."""

    def __init__(self, file: Path):
        self.file = file
        self.trials: list[dict] = json.loads(file.read_text())["trials"] if file.exists() else []

    def has(self, what: str, seed: int) -> bool:
        return any((trial["what"], trial["seed"]) == (what, seed) for trial in self.trials)

    def add(self, what: str, seed: int, fault: str, moment: str, outcome: str) -> None:
        self.trials.append({"what": what, "seed": seed, "fault": fault, "moment": moment, "outcome": outcome})
        found = {"command": COMMAND, "machine": machine(), "trials": self.trials}
        write_whole(self.file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(f"{what}, seed {seed}: {fault} {moment}: {outcome}", flush=True)

    def failed(self) -> list[dict]:
        return [trial for trial in self.trials if not trial["outcome"].startswith(("equal", "ended", "survived"))]


def machine() -> dict:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"cores": os.cpu_count(), "processor": model.partition(":")[2].strip(), "python": platform.python_version()}

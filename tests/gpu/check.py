"""Runs the sections of sections.py, each in a process of its own with a time limit; writes result.json and page.md.

python tests/gpu/check.py --device cuda|cpu --out FOLDER [--only SECTION …]    (bash tests/gpu/run.sh makes the environment)

A section that fails is recorded with the last lines of its log, and the others go on. Both files are written whole, at the
end, or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sections import DIFFERS, FAILS, NEEDS_GPU, SECTIONS, WORKS, Findings

from l2t_verl.files import write_whole
from recipes.environment import bare_machine

HERE = Path(__file__).resolve().parent
SECONDS = {"cuda": 480, "cpu": 3600}  # of all sections together
LAST_LINES = 15
ORDER = (WORKS, NEEDS_GPU, DIFFERS, FAILS)  # a section is as good as its worst line


def run_section(name: str, device: str, out: Path, seconds: float) -> dict:
    """What a section found in its own process, and whether it came to its end within `seconds`."""
    log, file = out / f"{name}.log", out / f"{name}.json"
    file.unlink(missing_ok=True)
    since = time.monotonic()
    line = [sys.executable, str(HERE / "sections.py"), name, device, str(out)]
    with open(log, "w") as text:
        process = subprocess.Popen(
            line, stdout=text, stderr=subprocess.STDOUT, env=bare_machine(), cwd=out, start_new_session=True
        )
        ended = end_in_time(process, seconds)
    findings = Findings(file)
    if file.exists():  # also what a section that died had found before
        findings.lines, findings.figures = json.loads(file.read_text()).values()
    if not ended or process.returncode != 0:
        how = f"ended with exit status {process.returncode}" if ended else f"was ended after {seconds:.0f} s"
        findings.say(FAILS, f"{how}; {log} has all of it, its last lines: {last_lines(log)}")
    status = max((line["status"] for line in findings.lines), key=ORDER.index, default=FAILS)
    return {
        "section": name,
        "status": status,
        "lines": findings.lines,
        "figures": findings.figures,
        "seconds": round(time.monotonic() - since),
    }


def untried(name: str, status: str, said: str) -> dict:
    lines = [{"status": status, "said": said}]
    return {"section": name, "status": status, "lines": lines, "figures": {}, "seconds": 0}


def end_in_time(process: subprocess.Popen, seconds: float) -> bool:
    """Wait; when the time is over, end the section's own processes. The quickstart ends its cluster when interrupted."""
    try:
        process.wait(max(seconds, 0.1))
        return True
    except subprocess.TimeoutExpired:
        for sign, patience in ((signal.SIGINT, 30), (signal.SIGKILL, 10)):
            try:
                os.killpg(process.pid, sign)
                process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.poll()
        return False


def last_lines(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-LAST_LINES:])


def page(result: dict) -> str:
    """The result in plain words, as Markdown."""
    lines = [f"# The check of {result['device']}", ""]
    for status in (WORKS, DIFFERS, FAILS, NEEDS_GPU):
        names = [section["section"] for section in result["sections"] if section["status"] == status]
        if names:
            lines.append(f"- **{status}**: {', '.join(names)}")
    lines += ["", f"{result['date']}, {result['seconds']} s, revision {result['revision'] or 'unknown'}."]
    for section in result["sections"]:
        lines += ["", f"## {section['section']}: {section['status']} ({section['seconds']} s)", ""]
        for line in section["lines"]:
            first, *rest = line["said"].splitlines() or [""]
            lines.append(f"- {line['status']}: {first}")
            lines += ["", "  ```", *(f"  {text}" for text in rest), "  ```", ""] if rest else []
    return "\n".join(lines) + "\n"


def check(device: str, out: Path, only: list[str]) -> dict:
    """All sections, as far as the time of the device goes."""
    since, sections = time.monotonic(), []
    for name, section in SECTIONS.items():
        if only and name not in only:
            continue
        left = SECONDS[device] - (time.monotonic() - since)
        if section.gpu and device != "cuda":
            found = {
                "status": NEEDS_GPU,
                "lines": [{"status": NEEDS_GPU, "said": section.what}],
                "figures": {},
                "seconds": 0,
            }
            found = {"section": name} | found
        elif left < 1:
            said = f"not tried: the {SECONDS[device] / 60:.0f} minutes of the check were over"
            lines = [{"status": FAILS, "said": said}]
            found = {"section": name, "status": FAILS, "lines": lines, "figures": {}, "seconds": 0}
        else:
            limit = min(left, section.seconds if device == "cuda" else 3 * section.seconds)  # two cores
            found = run_section(name, device, out, limit)
        sections.append(found)
        print(f"{name}: {found['status']} ({found['seconds']} s)", flush=True)
    git = ["git", "describe", "--always", "--dirty"]
    revision = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()
    fine = (WORKS,) if device == "cuda" else (WORKS, NEEDS_GPU)
    figures = next((section["figures"] for section in sections if section["section"] == "environment"), {})
    return {
        "device": figures.get("device", device),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "revision": revision,
        "seconds": round(time.monotonic() - since),
        "works": all(section["status"] in fine for section in sections),
        "sections": sections,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], choices=SECTIONS)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "page.md"):
        (out / name).unlink(missing_ok=True)  # an older one is not this check's
    result = check(arguments.device, out, arguments.only)
    write_whole(out / "page.md", page(result))
    write_whole(out / "result.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{page(result)}\n{out / 'result.json'}, {out / 'page.md'}")
    return 0 if result["works"] else 1


if __name__ == "__main__":
    sys.exit(main())

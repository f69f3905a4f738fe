"""What a run folder says: the table of steps and some rollouts, for the terminal. `python report.py RUN` shows it again."""

import json
import re
import sys
import textwrap
from pathlib import Path

COLUMNS = [
    ("outcome", "critic/score/mean", "{:.2f}"),
    ("J before", "l2t/answer_score/start", "{:.4f}"),
    ("J after", "l2t/answer_score/end", "{:.4f}"),
    ("gain", "l2t/fitting_gain/mean", "{:+.4f}"),
    ("gain, answer unstated", "l2t/fitting_gain/unstated_mean", "{:+.4f}"),
    ("penalty (nats)", "l2t/compression/mean", "{:.2e}"),
    ("grad norm L2T", "actor/grad_norm", "{:.4f}"),
    ("grad norm GRPO", "l2t/grpo_grad_norm", "{:.4f}"),
    ("moved", "l2t/displacement", "{:.1e}"),
    ("tokens", "response_length/mean", "{:.0f}"),
    ("seconds", "timing_s/step", "{:.0f}"),
]
EXPLANATION = """\
outcome: share of correct answers. J: the model's own probability of the reference answer (the mean over its tokens of
a smoothed log-prob, from 0 to 1), forced before and after thinking; gain: what one episode adds to J (all episodes;
those that do not state the answer). penalty: log-ratio to the start model, 0 at the first step. grad norm GRPO: what
plain GRPO has on the same rollouts; 0 wherever all outcomes of a group are equal. moved: size of the change of the
weights so far."""


def read_jsonl(path: Path) -> list[dict]:
    """The complete lines of a file that may still grow."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(errors="replace").split("\n")[:-1] if line]


def cell(data: dict, key: str, form: str) -> str:
    value = data.get(key)
    return "–" if value is None else form.format(value)


def step_line(data: dict) -> str:
    parts = ["outcome {}", "J {} → {}", "gain {}", "grad norm {} (GRPO {})", "{} tokens", "{} s"]
    keys = ["outcome", "J before", "J after", "gain", "grad norm L2T", "grad norm GRPO", "tokens", "seconds"]
    values = {name: cell(data, key, form) for name, key, form in COLUMNS}
    return ", ".join(parts).format(*(values[key] for key in keys))


def table(rows: list[dict]) -> str:
    header = ["step", *(name for name, _, _ in COLUMNS)]
    body = [[str(row["step"]), *(cell(row["data"], key, form) for _, key, form in COLUMNS)] for row in rows]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in [header, *body]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def rollouts(run: Path) -> list[dict]:
    """Rollouts with episodes, of all steps: the largest gains first."""
    found = [row | {"step": int(path.stem)} for path in (run / "rollouts").glob("*.jsonl") for row in read_jsonl(path)]
    scored = [row for row in found if (row.get("l2t") or {}).get("episodes")]
    return sorted(scored, key=lambda row: -max(abs(episode["gain"]) for episode in row["l2t"]["episodes"]))


def rollout_text(row: dict, width: int = 100) -> str:
    record = row["l2t"]
    question = row["input"].split("\nuser\n")[-1].split("\nassistant")[0].strip().removeprefix("user\n")
    lines = [
        f"step {row['step']}, reference answer {row['gts']}, outcome {record['outcome']:.0f}, "
        f"J {record['answer_score_start']:.4f} → {record['answer_score_end']:.4f}",
        "  " + textwrap.shorten(question, width - 2, placeholder=" …"),
    ]
    for number, episode in enumerate(record["episodes"], 1):
        mark = "  states the answer" if episode["states_answer"] else ""
        lines.append(
            f"  episode {number}: gain {episode['gain']:+.4f}  penalty {episode['penalty']:.1e}  reward "
            f"{episode['reward']:+.4f}  mean advantage {episode['mean_advantage']:+.2f}{mark}"
        )
        text = textwrap.shorten(" ".join(episode["text"].split()), 2 * (width - 6), placeholder=" …")
        lines += textwrap.wrap(text, width, initial_indent="    | ", subsequent_indent="    | ")
    tail = textwrap.shorten(" ".join(record["tail"].split()), width - 12, placeholder=" …")
    return "\n".join([*lines, f"  tail: {tail or '(none: cut off, or no final answer is marked)'}"])


GIVEN_UP = "l2t_verl: the run cannot go on: "


def last_error(log: Path, lines: int = 25) -> str:
    """The error that ended a run, which verl's own flood buries; else the log's last lines.

    Where L2T gave the run up, because a process that it stands on had died, that reason comes last and the error before it
    first: what Ray says after it is only that the trainer is gone.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")).splitlines()
    given_up = next((i for i, line in enumerate(plain) if GIVEN_UP in line), None)
    if given_up is not None:
        reason = plain[given_up][plain[given_up].index(GIVEN_UP) :]
        return f"{_last_error(plain[:given_up], lines)}\n{reason}"
    return _last_error(plain, lines)


def _last_error(plain: list[str], lines: int) -> str:
    starts = [
        i for i, line in enumerate(plain) if re.search(r"Traceback \(most recent call last\)|\bError executing job", line)
    ]
    ends = [
        i
        for i, line in enumerate(plain)
        if re.match(r"(\([^)]*pid=\d+[^)]*\)\s*)?(ERROR [^\]]*\] )?[\w.]*(Error|Exception|Died|Refused)\b.*:", line)
    ]
    if not ends:
        return "\n".join(plain[-lines:])
    end = ends[-1]
    start = max([i for i in starts if i < end], default=max(0, end - lines))
    message = plain[max(start, end - lines) : end + 1]
    for line in plain[end + 1 : end + 12]:  # a message may have several lines
        if not line.strip() or line.startswith("(") or "Traceback" in line:
            break
        message.append(line)
    return "\n".join(message)


def show(run: Path) -> None:
    rows = read_jsonl(run / "metrics.jsonl")
    print(f"\n{table(rows)}\n\n{EXPLANATION}\n")
    chosen = rollouts(run)
    print(f"Three of {len(chosen)} rollouts with episodes (those with the largest gains):\n" if chosen else "")
    for row in chosen[:3]:
        print(rollout_text(row) + "\n")
    summary = json.loads((run / "summary.json").read_text()) if (run / "summary.json").exists() else {}
    if summary:
        print(
            f"first step after {summary['seconds_to_first_step']:.0f} s, all in {summary['seconds']:.0f} s, peak memory "
            f"{summary['peak_memory_gib']:.1f} GiB"
        )
    print(f"run folder: {run} (metrics.jsonl, rollouts/, run.log)\nagain: python recipes/quickstart/report.py {run}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: report.py RUN_FOLDER")
    show(Path(sys.argv[1]))

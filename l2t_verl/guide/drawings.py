"""The guides' drawings: the data's way through verl, and one response with its rewards."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

from l2t_verl.guide.svg import Drawing

FOLDER = Path(__file__).with_name("pictures")
# The third response that a run of main_ppo dumped at its fifth step, as it stands (recipes/controlled, gain still to come)
DUMP, LINE = Path(__file__).parents[2] / "tests" / "fixtures" / "trained" / "shaped" / "rollouts" / "5.jsonl", 2

LANES = (
    ("rollout", "vLLM and the reward workers"),
    ("driver", "the trainer, one process"),
    ("workers", "the actor, a GPU each"),
)
# (name, what it does, process): in the order of a step
STATIONS = (
    ("rollout", ("verl samples", "responses"), 0),
    ("episodes", ("grade the answer,", "cut the response"), 0),
    ("scores", ("old log-probs", "and J_0 … J_K"), 2),
    ("reward", ("r_k = gain − β C", "for each episode"), 1),
    ("credit", ("outcome and r_k", "to advantages"), 1),
    ("update", ("verl's loss and", "optimiser"), 2),
)
VERL_ALONE = ("rollout", "update")


def way() -> str:
    """From rollout to update: what each station does, and the process that it runs in."""
    drawing = Drawing(860, 330, "the data's way through verl: rollout, episodes, scores, reward, credit, update")
    top, height, left = 14, 96, 128
    for i, (lane_name, runs) in enumerate(LANES):
        y = top + i * (height + 6)
        drawing.box(10, y, 840, height, "line", opacity=0.28, round=6)
        drawing.text(22, y + 44, lane_name, kind="b")
        for j, line in enumerate(runs.replace(", ", ",|").replace(" and ", " and|").split("|")):
            drawing.text(22, y + 61 + 14 * j, line, "quiet", kind="s")
    places = []
    for i, (_, _, lane) in enumerate(STATIONS):
        places.append((left + 12 + i * 119, top + lane * (height + 6) + 16))
    for (x, y), (to_x, to_y) in itertools.pairwise(places):
        if y == to_y:
            drawing.path([(x + 110, y + 32), (to_x - 1, to_y + 32)], "quiet", arrow=True)
        else:
            end = to_y - 1 if to_y > y else to_y + 66
            drawing.path([(x + 110, y + 32), (to_x + 55, y + 32), (to_x + 55, end)], "quiet", arrow=True)
    for (name, what, _), (x, y) in zip(STATIONS, places, strict=True):
        drawing.box(x, y, 110, 65, "paper", stroke="line" if name in VERL_ALONE else "blue", round=6)
        drawing.text(x + 55, y + 19, name, "quiet" if name in VERL_ALONE else "blue", kind="b s", anchor="middle")
        for j, words in enumerate(what):
            drawing.text(x + 55, y + 37 + 15 * j, words, kind="s", anchor="middle")
    return drawing.svg()


def response() -> str:
    """One recorded response: J along its tokens, and the reward of each episode, as the run dumped them."""
    dump = json.loads(DUMP.read_text().splitlines()[LINE])
    record, episodes = dump["l2t"], dump["l2t"]["episodes"]
    left, right, top, bottom = 60, 840, 58, 178
    drawing = Drawing(860, 226 + 24 * len(episodes), "a response with its episodes' rewards, and J along it")
    given = dump["input"].removesuffix("<think>").replace(":", "=").split(";")
    problem = f"{'; '.join(given[:-1])}; what is {given[-1].strip('?')}, modulo 10?"
    drawing.text(left - 44, 24, problem, kind="m")
    drawing.text(right, 24, f"the right answer is {dump['gts']}", "quiet", anchor="end")
    drawing.text(left - 44, 45, "J, the model's probability of that answer, along the response:", "quiet", kind="s")
    across = (right - left) / record["tokens"]
    most = max(abs(episode["reward"]) for episode in episodes)
    shades = ["blue" if episode["reward"] > 0 else "orange" for episode in episodes]
    strengths = [0.1 + 0.5 * abs(episode["reward"]) / most for episode in episodes]
    for value in (0.0, 0.5, 1.0):
        y = bottom - value * (bottom - top)
        drawing.path([(left, y), (right, y)], "line", width=0.7)
        drawing.text(left - 8, y + 4, f"{value:g}", "quiet", kind="s", anchor="end")
    points = [(float(left), bottom - record["answer_score_start"] * (bottom - top))]
    for i, (episode, shade, strength) in enumerate(zip(episodes, shades, strengths, strict=True)):
        x, end = (left + episode[key] * across for key in ("start", "end"))
        drawing.box(x, top, end - x - 1, bottom - top, shade, opacity=strength)
        drawing.text((x + end) / 2, bottom + 16, str(i + 1), "quiet", kind="s", anchor="middle")
        points.append((end, bottom - episode["answer_score"] * (bottom - top)))
    drawing.text((points[-1][0] + right) / 2, bottom + 16, "tail", "quiet", kind="s", anchor="middle")
    drawing.path(points, "ink", width=2)
    for point in points:
        drawing.dot(*point, 3, "ink")
    y = bottom + 38.0
    for x, head in ((left, "episode"), (520, "gain"), (640, "penalty, nats"), (right, "reward")):
        drawing.text(x, y, head, "quiet", kind="s", anchor="start" if x == left else "end")
    for i, (episode, shade, strength) in enumerate(zip(episodes, shades, strengths, strict=True)):
        y += 24
        drawing.box(left - 44, y - 16, right - left + 52, 22, shade, opacity=strength, round=3)
        drawing.text(left - 36, y, str(i + 1), "quiet", kind="s")
        drawing.text(left, y, re.sub(r"(\d)([a-z]=)", r"\1, \2", re.sub(r"</?episode_\d+>", "", episode["text"])), kind="m")
        drawing.text(520, y, f"{episode['gain']:+.3f}", kind="m", anchor="end")
        drawing.text(640, y, f"{episode['penalty']:.4f}", kind="m", anchor="end")
        drawing.text(right, y, f"{episode['reward']:+.3f}", kind="m b", anchor="end")
    return drawing.svg()


def drawn() -> dict[Path, str]:
    """The files and what belongs in them."""
    return {FOLDER / "way.svg": way(), FOLDER / "response.svg": response()}

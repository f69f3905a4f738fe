"""What each episode of a *generated* text is, from the text and the problem alone."""

from __future__ import annotations

import re

from l2t_verl.episodes.episode_tags import TAGS
from recipes.controlled.task import Problem
from recipes.controlled.words import USEFUL

STEP = re.compile(r"(?:check |no |try )?(?P<name>[a-l]):\d[-+*][a-l]=\d(?P=name)=(?P<value>\d)")
RESTATED = re.compile(r"know (?P<name>[a-l])=(?P<value>\d)")


def label_episodes(problem: Problem, texts: list[str]) -> list[str]:
    """A label for each episode's text (tags are ignored), in order.

    `necessary`: the first right value of a name that the question needs. `correction`: the right value of one whose last
    value was wrong. `mistake`: a wrong value of one. `recheck`: a value computed again that was right before. `restate`:
    the last value said again. `detour`: a value that the question does not need. `other`: anything else.

    Example:
        >>> from recipes.controlled.task import parse
        >>> label_episodes(parse("a=3;b:4+a;?b"), ["b:4+a=3b=8", "no b:4+a=3b=7", "know b=7"])
        ['mistake', 'correction', 'restate']
    """
    truth, needed = problem.values, problem.needed
    stated = {d.name: d.digit for d in problem.definitions if not d.operator}
    return [_label(TAGS.sub("", text), truth, needed, stated) for text in texts]


def worth(label: str) -> float:
    """1 for a useful episode, −1 for a mistake, 0 for a removable one."""
    return float(label in USEFUL) - float(label == "mistake")


def _label(text: str, truth: dict[str, int], needed: frozenset[str], stated: dict[str, int]) -> str:
    found = STEP.fullmatch(text) or RESTATED.fullmatch(text)
    if found is None or found["name"] not in truth:
        return "other"
    name, value = found["name"], int(found["value"])
    before, stated[name] = stated.get(name), value
    if found.re is RESTATED and before == value:
        return "restate"
    if name not in needed:
        return "detour"
    if value != truth[name]:
        return "mistake"
    if before is None:
        return "necessary"
    return "recheck" if before == value else "correction"

"""One page: the verdict, what it rests on, and what to type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from l2t_verl.compression.beta import beta_per_nat
from l2t_verl.config import L2TConfig
from l2t_verl.preflight.evidence import SHOWN
from l2t_verl.preflight.figures import Outcomes, Sight
from l2t_verl.preflight.verdict import Verdict

KL = (0.001, 0.01)  # nats a token by which a policy has moved early and late in a run


def page(
    title: str, verdict: Verdict, outcomes: Outcomes, sight: Sight, config: L2TConfig, longest: int, notes: Sequence[str]
) -> str:
    """Write it as Markdown.

    Args:
        title: model and data.
        verdict: to be told first.
        outcomes: what the outcome tells.
        sight: what J tells.
        config: as configured; its β is per unit, as the user set it.
        longest: longest response allowed, in tokens.
        notes: what was left out, and how it was measured.
    """
    return "\n".join(_lines(title, verdict, outcomes, sight, config, longest, notes)) + "\n"


def _lines(
    title: str, verdict: Verdict, outcomes: Outcomes, sight: Sight, config: L2TConfig, longest: int, notes: Sequence[str]
) -> Iterator[str]:
    yield from (f"# {title}", "", f"**{verdict.headline}**", "", *(f"- {reason}" for reason in verdict.reasons))
    yield from ("", f"How sure: {verdict.sure}")
    yield from _table(
        ("the outcome", ""),
        ("questions, responses", f"{outcomes.groups}, {outcomes.rollouts}"),
        *((("questions with one response, which are in no group", f"{outcomes.alone}"),) if outcomes.alone else ()),
        ("right", f"{outcomes.accuracy:.1%}"),
        ("groups: mixed, all right, all wrong", f"{outcomes.mixed:.0%}, {outcomes.all_right:.0%}, {outcomes.all_wrong:.0%}"),
        ("tokens of a response", f"{outcomes.tokens:.0f}"),
    )
    yield from _table(
        ("J, what the model gives the answer", ""),
        ("questions, responses looked at", f"{sight.groups}, {sight.rollouts}"),
        ("of them without an episode", f"{sight.without_episodes}"),
        ("before, after the reasoning", f"{sight.start:.3f}, {sight.end:.3f}"),
        ("rise before the answer is stated", f"{sight.rise:.3f}, from {sight.rise.of} questions"),
        ("what a needless step adds there (standard deviation)", _known(sight.noise, ".3f")),
        ("right over wrong responses to one question, half-way", f"{sight.within_halfway:.2f}"),
        ("… at the end", f"{sight.within:.2f}, from {sight.within.of} questions"),
        ("own over needless steps in the same place", f"{sight.useful:.2f}"),
        ("… before the answer is stated", f"{sight.useful_before:.2f}, from {sight.useful_before.of} questions"),
        ("reasoning after the answer was stated", f"{sight.redundant:.0%} of a right response's"),
    )
    if sight.ways:
        yield from ("", "Own over needless steps before the answer is stated, by the way to look (the surest first; other")
        yield "segmenters were tried on some of the questions each):"
        ordered = sorted(sight.ways.items(), key=lambda item: -_or(item[1].low, -1.0))
        rows = ((*way, f"{found:.2f}", found.of) for way, found in ordered)
        yield from _table(("episodes", "forcing suffix", "J", "own step gains more", "questions"), *rows)
    yield from _table(("what the reward would be made of", ""), *_shares(outcomes, sight, config, longest))
    yield from (
        "",
        "What each credit has come to where it could be measured (1.1 million parameters), against GRPO; responses were",
        "right often (more than half of them, two starts) or rarely (three in a hundred, with visible progress; one start):",
    )
    yield from _table(("right", "credit", "settings", "seeds", "accuracy, points", "tokens, %"), *SHOWN)
    if verdict.settings:
        yield from ("", "```text", "trainer.v1.trainer_mode=l2t_sync reward.reward_manager.name=l2t \\")
        yield from ("  " + " ".join(verdict.settings), "```")
    yield from ("", *(f"- {note}" for note in notes))


def _shares(outcomes: Outcomes, sight: Sight, config: L2TConfig, longest: int) -> Iterator[tuple[str, str]]:
    yield "sum of a response's gains, each without its sign, in J", f"{sight.gains:.2f}"
    beta = beta_per_nat(config, longest)
    for nats in KL if beta else ():
        cost = beta * nats * outcomes.tokens
        share = cost / max(cost + sight.gains, 1e-9)
        yield f"the penalty's share at a KL of {nats} nats a token (arithmetic)", f"{share:.0%} (β {config.beta:g})"
    if not math.isnan(outcomes.right_spread):
        yield (
            "what a length price of 1 takes off a right response that is one standard deviation longer",
            f"{outcomes.right_spread / longest:.2f} of the advantage's unit",
        )
    yield "tokens read for a step's scores, over those of the responses", f"{sight.forced:.0%} more than a log-prob pass"


def _table(head: Sequence[str], *rows: Sequence[object]) -> Iterator[str]:
    yield from ("", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}")
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def _known(value: float, spec: str) -> str:
    return "not known" if math.isnan(value) else f"{value:{spec}}"


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value

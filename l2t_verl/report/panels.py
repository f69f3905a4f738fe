"""Which curves to look at, and what healthy and sick look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A picture of one or two metrics.

    Attributes:
        title: what it shows.
        metrics: label and name of each line; the first is drawn full, the second dashed.
        unit: of the axis.
        healthy: what to hope for.
        sick: what to worry about, and what to do.
        first: whether it is one of the five to watch.
    """

    title: str
    metrics: tuple[tuple[str, str], ...]
    unit: str
    healthy: str
    sick: str
    first: bool = False


PANELS = (
    Panel(
        "Outcome",
        (("outcome", "critic/score/mean"),),
        "mean outcome",
        "Rises, or holds while tokens fall.",
        "Falls while J or the process reward rises: the reward is gamed. Lower alpha, or change the credit.",
        first=True,
    ),
    Panel(
        "Tokens of a response",
        (("all", "response_length/mean"), ("correct ones", "l2t/length/correct_tokens")),
        "tokens",
        "Falls slowly, the correct ones' too.",
        "Falls towards nothing: the policy stops thinking, as the paper's credit makes it. Grows to the limit: nothing "
        "prices length.",
        first=True,
    ),
    Panel(
        "J before and after the reasoning",
        (("after", "l2t/answer_score/end"), ("before", "l2t/answer_score/start")),
        "J",
        "The gap between the two stays open, and `after` follows the outcome.",
        "`after` at or below `before`: reasoning does not lead this model to its answer. `before` rises: the answer is "
        "learnt by heart, or guessed first.",
        first=True,
    ),
    Panel(
        "J and the outcome",
        (("correlation within groups", "l2t/answer_score/correctness_corr"),),
        "correlation",
        "High and steady.",
        "Falls while J rises: answers are made likely without being right.",
        first=True,
    ),
    Panel(
        "Advantages beyond the clip, and of the wrong sign",
        (("wrong sign", "l2t/advantage/sign_flip_fraction"), ("clipped", "l2t/advantage/clipped_fraction")),
        "share of tokens",
        "Clipped near 0. Some signs differ from their episode's reward in every credit that also counts the outcome.",
        "Clipped above a few per cent: ratios explode (the paper's credit). Take another credit.",
        first=True,
    ),
    Panel(
        "Episodes of a response",
        (("mean", "l2t/episodes/mean"), ("largest", "l2t/episodes/max")),
        "episodes",
        "Follows the tokens.",
        "Grows while tokens do not: format inflation. `largest` stays at max_episodes: the rest is one long episode.",
    ),
    Panel(
        "Tokens of an episode",
        (("mean", "l2t/episodes/tokens_mean"),),
        "tokens",
        "Steady.",
        "Falls: thoughts are cut into crumbs. Grows: they are merged into one.",
    ),
    Panel(
        "Gain of an episode",
        (("all", "l2t/fitting_gain/mean"), ("answer not stated in it", "l2t/fitting_gain/unstated_mean")),
        "ΔJ",
        "Above 0, and not only where the answer is stated.",
        "The second stays at or below 0: only stating the answer is paid, and most steps to it are punished.",
    ),
    Panel(
        "Penalty of an episode",
        (("mean", "l2t/compression/mean"), ("what rounding alone shows", "l2t/kl_floor")),
        "nats",
        "Grows from 0 as the policy moves, well above the floor.",
        "At the floor: it measures kernels. See its share of the reward.",
    ),
    Panel(
        "Penalty's share of the process reward",
        (("share", "l2t/compression/share"),),
        "share",
        "Well below 1.",
        "Near 1: gains are drowned. Lower beta.",
    ),
    Panel(
        "Where the answer is first stated",
        (("share of the episodes", "l2t/answer_score/first_mention"),),
        "share",
        "Late in the response.",
        "Moves to 0: the answer is guessed before the thinking.",
    ),
    Panel(
        "Gradient norm",
        (("of this run", "actor/grad_norm"), ("GRPO's on the same rollouts", "l2t/grpo_grad_norm")),
        "norm",
        "Steady, without spikes.",
        "Spikes: see the advantages. 0: no rollout differs from its group.",
    ),
    Panel(
        "Largest advantage",
        (("largest", "l2t/advantage/abs_max"),),
        "advantage",
        "Below some 10.",
        "Tens and more: one token outweighs the batch.",
    ),
)
STAGES = ("gen", "old_log_prob", "ref", "l2t", "adv", "update_actor", "update_weights", "testing", "save_checkpoint")
COUNTERS = ("l2t/skipped/", "l2t/grading/")

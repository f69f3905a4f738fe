"""Names in words, for tables, of what settings and files name by identifiers; arms have theirs in `plans`."""

from __future__ import annotations

# Strengths that arms were tried at, by their paths below `algorithm.l2t` or their fields of `Settings`
STRENGTHS = {
    "learning_rate": "learning rate",
    "alpha": "weight α",
    "credit.length_penalty": "strength",
    "credit.length_cost": "price λ",
    "credit.length_share": "share of the longest response",
}
# Kinds of J that `quality` measures: `gain.kind`, and `contrastive`, which no run can take
KINDS = {
    "geometric": "geometric mean",
    "probability": "probability",
    "mean_logprob": "mean log-prob",
    "monte_carlo": "sampled answers",
    "contrastive": "against other answers",
}
# Those that `real_text` does: on answers of one digit the mean probability orders gains as the probability does
TEXT_KINDS = {**KINDS, "mean_probability": "mean probability", "smoothed_logprob": "smoothed log-prob"}
# Of `real_text`: what stands before the forced answer, and the needless paragraphs
SUFFIXES = {"####": "\n\n#### ", "boxed": "\n\nThe final answer is \\boxed{", "sentence": "\n\nThe answer is "}
NEEDLESS = ("restated", "rechecked", "foreign")
# What an episode of the comparison is, see `labels`
LABELS = ("necessary", "correction", "restate", "recheck", "detour", "other", "mistake")
USEFUL = frozenset({"necessary", "correction"})
REMOVABLE = frozenset({"restate", "recheck", "detour", "other"})
# Credits whose quality was measured, by their names in the runs
CREDITS = {
    "grpo": "GRPO",
    "length penalty": "length penalty",
    "paper": "the paper's",
    "episode": "own gain",
    "episode, γ = 1": "own gain and all later ones",
    "episode, λ = 2": "own gain, with a length price",
    "shaped": "gain still to come",
    "shaped, λ = 1": "gain still to come, with a length price",
}

"""What trainings have shown: rows of the controlled comparison's tables, RESULTS.md, to which a test holds them."""

from __future__ import annotations

# how often responses were right, credit, settings below algorithm.l2t, seeds, points of accuracy and % of tokens against
# GRPO, each ± a 95 % interval
SHOWN = (
    ("rarely", "guided", "the defaults", 10, "28.7 ± 6.1", "-34.4 ± 2.5"),
    ("rarely", "length_penalty", "credit.length_penalty=0.9", 10, "9.9 ± 6.4", "-25.6 ± 4.9"),
    ("rarely", "episode", "beta=0", 4, "22.5 ± 18.7", "-38.0 ± 7.5"),
    ("often", "guided", "the defaults", 24, "0.1 ± 0.6", "-31 ± 1"),
    ("often", "length_penalty", "credit.length_penalty=0.6", 24, "-1.1 ± 0.9", "-33 ± 1"),
    ("often", "critic", "credit.length_cost=4 beta=0 gain.kind=geometric", 24, "0.3 ± 0.9", "-29 ± 1"),
    ("often", "episode", "gain.kind=geometric", 10, "-0.2 ± 1.1", "-22 ± 3"),
    ("often", "episode", "credit.length_cost=2 gain.kind=geometric", 24, "-1.4 ± 0.6", "-33 ± 1"),
    ("often", "shaped", "credit.length_cost=1, as it was computed then", 10, "-1.1 ± 1.2", "-30 ± 2"),
    ("often", "paper", "alpha=2 gain.kind=geometric", 10, "-22.4 ± 1.9", "-35 ± 4"),
)

"""What trainings have shown: rows of the controlled comparison's table, RESULTS.md, to which a test holds them."""

from __future__ import annotations

# credit, settings below algorithm.l2t, seeds, points of accuracy and % of tokens against GRPO, each ± a 95 % interval
SHOWN = (
    ("length_penalty", "credit.length_penalty=0.6", 24, "-1.1 ± 0.9", "-33 ± 1"),
    ("episode", "", 10, "-0.2 ± 1.1", "-22 ± 3"),
    ("episode", "credit.length_cost=2", 24, "-1.4 ± 0.6", "-33 ± 1"),
    ("critic", "credit.length_cost=4 beta=0", 24, "0.3 ± 0.9", "-29 ± 1"),
    ("shaped", "credit.length_cost=1, as it was computed then", 10, "-1.1 ± 1.2", "-30 ± 2"),
    ("paper", "alpha=2", 10, "-22.4 ± 1.9", "-35 ± 4"),
)

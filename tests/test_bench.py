"""The benchmark runs and measures the same thing in both ways; its times are nobody's business here."""

import sys
from pathlib import Path

from tiny import qwen2

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import scoring


def test_scoring_measures_equal_scores():
    row = scoring.measure(qwen2(64, positions=512).eval(), tokens=64, episodes=4, repeats=1, device="cpu")
    assert row["largest_difference"] < 1e-4
    assert set(row["seconds"]) == {"packed", "expanded", "plain"}
    assert min(row["seconds"].values()) > 0
    assert row["packed_to_plain"] == row["seconds"]["packed"] / row["seconds"]["plain"]

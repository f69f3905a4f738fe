"""J along a response as a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2t_verl.inspector.rollouts import Rollout

WIDTH, HEIGHT = 1000.0, 100.0


@dataclass(frozen=True)
class Drawing:
    """What the template draws, in units of the picture.

    Attributes:
        points: of J_0 … J_K, as SVG's polyline takes them.
        bands: left edge and width of each episode.
        label: the same in words.
    """

    points: str
    bands: list[tuple[float, float]]
    label: str


@dataclass(frozen=True)
class Sparkline:
    """A common scale, so that pictures can be compared.

    Attributes:
        low: J at the bottom.
        high: J at the top.
    """

    low: float
    high: float

    @classmethod
    def fitting(cls, rollouts: Sequence[Rollout]) -> Sparkline:
        """The scale from 0 to what any of the rollouts reaches, on either side of 0."""
        scores = [score for rollout in rollouts for score in rollout.scores]
        return cls(min([0.0, *scores]), max([0.0, *scores]))

    def draw(self, rollout: Rollout) -> Drawing:
        """Draw one rollout, from its first token to its last.

        Example:
            >>> from l2t_verl.inspector.rollouts import Episode
            >>> episodes = (Episode("", 0, 10, 0.5, 0.4, None, 0.4),)
            >>> rollout = Rollout("", "", "", "", ("1",), None, "", 20, 0.1, episodes, "")
            >>> Sparkline(0.0, 1.0).draw(rollout)
            Drawing(points='0.0,90.0 500.0,50.0', bands=[(0.0, 500.0)], label='J from 0.100 to 0.500')
        """
        scores = rollout.scores
        cuts = [0, *(episode.end for episode in rollout.episodes)]
        across = WIDTH / max(rollout.tokens, cuts[-1], 1)
        height = max(self.high - self.low, 1e-9)
        points = " ".join(
            f"{cut * across:.1f},{HEIGHT * (1 - (score - self.low) / height):.1f}"
            for cut, score in zip(cuts, scores, strict=False)
        )
        bands = [
            (round(episode.start * across, 1), round((episode.end - episode.start) * across, 1))
            for episode in rollout.episodes
        ]
        label = f"J from {scores[0]:.3f} to {scores[-1]:.3f}" if scores else "J was not measured"
        return Drawing(points, bands, label)

"""What is worth watching in the advantages of a step, whatever the credit."""

from __future__ import annotations

import torch

CLIPPED_FROM = 5.0


def advantage_health(
    advantages: torch.Tensor, process: torch.Tensor, episode_ids: torch.Tensor, response_mask: torch.Tensor
) -> dict[str, float]:
    """Measure how large advantages become, and how often their sign contradicts the reward of their episode.

    Args:
        advantages: [B, T] token advantages.
        process: [B, K] episode rewards, padded with 0.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.

    Returns:
        `abs_max`: the largest |A|. `clipped_fraction`: the share of sampled tokens with |A| > 5, whose policy ratio soon
        meets PPO's clip. `sign_flip_fraction`: among the sampled tokens of episodes whose reward is not 0, the share whose
        advantage and reward have opposite signs. Each is NaN where there is no token to measure.

    Example:
        >>> advantage_health(torch.tensor([[-6.0, 1.0]]), torch.tensor([[0.5]]), torch.tensor([[0, -1]]), torch.ones(1, 2))
        {'abs_max': 6.0, 'clipped_fraction': 0.5, 'sign_flip_fraction': 1.0}
    """
    mask = response_mask > 0
    values = advantages[mask].double()
    reward = torch.nn.functional.pad(process.double(), (1, 0)).gather(1, torch.where(mask, episode_ids + 1, 0))
    rewarded = mask & (reward != 0)
    opposite = (advantages.double().sign() * reward.sign() < 0)[rewarded]
    nan = float("nan")
    return {
        "abs_max": values.abs().max().item() if len(values) else nan,
        "clipped_fraction": (values.abs() > CLIPPED_FROM).double().mean().item() if len(values) else nan,
        "sign_flip_fraction": opposite.double().mean().item() if len(opposite) else nan,
    }

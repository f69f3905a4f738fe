"""Token-level log-ratios to the reference policy, and the noise in them."""

from __future__ import annotations

import torch

LARGEST_DELTA = 100.0  # nats; beyond it a token is impossible for one policy and the size says nothing


def log_ratio_deltas(old_log_probs: torch.Tensor, ref_log_probs: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    r"""Log-ratios δ_t = log π_old(y_t) − log π_ref(y_t): to first order, the directional derivative along θ_old − θ_0.

    Args:
        old_log_probs: [B, T] log-probs under the policy that is trained, in nats.
        ref_log_probs: [B, T] log-probs under the frozen start, in nats, at the same temperature.
        response_mask: [B, T] 1 for sampled tokens; log-probs of other tokens are ignored, even if they are not finite.

    Returns:
        [B, T] float64 in nats, 0 outside the mask. Clamped to ±100, because a −inf on one side would drown everything
        else; 0 where both sides are −inf.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> log_ratio_deltas(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, 0.0]]), torch.tensor([[1, 0]]))
        tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """
    if not old_log_probs.shape == ref_log_probs.shape == response_mask.shape:
        raise ValueError(
            "old_log_probs, ref_log_probs and response_mask must have one shape [B, T]; got "
            f"{tuple(old_log_probs.shape)}, {tuple(ref_log_probs.shape)}, {tuple(response_mask.shape)}"
        )
    delta = torch.where(response_mask > 0, old_log_probs.double() - ref_log_probs.double(), 0.0)
    return delta.nan_to_num(nan=0.0).clamp(-LARGEST_DELTA, LARGEST_DELTA)


def noise_floor(token_std: float, num_tokens: float) -> float:
    r"""The penalty that rounding noise alone would show, ½ N σ².

    Args:
        token_std: σ, standard deviation of the noise in one token's log-ratio, in nats.
        num_tokens: N, number of tokens.

    Returns:
        The penalty in nats.

    Example:
        >>> noise_floor(0.01, 8000)
        0.4
    """
    return 0.5 * num_tokens * token_std**2

"""Log-probs from hidden states, a few tokens at a time: no [tokens, vocabulary] tensor ever exists."""

from __future__ import annotations

from collections.abc import Callable

import torch

TOKENS_AT_ONCE = 256


def token_log_probs(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    r"""Log p(y) = z_y − log Σ_v exp z_v with z = head(h) / temperature, in float32 whatever the head computes in.

    Args:
        head: the output head, from hidden states to logits; where no gradient is recorded, its result is overwritten.
        hidden: [N, D] hidden states of the tokens before the targets.
        targets: [N] token ids.
        temperature: what the logits are divided by.
        entropy: also −Σ_v p_v log p_v of each position.

    Returns:
        [N] log-probs in nats, and [N] entropies in nats or None; float32.

    Example:
        >>> head = lambda hidden: hidden @ torch.zeros(8, 4)
        >>> token_log_probs(head, torch.ones(2, 8), torch.tensor([0, 3]), entropy=True)
        (tensor([-1.3863, -1.3863]), tensor([1.3863, 1.3863]))
    """
    log_probs, entropies = [hidden.new_empty(0, dtype=torch.float32)], [hidden.new_empty(0, dtype=torch.float32)]
    for states, wanted in zip(hidden.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True):
        logits = head(states).float()
        if temperature != 1.0:
            logits = logits / temperature
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        if entropy:
            expected = (logits.softmax(dim=-1) * logits).sum(dim=-1)
        total = _logsumexp(logits)
        log_probs.append(chosen - total)
        if entropy:
            entropies.append(total - expected)
    return torch.cat(log_probs), torch.cat(entropies) if entropy else None


def _logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """[N] log Σ exp of [N, V] logits, in their own memory where that is allowed: V is large."""
    if logits.requires_grad:
        return logits.logsumexp(dim=-1)
    largest = logits.amax(dim=-1, keepdim=True)
    return logits.sub_(largest).exp_().sum(dim=-1).log_() + largest[:, 0]

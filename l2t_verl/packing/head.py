"""Log-probs from hidden states, a few tokens at a time: no [tokens, vocabulary] tensor ever exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch

TOKENS_AT_ONCE = 256
WORDS_AT_ONCE = 16_384  # of the vocabulary, whose weights are copied in float32


def token_log_probs(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    r"""Log-probs of tokens, log p(y) = z_y − log Σ_v exp z_v with z = head(h) / temperature.

    The sums are taken in float32, whatever precision the head computes in.

    Args:
        head: the output head, from hidden states to logits; if no gradient is recorded, its result is overwritten.
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


def in_float32(head: Callable[[torch.Tensor], torch.Tensor], module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    r"""The output head, computed in float32 from weights and hidden states of lower precision; meant for few tokens.

    In bfloat16 a logit of 20 is rounded to a multiple of 1/8, and every gain inherits that error. The products are made for
    a part of the vocabulary at a time, so that a whole float32 copy of the weights never exists.

    Args:
        head: the head as the model has it. It is called unchanged if it computes in float32 already, or if it is no plain
            linear layer (it has an adapter, or weights in fewer bits).
        module: the head's module, whose weights are whole while the result is called.

    Returns:
        A function from [N, D] hidden states to [N, V] float32 logits; those of `head` in the two cases above.

    Example:
        >>> head = torch.nn.Linear(2, 3, bias=False).bfloat16()
        >>> in_float32(head, head)(torch.ones(1, 2, dtype=torch.bfloat16)).dtype
        torch.float32
    """

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        if not _is_plain(module) or _is_float32(module.weight, hidden):
            return head(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden.float()
            parts = [states @ words.float().T for words in module.weight.split(WORDS_AT_ONCE)]
            whole = torch.cat(parts, dim=-1)
            return whole if module.bias is None else whole + module.bias.float()

    return logits


def _is_plain(module: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    if not isinstance(module, torch.nn.Linear):
        return False
    weight = module.weight
    return weight.is_floating_point() and tuple(weight.shape) == (module.out_features, module.in_features)


def _is_float32(weight: torch.Tensor, hidden: torch.Tensor) -> bool:
    return weight.dtype == hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type)


def _logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """[N] log Σ exp of [N, V] logits, in their own memory where that is allowed: V is large."""
    if logits.requires_grad:
        return logits.logsumexp(dim=-1)
    largest = logits.amax(dim=-1, keepdim=True)
    return logits.sub_(largest).exp_().sum(dim=-1).log_() + largest[:, 0]

"""What J is made of: the reductions from the answer tokens' log-probs to one number."""

from __future__ import annotations

import math

import torch

from l2t_verl.registry import KINDS, register_kind

SMOOTHING = 0.05  # probability that counts as little against it: below, a token's log-prob is flat

# A kind takes the answers' log-probs [N, A], in nats, 0 beyond a row's length, and where they are inside, [N, A] bool; it
# gives J, [N].


@register_kind("geometric")
def _geometric(log_probs: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return _mean_logprob(log_probs, inside).exp()


@register_kind("probability")
def _probability(log_probs: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return log_probs.sum(dim=1).exp()


@register_kind("mean_probability")
def _mean_probability(log_probs: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return (log_probs.exp() * inside).sum(dim=1) / inside.sum(dim=1)


@register_kind("smoothed_logprob")
def _smoothed_logprob(log_probs: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    of_tokens = torch.log1p(log_probs.exp() / SMOOTHING) / math.log1p(1 / SMOOTHING)
    return (of_tokens * inside).sum(dim=1) / inside.sum(dim=1)


@register_kind("mean_logprob")
def _mean_logprob(log_probs: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return log_probs.sum(dim=1) / inside.sum(dim=1)


def check_kind(kind: str) -> None:
    """Refuse a kind of J that cannot be computed by teacher forcing.

    Args:
        kind: its name.

    Raises:
        NotImplementedError: `monte_carlo`, which samples answers; see `sampled_scores`.
        ValueError: unknown, naming the known ones.
    """
    if kind == "monte_carlo":
        raise NotImplementedError(
            "kind='monte_carlo' samples forced answers, which a forward cannot do: see sampled_scores, or take one of "
            + ", ".join(KINDS)
        )
    KINDS.check(kind, beside=["monte_carlo"])


def reduce_log_probs(log_probs: torch.Tensor, lengths: torch.Tensor, *, kind: str) -> torch.Tensor:
    r"""Answer scores from the log-probs of the answer's tokens.

    `geometric`: J = exp((1/A) Σ_a log p_a) in [0, 1], the per-token geometric mean (as in arXiv 2510.14967);
    `probability`: J = exp(Σ_a log p_a) in [0, 1]; `mean_probability`: J = (1/A) Σ_a p_a in [0, 1] (arXiv 2506.18254), in
    which each token counts by itself, however improbable the others are; `smoothed_logprob`: J = (1/A) Σ_a
    log(1 + p_a/ε) / log(1 + 1/ε) in [0, 1] with ε = 0.05, in which, too, each does, and a token that becomes improbable
    costs nearly as much as one that becomes probable brings; `mean_logprob`: J = (1/A) Σ_a log p_a, in nats, at most 0.

    Args:
        log_probs: [N, A] log p of each answer token given all before it, in nats; anything beyond a row's length.
        lengths: [N] answer tokens of each row, ≥ 1.
        kind: one of `KINDS`.

    Returns:
        [N] scores, float32.

    Raises:
        ValueError: unknown kind, misaligned shapes, or a row without a token.
        NotImplementedError: `monte_carlo`.

    Example:
        >>> reduce_log_probs(torch.tensor([[-1.0, -3.0], [-2.0, 99.0]]), torch.tensor([2, 1]), kind="mean_logprob")
        tensor([-2., -2.])
    """
    check_kind(kind)
    if log_probs.ndim != 2 or lengths.shape != log_probs.shape[:1]:
        raise ValueError(
            f"log_probs must be [N, A] and lengths [N]; got {tuple(log_probs.shape)} and {tuple(lengths.shape)}"
        )
    if lengths.numel() and not (int(lengths.min()) >= 1 and int(lengths.max()) <= log_probs.shape[1]):
        raise ValueError(
            f"every row needs between 1 and A={log_probs.shape[1]} answer tokens, got {int(lengths.min())} to "
            f"{int(lengths.max())}"
        )
    inside = torch.arange(log_probs.shape[1], device=log_probs.device) < lengths[:, None].to(log_probs.device)
    return KINDS[kind](torch.where(inside, log_probs.double(), 0.0), inside).float()

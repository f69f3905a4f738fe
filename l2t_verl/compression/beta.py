"""What a nat of the penalty costs: the unit in which β is set."""

from __future__ import annotations

from l2t_verl.config import L2TConfig

BETA_TOKENS = 150  # longest response of the comparison in which the default of beta was measured (recipes/controlled)


def beta_per_nat(config: L2TConfig, max_length: int) -> float:
    """β in units of J per nat of the penalty with its ½.

    Args:
        config: of the method.
        max_length: L, the longest response allowed, in tokens.

    Returns:
        β · 150 / L (`length`): a response of L tokens then costs the same at the same KL of each token, whatever L is;
        β (`nat`); or 2 β (`paper`, whose Eq. 4 has no ½).

    Raises:
        ValueError: L < 1.

    Example:
        >>> beta_per_nat(L2TConfig(), 150), beta_per_nat(L2TConfig(beta=0.6, beta_unit="paper"), 16384)
        (1.2, 1.2)
        >>> round(beta_per_nat(L2TConfig(), 16384), 4)
        0.011
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    factors = {"length": BETA_TOKENS / max_length, "nat": 1.0, "paper": 2.0}
    return config.beta * factors[config.beta_unit]


def with_beta_per_nat(config: L2TConfig, max_length: int) -> L2TConfig:
    """The same configuration with β in J per nat, the unit in which the rest of the code uses it; see `beta_per_nat`.

    Args:
        config: of the method.
        max_length: L, the longest response allowed, in tokens.

    Returns:
        A copy with `beta` converted and `beta_unit` set to `nat`.

    Raises:
        ValueError: L < 1.

    Example:
        >>> with_beta_per_nat(L2TConfig(), 1500).beta
        0.12
    """
    return config.model_copy(update={"beta": beta_per_nat(config, max_length), "beta_unit": "nat"})

"""The penalty's derivatives: two passes for all episodes, the decomposition, and one gradient for each episode."""

from __future__ import annotations

from functools import partial

import torch
from measuring import in_turn, peak_bytes
from scores import GRID, plain_pass
from shapes import PROMPT, Rollout, model_of

from l2t_verl.compression import directional_derivatives, exact_derivatives, low_rank, shifted, sum_by_episode
from l2t_verl.episodes import episode_ids
from l2t_verl.packing import PackedRow, packed_forward

MOVED = 1e-5  # ‖Δθ‖ / ‖θ‖, as a few steps of Adam at 1e-6 leave it
CHANGE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # nats, root mean square: the plugin's defaults
RANK_FRACTION = 0.05


def run(device: str, repeats: int) -> dict:
    """Times against one plain pass, and the difference between both estimators at full rank."""
    model = model_of(device)
    tokens, episodes = GRID[device]["main"]
    rollout = Rollout(model.config.vocab_size, tokens, episodes)
    row = PackedRow(rollout.prompt + rollout.response, first=PROMPT)
    ids = episode_ids([rollout.ends[1:]], tokens)
    parameters = {name: p for name, p in model.named_parameters() if ".layers." in name}
    whole = _displacement(model, parameters, rollout)
    proxy = {name: low_rank(delta, RANK_FRACTION) for name, delta in whole.items()}

    @torch.no_grad()
    def directional(displacement: dict, epsilon: float) -> torch.Tensor:
        log_probs = lambda: packed_forward(model, [row]).tokens[0]  # noqa: E731
        of_tokens = directional_derivatives(log_probs, partial(shifted, parameters, displacement), epsilon)
        return sum_by_episode(of_tokens[None], ids, episodes)[0]

    def chosen_epsilon(displacement: dict) -> float:
        with torch.no_grad():
            pilot = 10.0
            log_probs = lambda: packed_forward(model, [row]).tokens[0]  # noqa: E731
            slope = directional_derivatives(log_probs, partial(shifted, parameters, displacement), pilot)
        return CHANGE[model.dtype] / slope.square().mean().sqrt().item()

    epsilon, whole_epsilon = chosen_epsilon(proxy), chosen_epsilon(whole)

    def shift_alone() -> None:  # once a batch, however many rollouts it has
        for scale in (epsilon, -epsilon):
            with shifted(parameters, proxy, scale):
                pass

    calls = {
        "plain": lambda: plain_pass(model, rollout.prompt + rollout.response),
        "directional": lambda: directional(proxy, epsilon),
        "shift": shift_alone,
    }
    seconds, _ = in_turn(calls, repeats, device)
    once, results = in_turn(
        {
            "decomposition": lambda: {name: low_rank(delta, RANK_FRACTION) for name, delta in whole.items()},
            "exact": lambda: _exact(model, parameters, whole, rollout),
            "directional, full rank": lambda: directional(whole, whole_epsilon),
        },
        1,
        device,
    )
    seconds |= once
    exact, full = results["exact"], results["directional, full rank"]
    return {
        "tokens": tokens,
        "episodes": episodes,
        "rank fraction": RANK_FRACTION,
        "seconds": seconds,
        "directional / plain": seconds["directional"] / seconds["plain"],
        "directional without the shift / plain": (seconds["directional"] - seconds["shift"]) / seconds["plain"],
        "exact / directional": seconds["exact"] / seconds["directional"],
        "directional against exact": ((full - exact).norm() / exact.norm()).item(),
        "peak bytes": {name: peak_bytes(call, device) for name, call in calls.items()},
    }


def _own_log_probs(model: torch.nn.Module, rollout: Rollout) -> torch.Tensor:
    """The response's log-probs by the model's own forward, with their graph."""
    ids = torch.tensor([rollout.prompt + rollout.response], device=model.device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, PROMPT - 1 : -1]
    return model.lm_head(hidden).float().log_softmax(-1).gather(1, ids[0, PROMPT:, None])[:, 0]


def _displacement(model: torch.nn.Module, parameters: dict, rollout: Rollout) -> dict[str, torch.Tensor]:
    """What Adam's first steps make of a gradient: every weight moves by the same amount, by the gradient's sign."""
    gradients = torch.autograd.grad(_own_log_probs(model, rollout)[: rollout.ends[2]].sum(), list(parameters.values()))
    pairs = zip(parameters.items(), gradients, strict=True)
    return {name: MOVED * p.detach().square().mean().sqrt() * gradient.sign() for (name, p), gradient in pairs}


def _exact(model: torch.nn.Module, parameters: dict, displacement: dict, rollout: Rollout) -> torch.Tensor:
    log_prob = lambda k: _own_log_probs(model, rollout)[rollout.ends[k] : rollout.ends[k + 1]].sum()  # noqa: E731
    return exact_derivatives(log_prob, parameters, displacement, len(rollout.ends) - 1)

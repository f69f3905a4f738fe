"""An agent loop of two turns with a tool's answer between them, and a scorer; verl imports both by their path."""

from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput

TOOL = " [tool says 7] "


class TwoTurns(AgentLoopBase):
    """Every rollout: half of the tokens, a tool's answer (mask 0), the other half. About half have a second output."""

    async def run(self, sampling_params, **kwargs):
        prompt = list(
            self.tokenizer.apply_chat_template(list(kwargs["raw_prompt"]), add_generation_prompt=True)["input_ids"]
        )
        tool = self.tokenizer.encode(TOOL, add_special_tokens=False)
        each = (self.rollout_config.response_length - len(tool)) // 2
        first = await self._sampled(prompt, sampling_params, each)
        context = [*prompt, *first[0], *tool]
        second = await self._sampled(context, sampling_params, each)
        turns = (first[0] + tool + second[0], [1] * len(first[0]) + [0] * len(tool) + [1] * len(second[0]))
        outputs = [_output(prompt, *turns, first[1] + [0.0] * len(tool) + second[1], first[2])]
        if first[0][0] % 2:  # about half of the rollouts
            again = await self._sampled(prompt, sampling_params, each)
            outputs.append(_output(prompt, again[0], [1] * len(again[0]), again[1], again[2]))
        return outputs

    async def _sampled(self, context, sampling_params, most):
        output = await self.server_manager.generate(
            request_id=uuid4().hex, prompt_ids=context, sampling_params=sampling_params | {"max_tokens": most}
        )
        return list(output.token_ids), list(output.log_probs), output.extra_fields


def _output(prompt, response, mask, log_probs, extra_fields):
    return AgentLoopOutput(
        prompt_ids=prompt,
        response_ids=response,
        response_mask=mask,
        response_logprobs=log_probs,
        num_turns=4,
        metrics={},
        extra_fields=extra_fields | {"turn_scores": [], "tool_rewards": []},
    )


def share_of_vowels(data_source, solution_str, ground_truth, extra_info=None, **_):
    """An outcome that differs between the rollouts of a model that knows nothing."""
    return sum(solution_str.lower().count(letter) for letter in "aeiou") / 10

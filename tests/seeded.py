"""An agent loop whose samples depend on the prompt, the step and the number of the rollout, and on nothing else.

verl promises the same samples again for `rollout.full_determinism` only (its #3126, #6572), which gives all rollouts of a
prompt one seed, and so makes them equal. With this a run can be compared with itself, stopped and not.

Where the variable `NO_SAMPLES_WHILE` names a path, nothing is sampled while it exists: a validation waits for as long.
"""

import asyncio
import os
import zlib

from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class Seeded(SingleTurnAgentLoop):
    async def run(self, sampling_params, **kwargs):
        while os.path.exists(os.environ.get("NO_SAMPLES_WHILE", "")):
            await asyncio.sleep(0.1)
        named = repr((list(kwargs["raw_prompt"]), int(kwargs["global_steps"]), int(kwargs["session_id"])))
        return await super().run({**sampling_params, "seed": zlib.crc32(named.encode())}, **kwargs)

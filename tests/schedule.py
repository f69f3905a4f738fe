"""Which tests go together to a worker of pytest-xdist, and which are begun first."""

from xdist.scheduler import LoadScopeScheduling

# The files that take longest are begun first, so that no worker is left with one of them at the end.
FIRST = (
    "tests/test_quickstart.py",
    "tests/test_end_to_end.py",
    "tests/test_clusters.py",
    "tests/test_variants.py",
    "tests/test_soak.py",
    "tests/test_worker.py",
    "tests/test_controlled_loop.py",
    "tests/test_entry.py",
    "tests/test_recipes.py",
    "tests/test_bench.py",
    "tests/test_strange_input.py",
)
BY_TEST = (
    "tests/test_variants.py",
    "tests/test_recipes.py",
    "tests/test_quickstart.py",
    "tests/test_strange_input.py",
)
TOGETHER = {"tests/test_displacement.py": "tests/test_worker.py"}  # ranks of one warm process: see ranks.py


def group_of(nodeid: str) -> str:
    """A file's tests share its fixtures, but where each starts what it needs."""
    file = nodeid.split("::")[0]
    if file in BY_TEST:
        return nodeid
    return TOGETHER.get(file, file)


def place_of(nodeid: str) -> int:
    file = nodeid.split("::")[0]
    return FIRST.index(file) if file in FIRST else len(FIRST)


class Schedule(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

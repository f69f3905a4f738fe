"""The house: imports go one way. Circles are looked for in the text, so that type checking's and functions' count too."""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules() -> dict[str, Path]:
    """Every module of the package, the patches and the recipes, by the name that it is imported by."""
    found = {}
    for folder in ("l2t_verl", "patches", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = ("l2t_verl", *parts) if folder == "patches" else parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imported(name: str, tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a module's text imports anywhere; packages on the way that it is itself in do not count."""
    wanted: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            # a package whose submodules alone are wanted is still run, unless it is being run already
            wanted |= submodules or {node.module}
    parents = {wanted_name.rsplit(".", depth)[0] for wanted_name in wanted for depth in range(1, wanted_name.count(".") + 1)}
    own = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
    return ((wanted | (parents - own)) & set(known)) - {name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The first circle that is found; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    graph = {name: imported(name, ast.parse(file.read_text()), known) for name, file in known.items()}
    assert "l2t_verl.config" in graph["l2t_verl.plugin.settings"]
    assert circle(graph) == []


def test_a_circle_is_seen():
    known = dict.fromkeys(("a", "a.b", "c"), Path())
    hidden = "if TYPE_CHECKING:\n    from a import b\n"
    lazy = "def f():\n    import c\n"
    assert imported("c", ast.parse(hidden), known) == {"a", "a.b"}
    graph = {"a": set(), "a.b": imported("a.b", ast.parse(lazy), known), "c": imported("c", ast.parse(hidden), known)}
    assert set(circle(graph)) == {"a.b", "c"}


def test_the_driver_and_the_workers_do_not_read_each_other_s_rooms():
    """What two processes need stands beside the entry point; the trainer alone names the worker that it starts."""
    known = modules()
    for room in ("driver", "workers", "rollout"):
        for name, file in known.items():
            if name.startswith(f"l2t_verl.plugin.{room}."):
                rooms = {found.split(".")[2] for found in imported(name, ast.parse(file.read_text()), known)
                         if found.startswith("l2t_verl.plugin.") and found.count(".") > 2}  # fmt: skip
                allowed = {room} | ({"workers", "cpu"} if name == "l2t_verl.plugin.driver.trainer" else set())
                assert rooms <= allowed, f"{name} imports from {rooms - allowed}"


def test_every_example_is_run():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    run = [ROOT / path for path in settings["testpaths"]]
    with_examples = [file for file in modules().values() if ">>> " in file.read_text()]
    assert len(with_examples) > 50
    left_out = [file for file in with_examples if not any(file.is_relative_to(path) for path in run)]
    assert left_out == [], "their examples run nowhere: name them in pyproject.toml's testpaths"


def test_every_package_is_in_the_wheel():
    """A folder that is not named is missed by those alone who install the wheel."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    ours = ROOT / "l2t_verl"
    holds_modules = {".".join(("l2t_verl", *file.parent.relative_to(ours).parts)) for file in ours.rglob("*.py")}
    assert holds_modules - set(wheel) == {"l2t_verl.guide"}, "name them in pyproject.toml"  # writes pages of the repository

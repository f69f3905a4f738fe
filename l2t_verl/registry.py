"""The method's exchangeable parts by name: segmenters, kinds of J, penalties, credits and graders; yours beside ours.

A module of your own registers what it brings when it is imported, and `algorithm.l2t.plugins=[my_module]` has it imported
in every process that needs it. `l2t_verl/guide/extending.md` goes through it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from l2t_verl.files import did_you_mean

if TYPE_CHECKING:  # torch is heavy, and a configuration is checked without it
    import torch

Part = TypeVar("Part", bound=Callable[..., Any])


class Registry(Mapping[str, Part], Generic[Part]):
    """Parts of one sort by their names.

    The names of our own parts are declared, so that a configuration can be checked before the packages that hold them, and
    torch with them, are imported.

    Args:
        what: the sort, as messages call it.
        declared: names of the parts that the package itself registers.
    """

    def __init__(self, what: str, declared: Iterable[str] = ()):
        self.what = what
        self._declared = dict.fromkeys(declared)
        self._parts: dict[str, Part] = {}
        self._options: dict[str, type[BaseModel]] = {}

    def register(self, name: str, *, options: type[BaseModel] | None = None) -> Callable[[Part], Part]:
        """A decorator that registers a part under a name; a module that is imported twice may register its own part twice.

        Args:
            name: what the configuration calls it.
            options: a pydantic model of its settings, all with defaults, which `algorithm.l2t.options.<name>` fills.

        Raises:
            ValueError: the name is taken by another part, or one of the options has no default.

        Example:
            >>> doubles = Registry("doubling")
            >>> @doubles.register("twice")
            ... def twice(x):
            ...     return 2 * x
            >>> doubles["twice"](3)
            6
        """
        if options is not None and (bare := [key for key, field in options.model_fields.items() if field.is_required()]):
            raise ValueError(f"{self.what} {name!r}: its options need defaults, and {', '.join(bare)} has none")

        def keep(part: Part) -> Part:
            known = self._parts.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (part.__module__, part.__qualname__):
                raise ValueError(f"the {self.what} {name!r} is registered already, by {known.__module__}; take another name")
            self._parts[name] = part
            if options is not None:
                self._options[name] = options
            return part

        return keep

    def options_of(self, name: str) -> type[BaseModel] | None:
        """The model of a part's settings; None if it has none."""
        return self._options.get(name)

    def check(self, name: str, *, beside: Iterable[str] = ()) -> str:
        """Return a name that is registered, and refuse one that is not.

        Args:
            name: to look for.
            beside: names that are allowed although other code handles them.

        Raises:
            ValueError: nothing has that name; the message lists the known names, and the one that may have been meant.

        Example:
            >>> Registry("colour", ["red", "blue"]).check("red")
            'red'
        """
        known = [*self, *beside]
        if name in known:
            return name
        raise ValueError(f"unknown {self.what} {name!r}. {did_you_mean(name, known)}")

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared | dict.fromkeys(self._parts))

    def __len__(self) -> int:
        return len(self._declared | dict.fromkeys(self._parts))


Tensors = Callable[..., "torch.Tensor"]

SEGMENTERS: Registry[Callable[..., list[int] | None]] = Registry(
    "segmenter", ("episode_tags", "think_blocks", "paragraphs", "discourse_markers", "fixed_tokens", "surprise")
)
KINDS: Registry[Tensors] = Registry(
    "kind of answer score", ("geometric", "probability", "mean_probability", "smoothed_logprob", "mean_logprob")
)
PENALTIES: Registry[Tensors] = Registry("estimator of a penalty from log-ratios", ("log_ratio", "log_ratio_episode"))
BASELINES = ("length_penalty", "adaptive_length_penalty", "overlong", "truncation", "laser_d")  # no process rewards
CRITICS = ("critic", "guided")  # credits that learn from J what a response is worth
CREDITS: Registry[Tensors] = Registry("credit", ("paper", "episode", "shaped", *CRITICS, *BASELINES))
GRADERS: Registry[Callable[..., Any]] = Registry("grader")
NO_FALLBACKS = ("episode_tags", "surprise")  # one leads to a fallback, the other cuts whatever there is
SQUARED_LOG_RATIOS = ("log_ratio", "log_ratio_episode")  # penalties that rounding can be told from
REGISTRIES = (SEGMENTERS, KINDS, PENALTIES, CREDITS, GRADERS)

register_segmenter = SEGMENTERS.register
register_kind = KINDS.register
register_penalty = PENALTIES.register
register_credit = CREDITS.register
register_grader = GRADERS.register


def load_plugins(modules: Iterable[str]) -> None:
    """Import modules that register parts.

    Args:
        modules: names, as after `import`.

    Raises:
        ValueError: one cannot be imported; the message has its own error and the remedy.

    Example:
        >>> load_plugins(["no_such_module"])
        Traceback (most recent call last):
        ...
        ValueError: no_such_module cannot be imported (ModuleNotFoundError: No module named 'no_such_module'); it has to be \
installed, or its folder on PYTHONPATH, on every node
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be imported ({type(error).__name__}: {error}); it has to be installed, or its folder on "
                "PYTHONPATH, on every node"
            ) from error


def option_models() -> dict[str, type[BaseModel]]:
    """The pydantic models of all registered parts that have settings.

    Returns:
        The models by the names of their parts.

    Raises:
        ValueError: two parts of different sorts have settings and one name: `algorithm.l2t.options.<name>` would be both's.
    """
    found: dict[str, tuple[str, type[BaseModel]]] = {}
    for registry in REGISTRIES:
        for name in registry:
            if (model := registry.options_of(name)) is None:
                continue
            if name in found:
                raise ValueError(
                    f"{found[name][0]} and {registry.what} are both named {name!r} and both have options, which would share "
                    f"algorithm.l2t.options.{name}; register one under another name"
                )
            found[name] = registry.what, model
    return {name: model for name, (_, model) in found.items()}

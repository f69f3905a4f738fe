"""python -m l2t_verl.guide [parts]: writes settings.md, from the configuration's own sentences, and the drawings beside it.

`parts` prints the names of all registered parts instead; see extending.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel

from l2t_verl.config import L2TConfig
from l2t_verl.guide.drawings import drawn
from l2t_verl.registry import REGISTRIES

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

```bash
bash recipes/gsm8k_3b/run.sh l2t --dry-run algorithm.l2t.alpha=0.5
```

All stand below `algorithm.l2t`, and all have a default: the section may be left out. On stock verl a first override of it is
written with a plus, `+algorithm.l2t.alpha=0.5`. What is unknown, of another type, out of bounds or contradictory is refused
before a worker starts, all of it in one message. [reward.md](reward.md) says how to choose.

This page is written by `python -m l2t_verl.guide`.

| setting | default | what it is |
|---|---|---|
"""


def describe_fields(model: type[BaseModel] = L2TConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """List every leaf of the tree as (dotted path below `algorithm.l2t`, default, sentence), in order."""
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += describe_fields(field.annotation, f"{prefix}{name}.")
        else:
            value = field.get_default(call_default_factory=True)
            default = repr(value)[1:-1] if isinstance(value, str) else "null" if value is None else str(value)
            rows.append((prefix + name, default, field.description or ""))
    return rows


def page() -> str:
    """The page: a row for each setting, in the configuration's order."""
    rows = ((name, default, text.replace("|", "\\|")) for name, default, text in describe_fields())
    return HEAD + "".join(f"| `{name}` | `{default}` | {text} |\n" for name, default, text in rows)


def parts() -> str:
    """A line for each registry with the names in it."""
    return "\n".join(f"{registry.what}: {', '.join(registry) or 'none of ours'}" for registry in REGISTRIES)


if __name__ == "__main__":
    if sys.argv[1:] == ["parts"]:
        print(parts())
    elif sys.argv[1:]:
        sys.exit(f"guide: unknown argument {sys.argv[1]}; known: parts, or none")
    else:
        PAGE.write_text(page())
        for file, drawing in drawn().items():
            file.write_text(drawing)

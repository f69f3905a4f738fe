"""The command `l2t-verl`."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {"preflight": "l2t_verl.preflight", "inspect": "l2t_verl.inspector", "report": "l2t_verl.report"}


def main() -> None:
    """Run it; say what to install where the offline tools' libraries are not there."""
    # a report needs no model: of several commands the one that is asked for is imported
    asked = [name for name in COMMANDS if name in sys.argv[1:2]] or list(COMMANDS)
    try:
        import typer

        commands = [getattr(importlib.import_module(f"{COMMANDS[name]}.command"), name) for name in asked]
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("l2t_verl"):
            raise
        sys.exit(f"l2t-verl needs {error.name}, which is not installed: pip install 'l2t-verl[tools]'")
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(lambda: None)  # one command has a name, too
    for command in commands:
        app.command()(command)
    app()


if __name__ == "__main__":
    main()

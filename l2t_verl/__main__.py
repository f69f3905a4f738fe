"""The command `l2t-verl`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run it; say what to install where the offline tools' libraries are not there."""
    try:
        import typer

        from l2t_verl.inspector.command import inspect
        from l2t_verl.preflight.command import preflight
        from l2t_verl.report.command import report
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("l2t_verl"):
            raise
        sys.exit(f"l2t-verl needs {error.name}, which is not installed: pip install 'l2t-verl[tools]'")
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.command()(preflight)
    app.command()(inspect)
    app.command()(report)
    app()


if __name__ == "__main__":
    main()

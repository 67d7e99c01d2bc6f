"""The command line: `fedsim list | run | plan | audit | compare`.

Exit codes: 0 success; 2 a wrong input, said in one line; 4 an audit whose claim is not supported;
1 anything else; 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from fedsim.core.errors import InputError

__all__ = ["main", "run_script"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code and never raises for a user's mistake."""
    # Before anything imports flwr or datasets: no telemetry, no progress bars of their own.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # And before torch: threads that wait must not take cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fedsim.cli.group import root

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = root.main(arguments, prog_name="fedsim", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        return 2
    except (InputError, click.UsageError) as error:
        message = error.format_message() if isinstance(error, click.UsageError) else str(error)
        return _fail(message, 2)
    except (KeyboardInterrupt, click.Abort):
        return _fail("stopped. Add --out DIR --resume to the same command to go on.", 130)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(
            f"the system said: {error.strerror or error}{where}. Finished rounds are kept; "
            "remove the cause, then add --out DIR --resume to the same command.",
            1,
        )
    return code if isinstance(code, int) else 0


def run_script(path: str) -> None:
    """What a scenario script does when it is run by itself: `fedsim run` on it."""
    sys.exit(main(["run", path, *sys.argv[1:]]))


def _fail(message: str, code: int) -> int:
    click.echo(f"fedsim: {' '.join(message.split())}", err=True)
    return code


def entry() -> None:
    """The `fedsim` command."""
    sys.exit(main())

"""What the services' programs have in common: `python -m strongroom.services.NAME --config FILE`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from strongroom.base.errors import ConfigurationError, StrongroomError
from strongroom.services.files import read_file
from strongroom.services.http import log_to_stderr


def run_configured(name: str, argv: Sequence[str] | None, run: Callable[[bytes], None]) -> None:
    """Run a service with the configuration that its command line names.

    Args:
        name: The service's name, with hyphens.
        argv: The command line's arguments; None for this process's own.
        run: Runs it until it is told to end, given what the configuration file holds.

    Raises:
        SystemExit: 2 for another command line, 1 when it could not run; why is on standard error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2 or arguments[0] != "--config":  # noqa: PLR2004 - the option and its value
        sys.stderr.write(f"usage: {name.replace('-', '_')} --config FILE\n")
        raise SystemExit(2)
    log_to_stderr()
    try:
        content = read_file(Path(arguments[1]))
        if content is None:
            raise ConfigurationError(f"there is no configuration at {arguments[1]}")
        run(content)
    except StrongroomError as error:
        sys.stderr.write(f"{name}: {error.message}. {error.action}\n")
        raise SystemExit(1) from None

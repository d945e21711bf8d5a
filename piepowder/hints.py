"""Commands in hints, spelled so that they run as they are printed, also where `piepowder` is not on the PATH.

Services and libraries write a hint as "`piepowder topics`"; only this module knows the form that runs here.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

_COMMAND: Final = re.compile(r"`piepowder ([^`]+)`")


def command(arguments: str) -> str:
    """The command line of `piepowder` with these arguments, for this Python's environment."""
    script = Path(sys.executable).with_name("piepowder")
    if shutil.which("piepowder") == str(script):
        return f"piepowder {arguments}"
    if script.exists():
        return f"{shlex.quote(str(script))} {arguments}"
    return f"{shlex.quote(sys.executable)} -m piepowder {arguments}"


def runnable(text: str) -> str:
    """The text, with each quoted `piepowder` command spelled as it runs here."""
    return _COMMAND.sub(lambda found: f"`{command(found[1])}`", text)

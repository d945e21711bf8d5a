"""Commands as people can run them: what a sentence advises must work as it stands, also where no PATH leads to it."""

import shlex
import shutil
import sys
from pathlib import Path


def command(arguments: str) -> str:
    """The command `piepowder` with these arguments: by its name if the PATH has the one that belongs to this Python."""
    script = Path(sys.executable).with_name("piepowder")
    if shutil.which("piepowder") == str(script):
        return f"piepowder {arguments}"
    if script.exists():
        return f"{shlex.quote(str(script))} {arguments}"
    return f"{shlex.quote(sys.executable)} -m piepowder {arguments}"

"""`python -m services.router`."""

from services.router.app import run
from services.router.settings import Settings
from shared.runtime import lifecycle
from shared.runtime.settings import load

if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.main("router", settings, lambda: run(settings))

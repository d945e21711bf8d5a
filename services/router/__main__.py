"""`python -m services.router`."""

from services.router.app import run
from services.router.settings import Settings
from shared.runtime import lifecycle

if __name__ == "__main__":
    lifecycle.main("router", Settings, run)

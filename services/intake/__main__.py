"""`python -m services.intake`."""

from services.intake.app import run
from services.intake.settings import Settings
from shared.runtime import lifecycle

if __name__ == "__main__":
    lifecycle.main("intake", Settings, run)

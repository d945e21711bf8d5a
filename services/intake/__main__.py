"""`python -m services.intake`."""

from services.intake.app import run
from services.intake.settings import Settings
from shared.runtime import lifecycle, settings

if __name__ == "__main__":
    loaded = settings.load(Settings)
    lifecycle.main("intake", loaded, lambda: run(loaded))

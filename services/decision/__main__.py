"""`python -m services.decision`."""

from services.decision.app import run
from services.decision.settings import Settings
from shared.runtime import lifecycle
from shared.runtime.settings import load

if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.main("decision", settings, lambda: run(settings))

"""`python -m services.decision`."""

from services.decision.app import run
from services.decision.settings import Settings
from shared.runtime import lifecycle

if __name__ == "__main__":
    lifecycle.main("decision", Settings, run)

"""`python -m services.audit`."""

from services.audit.app import run
from services.audit.settings import Settings
from shared.runtime import lifecycle

if __name__ == "__main__":
    lifecycle.main("audit", Settings, run)

"""`python -m services.audit`."""

from services.audit.app import run
from services.audit.settings import Settings
from shared.runtime import lifecycle
from shared.runtime.settings import load

if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.main("audit", settings, lambda: run(settings))

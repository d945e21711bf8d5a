"""Process infrastructure: settings, logs, metrics, clock, retries, readiness and supervision."""

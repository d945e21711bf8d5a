"""The local stack: Kafka, PostgreSQL and all services on this machine, from Python packages alone; and the main job
on it: the sample, `run` and the accounting. It uses the command's client; only the local commands import it."""

"""The local stack: a real Kafka and a real PostgreSQL on this machine, from Python packages alone."""

from deploy.local.errors import StackError
from deploy.local.kafka import KafkaNode, LocalKafka
from deploy.local.postgres import LocalPostgres
from deploy.local.process import Child, stop_all
from deploy.local.stack import Failure, LocalStack

__all__ = ["Child", "Failure", "KafkaNode", "LocalKafka", "LocalPostgres", "LocalStack", "StackError", "stop_all"]

"""Local servers for the demo and the tests, each a child process on 127.0.0.1."""

from ops.servers.broker import Broker
from ops.servers.kafka import ApacheKafka
from ops.servers.kafka_server import KafkaServer
from ops.servers.model import ModelApi
from ops.servers.ports import free_port
from ops.servers.postgres import Postgres
from ops.servers.process import Server, ServerError
from ops.servers.waiting import wait_until

__all__ = [
    "ApacheKafka",
    "Broker",
    "KafkaServer",
    "ModelApi",
    "Postgres",
    "Server",
    "ServerError",
    "free_port",
    "wait_until",
]

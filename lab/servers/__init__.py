"""Local servers for the demo and the tests, each a child process on 127.0.0.1."""

from lab.servers.broker import Broker
from lab.servers.kafka import ApacheKafka
from lab.servers.kafka_server import KafkaServer
from lab.servers.model import ModelApi
from lab.servers.ports import free_port
from lab.servers.postgres import Postgres
from lab.servers.process import Server, ServerError
from lab.servers.waiting import wait_until

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

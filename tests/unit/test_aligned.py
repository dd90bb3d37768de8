"""A sink with the source's partitions gets each item on the worker that read it."""

import threading
from collections.abc import Callable
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import StatefulSinkPartition
from bytewax.testing import cluster_main

from lab.servers import KafkaServer
from operators.engine.aligned import SourceAlignedSink
from operators.kafka import client as topics
from settings import Settings
from tests.factories import settings
from tests.support import Topics

PARTITIONS = 12
"""More than ten, so that the order of the keys as texts is not that of the numbers."""


@pytest.fixture
def source_settings(broker: KafkaServer, make_topics: Callable[..., Topics]) -> Settings:
    """Settings of a topic that exists."""
    topic = make_topics(partitions=PARTITIONS).transactions
    servers = broker.client_settings["bootstrap.servers"]
    return settings(kafka_bootstrap_servers=servers, kafka_topic=topic, start_timeout=10)


class _Once(StatefulSourcePartition[tuple[str, Any], None]):
    def __init__(self, key: str) -> None:
        self._left = [(key, (key, threading.get_ident()))]

    def next_batch(self) -> list[tuple[str, Any]]:
        if not self._left:
            raise StopIteration
        return [self._left.pop()]

    def snapshot(self) -> None:
        return None


class _Source(FixedPartitionedSource[tuple[str, Any], None]):
    """One item from each partition: its key and the thread that it was read on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def list_parts(self) -> list[str]:
        return topics.partition_keys(self._settings)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Once:
        del step_id, resume_state
        return _Once(for_part)


class _Written(StatefulSinkPartition[Any, None]):
    def __init__(self, key: str, into: list[Any]) -> None:
        self._key, self._into = key, into

    def write_batch(self, values: list[Any]) -> None:
        self._into += [(self._key, threading.get_ident(), *value) for value in values]

    def snapshot(self) -> None:
        return None


class _Sink(SourceAlignedSink[Any]):
    def __init__(self, settings: Settings, into: list[Any]) -> None:
        super().__init__(settings)
        self._into = into

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Written:
        del step_id, resume_state
        return _Written(for_part, self._into)


def test_a_sink_has_the_partitions_of_the_source(source_settings: Settings) -> None:
    """Under the same keys, in the order of their numbers."""
    topic = source_settings.kafka_topic

    found = _Sink(source_settings, []).list_parts()

    assert found == [f"{number}-{topic}" for number in range(PARTITIONS)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_item_is_written_where_it_was_read(source_settings: Settings, workers: int) -> None:
    """By the partition of its key, on the same worker: nothing crosses from one to another."""
    written: list[tuple[str, int, str, int]] = []
    flow = Dataflow("test")
    items = op.input("in", flow, _Source(source_settings))
    op.output("out", items, _Sink(source_settings, written))

    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]

    assert len(written) == PARTITIONS
    assert all(sink_key == item_key for sink_key, _, item_key, _ in written)
    assert all(written_on == read_on for _, written_on, _, read_on in written)
    assert len({thread for _, thread, _, _ in written}) == workers

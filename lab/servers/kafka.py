"""Apache Kafka itself: one node, broker and controller, from the jars that Maven brings."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from lab.servers.kafka_server import KafkaServer
from lab.servers.ports import LOCALHOST, free_port
from lab.servers.process import ServerError

_POM = Path(__file__).with_name("kafka-pom.xml")
_LOGGING = Path(__file__).with_name("kafka-log4j2.properties").resolve()
_CHECKOUT = Path(__file__).resolve().parents[2]
_CLUSTER = "q1Sh-9_ISia_zwGINzRvyQ"
_JAVA = 17

# For tools, which run for a second or two: no time for the compiler to pay off.
_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")


class ApacheKafka(KafkaServer):
    """Apache Kafka 4.1, where the embedded broker differs from it or loses data.

    The first start on a machine downloads 54 MB into `.kafka/` at the top of the checkout.

    :arg folder: For its data, settings and log.

    :arg settings: Server properties over those set here.

    """

    keeps_data: ClassVar[bool] = True
    ready_limit: ClassVar[timedelta] = timedelta(seconds=110)
    stop_limit: ClassVar[timedelta] = timedelta(seconds=15)

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self._controller_port = free_port()
        self._settings = dict(settings or {})
        self._properties = self.folder / "server.properties"

    @staticmethod
    def missing() -> str | None:
        """Say what has to be installed first.

        :returns: A sentence, or None if all is there.

        """
        # It is run because macOS has a `java` that only says where to get one.
        java = shutil.which("java")
        version = java and _run([java, "-version"], check=False)
        found = re.search(r'version "(\d+)', version or "")
        if found is None or int(found[1]) < _JAVA:
            return f"Apache Kafka needs Java {_JAVA} or later: no such `java` on the PATH"
        if not _jars().exists() and shutil.which("mvn") is None:
            return "Apache Kafka's jars are downloaded with Maven: no `mvn` on the PATH"
        return None

    def prepare(self) -> None:
        """Download the jars, write the settings, format the storage."""
        if reason := self.missing():
            raise ServerError(reason)
        _download()
        properties = {**self._defaults(), **self._settings}
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        arguments = ["format", "--cluster-id", _CLUSTER, "--config", str(self._properties)]
        _run(_java(*_QUICK, main="kafka.tools.StorageTool", arguments=arguments))

    def command(self) -> list[str]:
        """Run the broker."""
        logging = f"-Dlog4j2.configurationFile={_LOGGING}"
        return _java("-Xmx1g", logging, main="kafka.Kafka", arguments=[str(self._properties)])

    def group_tool(self, *arguments: str) -> str:
        """Run `kafka-consumer-groups` against this broker.

        :arg arguments: Such as `--describe`, `--group`, `analytics`.

        :returns: What it printed, warnings included.

        :raises ServerError: It ended with another status than 0.

        """
        main = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
        address = ["--bootstrap-server", self.bootstrap_servers]
        return _run(_java(*_QUICK, main=main, arguments=[*address, *arguments]))

    def _defaults(self) -> dict[str, str]:
        controller = f"{LOCALHOST}:{self._controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "log.dirs": str(self.folder / "data"),
            # A topic that a typing error made would hide the error.
            "auto.create.topics.enable": "false",
            # Messages with times of long ago, as tests send them, would be removed now and then.
            "log.retention.ms": "-1",
            # One node holds one copy.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # After a kill the controller lets the broker in again when its session is over.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "400",
            # Quick: few internal partitions, no waiting for more members, short sessions.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.min.heartbeat.interval.ms": "100",
        }


def _jars() -> Path:
    # Named after the list of what is in it: another version, another folder.
    return _CHECKOUT / ".kafka" / hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]


def _download() -> None:
    jars = _jars()
    if jars.exists():
        return
    jars.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
        # Renamed when complete, so that an interrupted download is not taken for a whole one.
        complete = Path(scratch) / "jars"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={complete}"]
        _run(["mvn", "-q", "-B", "-f", str(_POM), *goal])
        if not jars.exists():
            complete.rename(jars)


def _java(*options: str, main: str, arguments: list[str]) -> list[str]:
    return ["java", *options, "-cp", f"{_jars()}/*", main, *arguments]


def _run(command: list[str], *, check: bool = True) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and done.returncode != 0:
        msg = f"{command[0]} ended with status {done.returncode}:\n{done.stdout[-4000:]}"
        raise ServerError(msg)
    return done.stdout

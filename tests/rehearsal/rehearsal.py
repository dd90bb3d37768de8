"""Run a StatefulSet's pods on this machine, kill some of them, and count both ends."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from signal import SIGKILL, SIGTERM

import psutil
import yaml

from lab.sample import transactions
from lab.servers import KafkaServer, ModelApi, Postgres, free_port, wait_until
from tests.kit.flow import Flow
from tests.kit.kafka import Outgoing, produce
from tests.kit.postgres import query
from tests.rehearsal.manifests import KUBERNETES, Manifests
from tests.rehearsal.pods import Container, Pod, Volumes

__all__ = ["Rehearsal"]

PARTITIONS = 4
SLICE = 40
EVERY = 0.1
LIVE = "20"  # seconds that pods may take to come together; the default would make a hang long
BACK = timedelta(seconds=180)  # more than one start anew by the liveness probe takes
Say = Callable[[str], object]


class Rehearsal:
    """The pods, what they need, and messages that come in all the time.

    :arg folder: For everything.

    :arg broker: Running; the topics that the manifests name are made there.

    :arg postgres: Running.

    :arg model: Running.

    :arg say: Told what happens.

    :arg overlay: Below `k8s/`.

    :arg settings: Over those of the overlay's ConfigMap.

    """

    def __init__(
        self,
        folder: Path,
        *,
        broker: KafkaServer,
        postgres: Postgres,
        model: ModelApi,
        say: Say = print,
        overlay: str = "overlays/three-workers",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._broker, self._postgres, self._say = folder, broker, postgres, say
        self._manifests = Manifests(overlay)
        given = self._manifests.one("ConfigMap", "fraud-settings")["data"]
        given |= {"LIVE_TIMEOUT": LIVE} | dict(settings or {})
        run = f"rehearsal_{free_port()}"  # of this run alone, on a server that others use too
        self._topic = f"{given['KAFKA_TOPIC']}-{run}"
        self._url = postgres.url(run)
        self._overrides = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_TOPIC": self._topic,
            "KAFKA_ERROR_TOPIC": f"{given['KAFKA_ERROR_TOPIC']}-{run}",
            "KAFKA_CONSUMER_GROUP": f"{given['KAFKA_CONSUMER_GROUP']}-{run}",
            "ML_API_URL": model.url,
            "HTTP_PORT": str(free_port()),
        }
        self._samples = transactions(1_000_000, seed=free_port(), broken=0.03, repeated=0.02)
        self._sent, self._fed = 0, 0.0
        broker.create_topic(self._topic, PARTITIONS)
        broker.create_error_topic(self._overrides["KAFKA_ERROR_TOPIC"], PARTITIONS)
        postgres.create_database(run)
        for secret in yaml.safe_load_all((KUBERNETES / "secret.example.yaml").read_text()):
            secrets = folder / "shared" / secret["metadata"]["name"]
            secrets.mkdir(parents=True)
            for key in secret["stringData"]:
                (secrets / key).write_text(self._url)

    def migrate(self) -> None:
        """Run the Job."""
        template = self._manifests.one("Job")["spec"]["template"]
        [spec] = template["spec"]["containers"]
        volumes = Volumes(shared=self._folder / "shared", own=self._folder / "migrate")
        Container(
            self._manifests,
            template,
            spec,
            name="migrate",
            volumes=volumes,
            overrides=self._overrides,
        ).run()
        self._say("the Job has made the tables")

    @contextmanager
    def pods(self, *, missing: int = 0) -> Iterator[list[Pod]]:
        """Start all pods, as many as the manifest has replicas; they are killed at the end.

        :arg missing: How many of them to leave out; then the others wait for them.

        """
        replicas = int(self._manifests.one("StatefulSet")["spec"]["replicas"])
        port = free_port()
        with ExitStack() as running:
            pods = [
                Pod(self._manifests, number, self._folder, overrides=self._overrides, port=port)
                for number in range(replicas - missing)
            ]
            for pod in pods:
                pod.start()
                running.callback(pod.stream.kill)
            if not missing:
                self.wait_until_all_work("all pods work", pods)
            yield pods

    def kill_process(self, pod: Pod, pods: list[Pod]) -> None:
        """Kill the stream in a pod; its supervisor has to start it again, and all others theirs."""
        before = [each.stream.process() for each in pods]
        victim = pod.stream.process()
        assert victim is not None
        psutil.Process(victim).send_signal(SIGKILL)
        what = f"after the process of {pod.name} was killed, all work again"
        self.wait_until_all_work(what, pods)
        after = [each.stream.process() for each in pods]
        assert all(old != new for old, new in zip(before, after, strict=True)), (before, after)

    def delete(self, pod: Pod, pods: list[Pod]) -> None:
        """Kill a whole pod, and start it again as the StatefulSet's controller would."""
        pod.stream.kill()
        pod.start()
        self.wait_until_all_work(f"after {pod.name} was deleted, all work again", pods)

    def wait_until_all_work(self, what: str, pods: list[Pod]) -> None:
        """Send messages until new ones of every partition are stored, and all probes go well.

        Each pod has one or two of the partitions.
        """
        began = time.monotonic()
        rounds = self._sent // SLICE

        def all_work() -> bool:
            self._look_after(pods)
            self.feed()
            statement = "SELECT source_partition, max(source_offset) FROM transactions GROUP BY 1"
            stored = dict(query(self._url, statement))
            # Each slice adds as many to every partition, so these were sent after the beginning.
            first = rounds * SLICE // PARTITIONS
            if any(stored.get(number, -1) < first for number in range(PARTITIONS)):
                return False
            return all(
                pod.stream.probe(kind)
                for pod in pods
                for kind in ("startup", "liveness", "readiness")
            )

        self._wait(all_work, pods, what)
        self._say(f"{what} ({time.monotonic() - began:.1f} s)")

    def feed(self) -> None:
        """Send some messages, to every partition; nothing if it did so a moment ago."""
        if time.monotonic() - self._fed < EVERY:
            return
        self._fed = time.monotonic()
        slice_ = list(islice(self._samples, SLICE))
        produce(
            self._broker,
            self._topic,
            [
                Outgoing(sample.value, sample.key, partition=number % PARTITIONS)
                for number, sample in enumerate(slice_)
            ],
        )
        self._sent += len(slice_)

    def end(self, pods: list[Pod]) -> None:
        """Tell all pods to end, as a scaling to 0 does: exit code 0 from each."""
        for pod in pods:
            psutil.Process(pod.stream.pid).send_signal(SIGTERM)
        codes = [pod.stream.wait() for pod in pods]
        assert codes == [0] * len(pods), [pod.stream.log_tail() for pod in pods]
        self._say(f"all pods ended with {codes} on SIGTERM")

    def wait_until_done(self, pods: list[Pod]) -> None:
        """Wait until every message is accounted for."""

        def done() -> bool:
            self._look_after(pods)
            return self.audit()[0] == 0

        self._wait(done, pods, "a clean audit")
        self._say(f"all of {self._sent:,} messages are accounted for")

    def _look_after(self, pods: list[Pod]) -> None:
        """Do the kubelet's part: processes that do not come together hang until they are ended."""
        for pod in pods:
            assert pod.stream.running, f"{pod.name} has ended:\n{pod.stream.log_tail()}"
            if pod.stream.look_after():
                self._say(f"{pod.name} was started again: its probe failed")

    def _wait(self, condition: Callable[[], bool], pods: list[Pod], what: str) -> None:
        try:
            wait_until(condition, BACK, what=what)
        except TimeoutError as error:
            logs = [f"{pod.name}:\n{pod.stream.log_tail()}" for pod in pods]
            raise TimeoutError("\n".join([str(error), *logs])) from None

    def audit(self) -> tuple[int, str]:
        """Run `python -m ops audit`: its exit code, and what it printed."""
        variables = {
            **self._manifests.one("ConfigMap", "fraud-settings")["data"],
            **self._overrides,
            "DATABASE_URL": self._url,
        }
        variables.pop("DATABASE_URL_FILE")
        audit = Flow(self._folder / "audit", variables, module=("ops", "audit"))
        return audit.run(), audit.output()

"""Servers for all tests: started when first asked for, once a run, ended with it.

Once in each process of a run that is shared among several, which may hand a module's tests to more
than one of them, in pieces: so fixtures of servers belong to the session, never to a module.

A test that kills, stops or pauses one may leave it so: the fixtures that a test asks for bring
it back. What the embedded broker held is lost by that, databases are not.
"""

import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.servers import ApacheKafka, Broker, KafkaServer, ModelApi, Postgres
from tests.kit.environment import environment
from tests.kit.feed import TOKEN, Feed
from tests.kit.kafka import Topics
from tests.kit.recovery import make_recovery, recovery_options

_TEMPLATE = "migrated"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--kafka`."""
    parser.addoption(
        "--kafka",
        choices=("embedded", "apache"),
        default="embedded",
        help="the broker of all tests: embedded (default), or Apache Kafka (Java 17, Maven)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run without what was asked for: skipped tests would look like passed ones."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Processes of a run in several, and one in the background, are started so, and what tests
        # start would be deaf to it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--kafka") == "apache" and (reason := ApacheKafka.missing()):
        raise pytest.UsageError(reason)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what only Apache Kafka can show unless it is there."""
    if config.getoption("--kafka") == "apache":
        return
    skip = pytest.mark.skip(reason="only with --kafka=apache")
    for item in items:
        if item.get_closest_marker("apache_kafka"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Folder of all servers' data and logs.

    Not below pytest's own, which the user that Postgres runs as may not enter.
    """
    folder = Path(tempfile.mkdtemp(prefix="fraud-scoring-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _broker(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[KafkaServer]:
    server: KafkaServer
    if request.config.getoption("--kafka") == "apache":
        server = ApacheKafka(servers_folder / "kafka")
    else:
        server = Broker(servers_folder / "broker")
    with server:
        yield server


@pytest.fixture(scope="session")
def _postgres(servers_folder: Path) -> Iterator[Postgres]:
    with Postgres(servers_folder / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def _model_api(servers_folder: Path) -> Iterator[ModelApi]:
    with ModelApi(servers_folder / "model") as server:
        yield server


@pytest.fixture(scope="session")
def _template(_postgres: Postgres) -> str:
    # Late, so that a test which needs no database does not depend on it.
    from ops.migrate import migrate  # noqa: PLC0415

    _postgres.create_database(_TEMPLATE)
    migrate(_postgres.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def broker(_broker: KafkaServer) -> KafkaServer:
    """Broker of Kafka's protocol, up at the start of each test."""
    _broker.recover()
    return _broker


@pytest.fixture
def apache_kafka(broker: KafkaServer) -> ApacheKafka:
    """Apache Kafka, for tests marked `apache_kafka`: the broker with its tools."""
    assert isinstance(broker, ApacheKafka), "mark this test with apache_kafka"
    return broker


@pytest.fixture
def postgres(_postgres: Postgres) -> Postgres:
    """Postgres, up at the start of each test. What it has committed survives a kill."""
    _postgres.recover()
    return _postgres


@pytest.fixture
def database_url(postgres: Postgres, _template: str) -> Iterator[str]:
    """URL of the test's own database, to which all migrations were applied."""
    name = f"test_{secrets.token_hex(6)}"
    postgres.create_database(name, template=_template)
    yield postgres.url(name)
    postgres.recover()
    postgres.drop_database(name)


@pytest.fixture
def make_topics(broker: KafkaServer) -> Callable[..., Topics]:
    """Make topics of the test's own: `make_topics(partitions=4)`."""

    def make(*, partitions: int = 4) -> Topics:
        run = secrets.token_hex(4)
        topics = Topics(f"transactions-{run}", f"transactions-failed-{run}", f"scoring-{run}")
        broker.create_topic(topics.transactions, partitions)
        broker.create_error_topic(topics.failed, partitions)
        return topics

    return make


@pytest.fixture
def topics(make_topics: Callable[..., Topics]) -> Topics:
    """Topics of four partitions and a group, the test's own."""
    return make_topics()


@pytest.fixture
def model_api(_model_api: ModelApi) -> Iterator[ModelApi]:
    """Stand-in model API, up and without faults at the start of each test."""
    _model_api.recover()
    _model_api.reset()
    yield _model_api
    _model_api.recover()
    _model_api.reset()


@pytest.fixture
def feed(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> Feed:
    """A topic to be filled, and all else that the stream needs, as a process of its own."""
    more = {"ML_API_TOKEN": TOKEN, "STOP_TIMEOUT": "4"}
    given = {"database_url": database_url, "model_url": model_api.url}
    return Feed(broker, topics, environment(broker, topics, **given, **more), tmp_path)


@pytest.fixture
def recovery(tmp_path: Path) -> list[str]:
    """Arguments for a recovery directory of the test's own."""
    return recovery_options(make_recovery(tmp_path))


@pytest.fixture
def token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that ML_API_TOKEN_FILE names, where the settings are read again; it holds `old`."""
    file = tmp_path / "token"
    file.write_text("old")
    for name, value in {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA_CONSUMER_GROUP": "test",
        "DATABASE_URL": "postgresql://127.0.0.1/test",
        "ML_API_URL": "http://127.0.0.1:1",
        "ML_API_TOKEN_FILE": str(file),
    }.items():
        monkeypatch.setenv(name, value)
    return file

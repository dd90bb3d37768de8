"""`python -m ops check` and `migrate`, and a start that cannot be, as people and pods run them."""

from pathlib import Path

import pytest

from lab.servers import KafkaServer, ModelApi, Postgres, free_port
from tests.kit.environment import environment
from tests.kit.flow import Flow
from tests.kit.kafka import Topics
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery, recovery_options

SECRETS = {"ML_API_TOKEN": "t0ken-of-the-model", "KAFKA_SASL_PASSWORD": "b1g-secret"}


@pytest.fixture
def variables(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi
) -> dict[str, str]:
    """Everything well, and secrets that nobody asks for."""
    given = environment(broker, topics, database_url=database_url, model_url=model_api.url)
    return {**given, **SECRETS, "START_TIMEOUT": "1"}


@pytest.fixture
def database(postgres: Postgres) -> str:
    """A database of the test's own without tables; the server's end removes it."""
    name = f"empty_{free_port()}"
    postgres.create_database(name)
    return postgres.url(name)


def run(folder: Path, variables: dict[str, str], *command: str) -> tuple[int, list[str]]:
    """Run `python -m …` to its end: its status and the lines that it wrote, without secrets."""
    process = Flow(folder, variables, module=command)
    try:
        status = process.run()
    finally:
        process.kill()
    password = variables.get("DATABASE_URL", "://:none@").split("@")[0].split(":")[-1]
    for secret in (*SECRETS.values(), password):
        assert secret not in process.output()
    assert "Traceback" not in process.output()
    return status, process.lines()


def test_check_says_ok_for_each(tmp_path: Path, variables: dict[str, str]) -> None:
    """Exit code 0 and one line for each dependency."""
    recovery = make_recovery(tmp_path)
    status, lines = run(tmp_path, variables, "ops", "check", "-r", str(recovery))
    assert status == 0
    assert [line.split("  ")[0].strip() for line in lines] == ["OK"] * 5
    assert f"{variables['KAFKA_TOPIC']} at {variables['KAFKA_BOOTSTRAP_SERVERS']}" in lines[0]
    assert str(recovery) in lines[4]


def test_check_takes_the_recovery_directory_from_bytewaxs_variable(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """As the stream itself would."""
    variables["BYTEWAX_RECOVERY_DIRECTORY"] = str(tmp_path / "nowhere")
    status, lines = run(tmp_path, variables, "ops", "check")
    assert status == 1
    assert lines[4].startswith("FAILED  Recovery ")


def test_check_says_what_is_wrong_beside_what_is_well(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """Exit code 1, and nothing but the findings on the terminal."""
    nobody = f"127.0.0.1:{free_port()}"
    wrong = {"KAFKA_BOOTSTRAP_SERVERS": nobody, "ML_API_URL": f"http://{nobody}"}
    status, lines = run(tmp_path, {**variables, **wrong}, "ops", "check")
    assert status == 1
    assert [line.split()[0] for line in lines] == ["FAILED", "FAILED", "OK", "FAILED"]


def test_check_names_settings_that_are_missing(tmp_path: Path) -> None:
    """All of them, in one line."""
    status, lines = run(tmp_path, {}, "ops", "check")
    assert status == 1
    [line] = lines
    assert line == (
        "settings: KAFKA_BOOTSTRAP_SERVERS: is not set; KAFKA_CONSUMER_GROUP: is not set; "
        "DATABASE_URL: is not set; ML_API_URL: is not set"
    )


def test_migrate_makes_the_tables_once(
    tmp_path: Path, variables: dict[str, str], database: str
) -> None:
    """The second run finds nothing to do; both end with 0."""
    variables["DATABASE_URL"] = database
    status, lines = run(tmp_path, variables, "ops", "migrate")
    assert status == 0
    assert lines
    assert all(line.startswith("applied V") for line in lines)
    tables = "SELECT to_regclass(name) IS NOT NULL FROM unnest(%s::text[]) name"
    assert query(database, tables, ["transactions", "predictions", "duplicates"]) == [(True,)] * 3
    assert run(tmp_path, variables, "ops", "migrate") == (0, ["up to date"])


def test_migrate_says_in_one_line_what_is_wrong(
    tmp_path: Path, variables: dict[str, str], postgres: Postgres
) -> None:
    """Exit code 1, no traceback, no password."""
    variables["DATABASE_URL"] = postgres.url(password="wr0ng")  # noqa: S106 - refused
    status, lines = run(tmp_path, variables, "ops", "migrate")
    assert status == 1
    [line] = lines
    assert line.startswith("migrate: ")


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"KAFKA_CONSUMER_GROUP": ""}, "settings: KAFKA_CONSUMER_GROUP: is not set"),
        ({"KAFKA_PROPERTIES": "{"}, "settings: KAFKA_PROPERTIES: must be a JSON object"),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "{nobody}", "DATABASE_URL": "postgresql://u:pw@{nobody}/x"},
            "cannot start: KAFKA_BOOTSTRAP_SERVERS: no broker answers at {nobody}; ",
        ),
        ({"ML_API_URL": "http://{nobody}"}, "cannot start: ML_API_URL: the model at "),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line(
    tmp_path: Path, variables: dict[str, str], spoiled: dict[str, str], expected: str
) -> None:
    """On standard error, with exit code 1, and nothing else: no traceback, no client's log."""
    nobody = f"127.0.0.1:{free_port()}"
    for name, value in spoiled.items():
        variables[name] = value.replace("{nobody}", nobody)
    options = recovery_options(make_recovery(tmp_path))
    status, lines = run(tmp_path, variables, "bytewax.run", "dataflow", *options)
    assert status == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith(expected.replace("{nobody}", nobody))


def test_a_start_without_its_recovery_directory_ends_with_one_line(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """Bytewax alone would panic."""
    options = recovery_options(tmp_path / "nowhere")
    status, lines = run(tmp_path, variables, "bytewax.run", "dataflow", *options)
    assert status == 1
    [line] = lines
    assert line.startswith("cannot start: recovery directory (-r): ")

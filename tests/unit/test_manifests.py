"""What the manifests, the image and compose.yaml have to have in common, and what no schema says.

Schemas are the task of `make check-manifests`.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from lab.servers import free_port
from operators.kafka.client import COMMIT_TIMEOUT
from operators.takeover import LAST_CLOSE
from settings import Settings
from telemetry import Response, serve
from telemetry.spans import LAST_FLUSH
from tests.rehearsal.manifests import KUBERNETES, Manifests, Object

ROOT = Path(__file__).parents[2]
FOLDERS = ["base", *(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())]
SAFE_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


@pytest.fixture(scope="module", params=FOLDERS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """Each kustomization in turn."""
    return Manifests(request.param)


def containers(pod: Object) -> Iterator[Object]:
    """All containers of a pod template, init containers first."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


def variables(container: Object) -> dict[str, str]:
    """Those that the manifest itself gives."""
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


def stream(manifests: Manifests) -> Object:
    """The container that runs the stream."""
    [container] = manifests.one("StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def longest_stop(given: Mapping[str, str]) -> float:
    """Seconds from SIGTERM to the end of a container with these settings, whatever is away."""
    field = Settings.model_fields["stop_timeout"]
    limit = float(given.get("STOP_TIMEOUT", field.default.total_seconds()))
    # What comes after the stream's own end, and two seconds for the processes to go.
    return limit + COMMIT_TIMEOUT + LAST_CLOSE + LAST_FLUSH + 2


def settings(manifests: Manifests) -> Mapping[str, str]:
    """The ConfigMap."""
    data: dict[str, str] = manifests.one("ConfigMap", "fraud-settings")["data"]
    return data


def test_the_hostfile_has_as_many_lines_as_there_are_replicas(manifests: Manifests) -> None:
    """With fewer pods than lines a cluster waits without a word."""
    stateful_set = manifests.one("StatefulSet")
    template = stateful_set["spec"]["template"]
    [hosts] = [each for each in containers(template) if each["name"] == "hosts"]
    assert variables(hosts)["PROCESSES"] == str(stateful_set["spec"]["replicas"])
    assert hosts["args"][-1] == "$(PROCESSES)"


def test_the_names_that_bytewax_takes_apart_agree(manifests: Manifests) -> None:
    """`BYTEWAX_POD_NAME` less `BYTEWAX_STATEFULSET_NAME` is the number of the process."""
    stateful_set = manifests.one("StatefulSet")
    name = stateful_set["metadata"]["name"]
    given = variables(stream(manifests))
    assert given["BYTEWAX_STATEFULSET_NAME"] == name
    [hosts] = [
        each for each in containers(stateful_set["spec"]["template"]) if each["name"] == "hosts"
    ]
    assert hosts["args"][:2] == [given["BYTEWAX_HOSTFILE_PATH"], name]
    assert stateful_set["spec"]["serviceName"] == name
    assert manifests.one("Service", name)["spec"]["publishNotReadyAddresses"] is True


def test_pods_start_together_and_are_not_replaced_one_by_one(manifests: Manifests) -> None:
    """Each waits for all others, and the end of one is the end of all."""
    spec = manifests.one("StatefulSet")["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"] == {"type": "OnDelete"}


def test_no_probe_looks_at_the_port_between_the_processes(manifests: Manifests) -> None:
    """A connection there disturbs a process that waits for the others."""
    container = stream(manifests)
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    [http] = [port for port in container["ports"] if port["name"] == "http"]
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    assert str(http["containerPort"]) == settings(manifests)["HTTP_PORT"]
    assert settings(manifests)["HTTP_HOST"] == "0.0.0.0"  # noqa: S104 - of a container


def test_the_last_snapshot_has_time(manifests: Manifests) -> None:
    """The grace period is more than a graceful end may take."""
    spec = manifests.one("StatefulSet")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= longest_stop(settings(manifests))


def test_every_pod_meets_the_restricted_standard(manifests: Manifests) -> None:
    """Pod Security Standards, "restricted"; and a read-only root, and a limit of memory."""
    for pod in manifests.pods():
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= SAFE_VOLUMES
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            assert all("hostPort" not in port for port in container.get("ports", []))


def test_all_containers_have_one_image(manifests: Manifests) -> None:
    """Named once in a kustomization, with a tag that is no moving one."""
    images = {each["image"] for pod in manifests.pods() for each in containers(pod)}
    assert len(images) == 1
    assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+", images.pop())


def test_selectors_find_what_they_are_for(manifests: Manifests) -> None:
    """The stream's pods and no others, and the cluster's DNS as it is labelled there."""
    stateful_set, job = manifests.one("StatefulSet"), manifests.one("Job")
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    policy = manifests.one("NetworkPolicy")["spec"]
    selectors = [
        stateful_set["spec"]["selector"]["matchLabels"],
        manifests.one("Service", "fraud-scoring")["spec"]["selector"],
        manifests.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
        *(each["spec"]["selector"]["matchLabels"] for each in manifests.all("ServiceMonitor")),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    both = policy["podSelector"]["matchLabels"].items()
    assert both <= labels.items()
    assert both <= job["spec"]["template"]["metadata"]["labels"].items()
    dns = policy["egress"][0]["to"][0]["podSelector"]["matchLabels"]
    assert dns == {"k8s-app": "kube-dns"}


def test_a_service_monitor_names_a_port_of_the_service(manifests: Manifests) -> None:
    """No schema is at hand for it."""
    ports = {each["name"] for each in manifests.one("Service", "fraud-scoring")["spec"]["ports"]}
    for monitor in manifests.all("ServiceMonitor"):
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= ports


def test_every_setting_is_one(manifests: Manifests) -> None:
    """A name with a slip would be ignored."""
    known = {name.upper() for name in Settings.model_fields}
    names = {name.removesuffix("_FILE") for name in settings(manifests)}
    assert names <= known


def test_secrets_have_the_keys_that_are_asked_for(manifests: Manifests) -> None:
    """And the stream does not see the password of the tables' owner."""
    example = yaml.safe_load_all((KUBERNETES / "secret.example.yaml").read_text())
    keys = {secret["metadata"]["name"]: secret["stringData"].keys() for secret in example}
    seen = {}
    for kind in ("StatefulSet", "Job"):
        spec = manifests.one(kind)["spec"]["template"]["spec"]
        [container] = spec["containers"]
        [volume] = [each for each in spec["volumes"] if "secret" in each]
        [mount] = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
        file = {**settings(manifests), **variables(container)}["DATABASE_URL_FILE"]
        seen[kind] = volume["secret"]["secretName"]
        assert Path(file).parent == Path(mount["mountPath"])
        assert Path(file).name in keys[seen[kind]]
    assert seen["StatefulSet"] != seen["Job"]


@pytest.fixture(scope="module")
def dockerfile() -> str:
    """The Dockerfile."""
    return (ROOT / "Dockerfile").read_text()


def copied(dockerfile: str) -> set[str]:
    """What its COPY lines take from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_the_image_has_what_the_stream_imports(dockerfile: str) -> None:
    """Every part of the project; and what is copied is let through by .dockerignore."""
    sources = copied(dockerfile)
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for part in config["tool"]["ruff"]["lint"]["isort"]["known-first-party"]:
        assert {part, f"{part}.py"} & sources


def pinned(lock: str) -> set[str]:
    """Each requirement of a lock, with its version, its marker and its hashes."""
    lines = (ROOT / lock).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return set(re.split(r"\n(?=\w)", text))


def test_an_image_with_tracing_has_the_same_and_more(dockerfile: str) -> None:
    """The same versions as without it, and all of it is what the tests run with."""
    locks = re.findall(r"^COPY (\S+) (\S+) /tmp/$", dockerfile, re.MULTILINE)
    assert locks == [("requirements.lock", "requirements-tracing.lock")]
    assert "\nARG REQUIREMENTS=requirements.lock\n" in dockerfile
    plain, tracing = (pinned(lock) for lock in locks[0])
    assert plain < tracing <= pinned("requirements-dev.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in project["optional-dependencies"]["tracing"]:
        name = wanted.partition(">")[0]
        assert any(each.startswith(f"{name}==") for each in tracing - plain)


def test_image_and_manifests_agree(dockerfile: str) -> None:
    """On the user, the port and what is run."""
    base = Manifests("base")
    pod = base.one("StatefulSet")["spec"]["template"]["spec"]
    user, port = pod["securityContext"]["runAsUser"], settings(base)["HTTP_PORT"]
    assert f"\nUSER {user}:{user}\n" in dockerfile
    assert f"\nEXPOSE {port}\n" in dockerfile
    assert f"HTTP_PORT={port}\n" in dockerfile
    [container] = pod["containers"]
    words = ["-m", *re.findall(r'"([^"]*)"', dockerfile.split("\nCMD ")[1])]
    assert ["python", *words] == [*container["command"], *container["args"]]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_image_is_healthy_while_the_stream_is_alive(
    dockerfile: str, status: int | None, *, healthy: bool
) -> None:
    """The command of its health check, asked of what answers so, or of nobody."""
    [command] = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.+\])$", dockerfile, re.MULTILINE)
    python, *arguments = json.loads(command)
    assert python == "python"
    port = free_port()
    if status is not None:
        answer = Response(HTTPStatus(status), "text/plain", b"")
        serve("127.0.0.1", port, {"/health/live": lambda: answer})
    done = subprocess.run(  # noqa: S603 - the project's own
        [sys.executable, *arguments],
        env={"HTTP_PORT": str(port)},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode == 0) is healthy


def test_compose_names_only_secrets_that_make_secrets_makes() -> None:
    """`make secrets` and compose.yaml list the same files, and git ignores them."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    files = {Path(each["file"]).name for each in compose["secrets"].values()}
    script = (ROOT / "compose" / "secrets.sh").read_text()
    assert all(re.search(rf"\b{name}\b", script) for name in files)
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_compose_and_the_chart_leave_time_for_an_end() -> None:
    """As in the manifests; the chart's grace period is fixed."""
    stream = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["stream"]
    grace = float(stream["stop_grace_period"].removesuffix("s"))
    assert grace >= longest_stop(stream["environment"])
    chart = yaml.safe_load((KUBERNETES / "helm" / "values.yaml").read_text())
    assert longest_stop(chart["env"]) <= 10


def test_compose_runs_only_settings_that_there_are() -> None:
    """As in the manifests."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    known = {name.upper() for name in Settings.model_fields}
    names = {name.removesuffix("_FILE") for name in compose["services"]["stream"]["environment"]}
    assert names <= known

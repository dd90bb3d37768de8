"""One version and one licence, wherever they are named."""

import re
import tomllib

from tests.kit.checkout import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
NAMED = {
    "Dockerfile": r"^ARG VERSION=(.+)$",
    "k8s/base/kustomization.yaml": r"^ *newTag: (.+)$",
    "k8s/overlays/three-workers/kustomization.yaml": r"^ *newTag: (.+)$",
    "k8s/helm/values.yaml": r"^ *tag: (.+)$",
    "k8s/README.md": r"--image-tag (\S+)",
}


def test_there_is_one_version() -> None:
    """What the project, the image and the manifests say; nobody installs another."""
    found = {
        name: re.findall(pattern, (CHECKOUT / name).read_text("utf-8"), re.MULTILINE)
        for name, pattern in NAMED.items()
    }
    assert found == {name: [PROJECT["version"]] for name in NAMED}


def test_the_version_has_a_dated_entry_in_the_changelog() -> None:
    """It is the newest; what came after it stands above, under Unreleased."""
    headings = re.findall(
        r"^## (.+)$", (CHECKOUT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_the_licence_is_the_one_that_is_named() -> None:
    """In full, in the checkout and in the image."""
    text = (CHECKOUT / "LICENSE").read_text("utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'image.licenses="Apache-2.0"' in (CHECKOUT / "Dockerfile").read_text("utf-8")

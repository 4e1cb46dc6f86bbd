"""The page on serving and the files for deployment: commands are understood, code runs against a server."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flagai import settings
from flagai.cli import app
from flagai.serve.pages import ENDPOINTS, PLAIN
from tests.serve.processes import ServerProcess
from tests.test_docs import CHINESE, ROOT, blocks

PAGE = ROOT / "docs" / "serve.md"
TUTORIAL = ROOT / "docs" / "tutorials" / "serve.md"
DEPLOY = ROOT / "deploy"
ADDRESS = "http://127.0.0.1:8000"


def understood(arguments: list[str]) -> dict[str, Any]:
    """The options of ``flagai serve`` as the command line reads them."""
    command: Any = typer.main.get_command(app).get_command(None, "serve")  # type: ignore[attr-defined]
    return dict(command.make_context("serve", arguments).params)


def served_lines(text: str) -> list[list[str]]:
    """The arguments of ``flagai serve`` in a text."""
    found = re.findall(r"flagai serve ([^\n`&]*)", text)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize(
    "page", [PAGE, TUTORIAL, ROOT / "README.md", DEPLOY / "flagai.service"], ids=lambda page: page.name
)
def test_commands_are_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = served_lines("".join(blocks(page, "bash")) if page.suffix == ".md" else text)
    assert lines
    assert all(understood(line)["models"] for line in lines)


@pytest.mark.parametrize(("page", "least"), [(PAGE, 4), (TUTORIAL, 2)])
def test_requests_by_curl_are_answered(page: Path, least: int, server: ServerProcess) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) >= least
    for line in lines:
        _, url, _, header, _, body = shlex.split(line)
        headers = dict([header.split(": ")])
        answer = server.client.post(url.removeprefix(ADDRESS), content=body.encode(), headers=headers)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("page", [PAGE, TUTORIAL])
def test_code_runs(page: Path, server: ServerProcess) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(block.replace(ADDRESS, server.address), namespace)


def test_the_page_names_every_path_and_option() -> None:
    text = PAGE.read_text(encoding="utf-8")
    hub = {end.path for end in ENDPOINTS if end.path.startswith("/models/")}
    paths = {*PLAIN, *(end.path for end in ENDPOINTS)} - hub - {"/"}
    assert [path for path in paths if f"`{path}`" not in text] == []
    options = set(re.findall(r"`(--[a-z-]+)", text)) - {"--nproc-per-node"}
    known = {name.replace("_", "-") for name in understood(["GLM-mini-ch"])}
    assert [option for option in options if option.removeprefix("--") not in known] == []
    assert (PAGE, ROOT / "docs" / "zh" / "serve.md") in CHINESE


def test_limits_of_the_page_are_those_of_the_server() -> None:
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([\d,]+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    values = understood(["GLM-mini-ch"])
    assert len(rows) == 6
    assert {name: float(number.replace(",", "")) for name, number in rows} == {
        name: float(values[name.replace("-", "_")]) for name, _ in rows
    }


def test_the_image_starts_a_server_with_what_there_is(server: ServerProcess) -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    parts = dict(line.split(" ", 1) for line in lines if line.startswith(("ENTRYPOINT", "CMD")))
    program, command, *arguments = [*json.loads(parts["ENTRYPOINT"]), *json.loads(parts["CMD"])]
    assert (program, command) == ("flagai", "serve")
    assert understood(arguments)["host"] == "0.0.0.0"
    named = re.findall(r"\b(FLAGAI_\w+)", "".join(lines))
    assert set(named) <= {variable.name for variable in settings.VARIABLES}
    check = json.loads(next(line for line in lines if line.startswith("HEALTHCHECK")).partition("CMD ")[2])
    for address, status in ((server.address, 0), ("http://127.0.0.1:1", 1)):
        program = [part.replace(ADDRESS, address) for part in check]
        assert subprocess.run([sys.executable, *program[1:]], capture_output=True, check=False).returncode == status


def test_the_deployment_uses_what_there_is() -> None:
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = understood(container["args"])
    assert options["stop_timeout"] < pod["terminationGracePeriodSeconds"]
    assert {each["name"] for each in container["env"]} <= {variable.name for variable in settings.VARIABLES}
    port = container["ports"][0]["containerPort"]
    assert port == options["port"] == service["spec"]["ports"][0]["targetPort"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]


def test_the_unit_gives_the_server_the_time_that_it_needs() -> None:
    text = (DEPLOY / "flagai.service").read_text()
    (line,) = served_lines(text)
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)", text, re.MULTILINE)
    assert understood(line)["stop_timeout"] < int(seconds)

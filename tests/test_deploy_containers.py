"""Containers, compose and the Ray cluster file: that they call what exists and open nothing."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator import ray_runtime
from coordinator.cli.main import parser

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CONTAINERS = sorted((DEPLOY / "containers").glob("*.Containerfile"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CLUSTER = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text())
VERSION = re.compile(r"[^:@\s]+(/[^:@\s]+)*:\d+(\.\d+)+[\w.-]*(@sha256:[0-9a-f]{64})?")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction of a Containerfile with what follows it, continued lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    split = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in split]


def parsed(words: list[str]) -> Any:
    """A call of the command; argparse ends the test if there is no such option."""
    return parser().parse_args([re.sub(r"\$\{.*?:-(.*?)\}", r"\1", word) for word in words])


def test_both_sides_have_a_container() -> None:
    assert [file.stem for file in CONTAINERS] == ["agent", "coordinator"]


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.stem)
def test_a_container_runs_what_exists_as_nobody_special(file: Path) -> None:
    found = instructions(file)
    (base,) = [rest.partition("=")[2] for name, rest in found if name == "ARG"]
    assert VERSION.fullmatch(base)
    assert {rest.split()[0] for name, rest in found if name == "FROM"} == {"${PYTHON}"}
    users = [rest for name, rest in found if name == "USER"]
    assert len(users) == 1
    assert re.fullmatch(r"1\d{4}:1\d{4}", users[0])
    last = dict(found)
    assert json.loads(last["ENTRYPOINT"]) == ["tunefarm"]
    assert (
        parsed(json.loads(last["CMD"])).command
        == {"agent": "agent", "coordinator": "serve"}[file.stem]
    )
    (extra,) = re.findall(r"'\.\[(.*)\]'", file.read_text())
    assert extra == file.stem


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.stem)
def test_a_container_is_built_of_what_is_there(file: Path) -> None:
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [
        source
        for name, rest in instructions(file)
        if name == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]
    assert set(copied) == sent
    assert not [source for source in copied if not (ROOT / source).exists()]


# ------------------------------------------------------------------------------------- compose


def test_the_services_call_what_exists() -> None:
    for name in ("coordinator", "agent"):
        parsed(SERVICES[name]["command"])
        assert (ROOT / SERVICES[name]["build"]["dockerfile"]).is_file()
        assert (DEPLOY / SERVICES[name]["build"]["context"]).resolve() == ROOT
    check = SERVICES["coordinator"]["healthcheck"]["test"]
    assert check[:2] == ["CMD", "tunefarm"]
    parsed(check[2:])


def test_only_ports_with_tls_are_open_to_other_machines() -> None:
    served = parsed(SERVICES["coordinator"]["command"])
    secure = int(served.listen_tls.rpartition(":")[2])
    opened = [port for service in SERVICES.values() for port in service.get("ports", [])]
    elsewhere = {port for port in opened if not port.startswith("127.0.0.1:")}
    assert elsewhere == {f"{port}:{port}" for port in (secure, secure + 1)}
    assert SERVICES["db"]["network_mode"] == "none"
    assert "listen_addresses=" in SERVICES["db"]["command"]


def test_the_services_wait_for_each_other_and_keep_what_they_have() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]
        kept = {volume.partition(":")[0] for volume in service["volumes"]}
        assert kept <= set(COMPOSE["volumes"]), name
    assert VERSION.fullmatch(SERVICES["db"]["image"])


def test_secrets_are_files() -> None:
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        for name, text in service.get("environment", {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert not re.search(r"://[^/@]*:[^/@]*@", text), "a password in a URL"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for secret in COMPOSE["secrets"].values():
        assert f"/{(DEPLOY / secret['file']).resolve().parent.relative_to(ROOT)}/" in ignored


def test_the_services_are_hardened() -> None:
    for name, service in SERVICES.items():
        assert "no-new-privileges:true" in service["security_opt"], name
    for name in ("coordinator", "agent"):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


# ------------------------------------------------------------------------------------- Ray


@pytest.fixture
def _ray_as_others_need_it() -> None:
    """Ray reads its settings once, and other tests of this process start it."""
    ray_runtime.configure_local()


@pytest.mark.usefixtures("_ray_as_others_need_it")
def test_the_cluster_file_is_one() -> None:
    util = importlib.import_module("ray.autoscaler._private.util")  # what `ray up` does first
    util.validate_config(util.prepare_config(copy.deepcopy(CLUSTER)))
    provider = CLUSTER["provider"]
    assert CLUSTER["min_workers"] == CLUSTER["max_workers"] == len(provider["worker_ips"])
    head = CLUSTER["head_start_ray_commands"][-1]
    assert f"--node-ip-address={provider['head_ip']} " in head


@pytest.mark.usefixtures("_ray_as_others_need_it")
@pytest.mark.parametrize("who", ["head", "worker"])
def test_the_cluster_file_calls_what_exists(who: str) -> None:
    from ray.scripts.scripts import cli

    words = shlex.split(CLUSTER[f"{who}_start_ray_commands"][-1])
    words = words[words.index("/opt/tunefarm/bin/ray") + 1 :]
    command = cli.commands[words[0]]
    command.make_context(words[0], words[1:])  # click's error says what is unknown
    assert "RAY_AUTH_MODE=token" in CLUSTER[f"{who}_start_ray_commands"][-1]

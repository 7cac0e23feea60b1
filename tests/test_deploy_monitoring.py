"""Prometheus and Grafana: what they ask for is there, and every alarm is explained."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from coordinator import metrics
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.jobs import Jobs
from coordinator.security.authority import Authority
from coordinator.security.ports import OwnCertificate
from coordinator.security.refusals import Refusals
from coordinator.tuning_log import TuningLog
from device_agent.agent import Agent
from device_agent.devices.replay import describe_replay
from device_agent.metrics import AgentCollector, device_metrics
from protos.certificates import Credentials
from protos.records import DeviceState, JobState, MeasurementStatus, Telemetry
from protos.rpc import AGENT_NAME, COORDINATOR_NAME
from tests.scrape import exposed, families

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
GROUPS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "tunefarm.json").read_text())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

OF_PROMETHEUS = {"up"}
STATES = {
    "tunefarm_devices": {state.name for state in DeviceState},
    "tunefarm_jobs": {state.name for state in JobState},
    "tunefarm_measurements_total": {status.name for status in MeasurementStatus},
}
"""What the labels ``state`` and ``status`` may be."""


def expressions() -> Iterator[tuple[str, str]]:
    """Every question of the alarms and of the dashboard, with whose it is."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def selectors(expression: Any) -> Iterator[Any]:
    """The series that a parsed expression asks for."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
        return
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (part := getattr(expression, name, None)) is not None:
            yield from selectors(part)
    for part in getattr(expression, "args", None) or ():
        yield from selectors(part)


QUESTIONS = [
    (whose, selector)
    for whose, text in expressions()
    for selector in selectors(promql_parser.parse(text))
]


class _Device(Collector):
    """A device that has every signal there is: a Raspberry Pi and an x86 in one."""

    def collect(self) -> Iterator[Any]:
        yield from device_metrics(Telemetry(40.0, 1500.0, "performance", 0.5, "0x0"))
        yield from device_metrics(Telemetry(40.0, 1500.0, "performance", 0.5, "1 events"))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What both sides expose."""
    folder = tmp_path_factory.mktemp("metrics")
    authority = Authority.create(folder / "ca.pem", "test")
    key, certificate = authority.for_coordinator()
    Credentials(key, certificate, authority.certificate).save(folder / "agent.pem")

    async def coordinators() -> str:
        registry = metrics.new_registry()
        log = TuningLog.open(str(folder / "log.db"), metrics.LogMetrics(registry, metrics.Kinds()))
        fleet, builders = Fleet(log), Builders(1)
        jobs = Jobs(log, fleet, builders, embedded=False)
        parts = metrics.Parts(
            *(fleet, Gateway(fleet), jobs, builders, Refusals(), OwnCertificate(authority))
        )
        loop = asyncio.get_running_loop()
        registry.register(metrics.FarmCollector(parts, metrics.Kinds(), loop))
        text = await asyncio.to_thread(generate_latest, registry)
        log.close()
        return text.decode()

    def agents() -> str:
        device = describe_replay("board", '{"kind":"llvm","num-cores":1}', 0.001)
        agent = Agent("127.0.0.1:1", device)
        agent.tally.canary_ratio = 1.0
        registry = metrics.new_registry()
        registry.register(_Device())
        text = generate_latest(registry).decode()
        registry = metrics.new_registry()
        registry.register(AgentCollector(agent, folder / "agent.pem"))
        return text + generate_latest(registry).decode()

    found = families(asyncio.run(coordinators())) | families(agents())
    return exposed(found)


def test_there_is_something_to_check(names: set[str]) -> None:
    assert len(QUESTIONS) > 50
    assert {"tunefarm_devices", "tunefarm_agent_throttle_events_total", "up"} <= {
        selector.name for _, selector in QUESTIONS
    }
    assert "tunefarm_log_write_seconds_bucket" in names


def test_every_question_is_about_something_that_is_exposed(names: set[str]) -> None:
    unknown = {
        (whose, selector.name)
        for whose, selector in QUESTIONS
        if selector.name not in names | OF_PROMETHEUS
    }
    assert not unknown


def test_states_and_jobs_are_named_as_they_are() -> None:
    jobs = {scrape["job_name"] for scrape in PROMETHEUS["scrape_configs"]}
    for whose, selector in QUESTIONS:
        for matcher in selector.matchers.matchers:
            if matcher.name in ("state", "status"):
                assert matcher.value in STATES[selector.name], whose
            if matcher.name == "job":
                assert matcher.value in jobs, whose


def test_every_metric_is_explained(names: set[str]) -> None:
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in names if "tunefarm_" in name}
    ours = {name for name in ours if not name.endswith("_created")}
    assert not [name for name in sorted(ours) if f"`{name}`" not in OPERATIONS]
    said = set(re.findall(r"`(tunefarm_\w+)`", OPERATIONS))
    assert said <= ours


def test_every_alarm_is_explained() -> None:
    alarms = {rule["alert"] for rule in RULES}
    assert len(alarms) == len(RULES)
    assert set(re.findall(r"^\| `(Tunefarm\w+)` \|", OPERATIONS, re.MULTILINE)) == alarms
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_prometheus_shows_a_certificate_and_knows_whom_it_asks() -> None:
    names = {}
    for scrape in PROMETHEUS["scrape_configs"]:
        assert scrape["scheme"] == "https"
        tls = scrape["tls_config"]
        assert {"cert_file", "key_file", "ca_file"} <= set(tls)
        assert "insecure_skip_verify" not in tls
        names[scrape["job_name"]] = tls["server_name"]
    assert names == {"tunefarm-coordinator": COORDINATOR_NAME, "tunefarm-agent": AGENT_NAME}
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]


def test_the_dashboard_has_one_place_for_each_panel() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len(set(ids)) == len(ids)
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used <= known

"""What a machine without a Docker engine can check of docker-compose.yml, the Dockerfile and Prometheus' files."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_kafka
import click
import pytest
import yaml

from sfumato.agents.cli import main
from sfumato.agents.settings import Settings

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "ops" / "prometheus"
DOCKERFILE = ROOT / "ops" / "docker" / "Dockerfile"


def _run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """docker-compose.yml as Compose itself reads it: ``docker compose``, else Debian's docker-compose."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    command = ["docker", "compose"] if plugin else ["docker-compose"]
    command += ["--file", "docker-compose.yml", "--profile", "share", "config"]
    read: dict[str, Any] = yaml.safe_load(_run(*command))
    return read


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def _ours(services: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, service) for name, service in services.items() if service["image"] == "sfumato")


def test_services(services: dict[str, Any]) -> None:
    ours = {name for name, _ in _ours(services)}
    agents = {"ingest", "anonymize", "inspect", "ledger", "archive", "reveal", "share", "bridge"}
    assert ours == agents | {"topics", "policies", "vendors"}
    assert set(services) == ours | {"kafka", "prometheus"}
    assert {name for name, service in services.items() if service.get("profiles")} == {"vendors", "share"}


def test_only_the_bridge_is_published_and_only_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert list(published) == ["bridge"]
    [port] = published["bridge"]
    address = port if isinstance(port, str) else f"{port.get('host_ip')}:{port['published']}:{port['target']}"
    assert address.startswith("127.0.0.1:8080:8080")


def test_prometheus_needs_no_key_and_the_bridges_state_lasts(services: dict[str, Any]) -> None:
    bridge = services["bridge"]
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    (job,) = [job for job in scraped if job["job_name"] == "bridge"]
    assert job["static_configs"] == [{"targets": [f"bridge:{bridge['environment']['SFUMATO_METRICS_PORT']}"]}]
    folder = bridge["environment"]["SFUMATO_STATE_DIR"]
    assert folder in json.dumps(bridge["volumes"])
    assert f"install -d -o 10001 -m 700 {folder}" in DOCKERFILE.read_text()


def test_the_keys_of_raw_footage_are_shared_by_those_who_seal_and_open(services: dict[str, Any]) -> None:
    """And by nobody else; who only opens cannot change them."""
    folder = "/var/lib/sfumato-keys"
    mounts = {
        name: [mount for mount in service.get("volumes", ()) if folder in json.dumps(mount)]
        for name, service in services.items()
    }
    found = {name: mount for name, (mount, *_) in ((n, m) for n, m in mounts.items() if m)}
    assert set(found) == {"ingest", "anonymize", "reveal"}
    for name, mount in found.items():
        assert services[name]["environment"]["SFUMATO_KEYS_DIR"] == folder
        read_only = mount.endswith(":ro") if isinstance(mount, str) else mount.get("read_only", False)
        assert read_only is (name != "ingest")
    assert f"install -d -o 10001 -m 700 {folder}" in DOCKERFILE.read_text()


def test_who_shreds_keys_sees_the_requests_that_need_them(services: dict[str, Any]) -> None:
    ingest, bridge = services["ingest"], services["bridge"]
    folder = bridge["environment"]["SFUMATO_STATE_DIR"]
    assert ingest["environment"]["SFUMATO_STATE_DIR"] == folder
    for service in (ingest, bridge):
        assert any(folder in json.dumps(mount) and "state" in json.dumps(mount) for mount in service["volumes"])


def test_kafka_and_metrics_have_no_way_out(compose: dict[str, Any]) -> None:
    assert compose["networks"]["backbone"]["internal"] is True
    joined = {name: set(service["networks"]) for name, service in compose["services"].items()}
    assert {name for name, networks in joined.items() if networks != {"backbone"}} == {"ingest", "archive", "bridge"}


def test_every_service_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service.get("read_only", False) is (name != "kafka"), name  # Kafka's image writes its own configuration
        assert not service.get("privileged"), name
        lasting = service["restart"] != "no"
        assert lasting is (name not in {"topics", "policies", "vendors"}), name
        assert ("healthcheck" in service) is lasting, name


def test_images_are_pinned_and_agree(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{apache_kafka.VERSION}"
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", services["prometheus"]["image"])


def test_only_ingest_sees_the_cameras_passwords(services: dict[str, Any]) -> None:
    mounting = {name for name, service in services.items() if "cameras.toml" in json.dumps(service.get("volumes"))}
    assert mounting == {"ingest"}


def test_verbs_and_settings_exist(services: dict[str, Any]) -> None:
    for name, service in _ours(services):
        verb, *arguments = service["command"]
        assert verb in main.commands, name
        command = main.commands[verb]
        if isinstance(command, click.Group):
            verb, *arguments = arguments
            command = command.commands[verb]
        options = {option for parameter in command.params for option in parameter.opts}
        takes_argument = any(isinstance(parameter, click.Argument) for parameter in command.params)
        assert takes_argument or not arguments or arguments[0] in options, name
        environment = {key.removeprefix("SFUMATO_").lower(): value for key, value in service["environment"].items()}
        for key, value in environment.items():
            field = Settings.model_fields[key]
            text = str(value)
            value = json.loads(text) if text.startswith("[") else value
            assert getattr(Settings(**{key: value}), key) is not None, (name, field)


def test_dockerfile_lints() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    _run(str(hadolint), "--failure-threshold", "info", str(DOCKERFILE))


def test_dockerfile_builds_what_compose_asks_for_as_an_ordinary_user(services: dict[str, Any]) -> None:
    text = DOCKERFILE.read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.M)
    assert {service["build"]["target"] for _, service in _ours(services)} == {"sfumato"}
    assert "sfumato" in stages
    assert re.findall(r"^USER (\S+)$", text, re.M) == ["10001"]
    assert "--require-hashes" in text


def test_every_file_that_is_copied_exists_and_is_sent() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        source
        for arguments in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.M)
        for source in arguments.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in sent), source


def test_requirements_are_hashed_and_name_no_registry() -> None:
    for name in ("run", "test", "gpu"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text
        assert not re.search(r"^-", text, re.M), name
        pins = re.findall(r"^[a-z0-9][\w.\[\]-]*==\S+.*$", text, re.M | re.I)
        assert len(pins) > 40
        assert all(pin.endswith("\\") for pin in pins)  # a hash follows
        assert "--hash=sha256:" in text


def test_every_process_with_metrics_is_scraped_and_missed(services: dict[str, Any]) -> None:
    lasting = {name for name, service in _ours(services) if service["restart"] != "no"}
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert {job["job_name"] for job in scraped} == lasting
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    (down,) = [rule["expr"] for rule in rules if rule["alert"] == "SfumatoProcessDown"]
    (jobs,) = re.findall(r'job=~"([^"]+)"', down)
    assert {*jobs.split("|")} == lasting


def test_prometheus_files() -> None:
    _run("promtool", "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    _run("promtool", "test", "rules", "alerts.test.yml", cwd=PROMETHEUS)


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())["tests"]
    fired = {rule["alertname"] for test in tests for rule in test["alert_rule_test"] if rule["exp_alerts"]}
    quiet = {rule["alertname"] for test in tests for rule in test["alert_rule_test"] if not rule["exp_alerts"]}
    assert fired == quiet == {rule["alert"] for rule in rules}


def test_alerts_use_metrics_that_exist() -> None:
    """A renamed metric would leave an alert silent for ever."""
    from prometheus_client import REGISTRY

    import sfumato.agents.metrics  # noqa: F401  registers them

    families = {family.name for family in REGISTRY.collect()}
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"sfumato_\w+", rule["expr"])}
    assert used
    for name in used:
        assert re.sub(r"_(total|bucket|count|sum)$", "", name) in families, name

"""Apache Kafka with TLS, SASL and the authorizer on: the pipeline under its own principals, and who is refused what."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.fetch import FetchRequest
from click.testing import CliRunner
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from stack import Stack, demonstration_policy

from sfumato.agents import policies, shares
from sfumato.agents.acls import ROLES
from sfumato.agents.cli import main
from sfumato.agents.connection import client_config, diagnose, faust_credentials
from sfumato.agents.live import Live
from sfumato.agents.reader import Reader
from sfumato.agents.reconcile import TopicReader
from sfumato.agents.settings import Settings
from sfumato.schemas.topics import FRAMES_ANONYMIZED, FRAMES_RAW, TOPICS
from tests.ingesting import read_topic
from tests.secured_kafka import ADMIN, SecuredKafka, password
from tests.test_cli import sfumato

SHARES = '[[vendor]]\nname = "acme"\ncameras = ["north-*"]\n\n[[vendor]]\nname = "other"\ncameras = ["south"]\n'
CAMERAS = ("north-1", "south")
VENDORS = ("acme", "other")
TIMEOUT = 120.0


class City(Stack):
    """The processes, each as the principal of its role, on the secured broker."""

    def __init__(self, kafka: SecuredKafka, folder: Path) -> None:
        self.kafka = kafka
        super().__init__(
            kafka.bootstrap_servers, folder, **kafka.given(ADMIN), partitions=2, bridge_port=0, detectors="centerface"
        )
        self.shares = folder / "shares.toml"

    def credentials(self, role: str, **more: Any) -> dict[str, Any]:
        return self.kafka.given(f"sfumato-{role}") | more

    def role(self, role: str) -> Settings:
        return self.settings.model_copy(update=self.credentials(role))

    def vendor(self, name: str) -> Settings:
        return self.settings.model_copy(update=self.kafka.given(f"vendor-{name}"))

    def command(self, role: str, *arguments: str) -> Any:
        """``sfumato …`` as the principal of a role, or the administrator."""
        settings = self.settings if role == ADMIN else self.role(role)
        given = settings.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
        environment = {f"SFUMATO_{name.upper()}": text for name, text in texts.items()}
        return CliRunner(env=environment).invoke(main, arguments)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    users = [*(f"sfumato-{role}" for role in ROLES), *(f"vendor-{name}" for name in VENDORS)]
    with SecuredKafka(tmp_path_factory.mktemp("secured"), users) as started:
        yield started


@pytest.fixture(scope="module")
def city(kafka: SecuredKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    """Its topics exist, and its ACLs."""
    with City(kafka, tmp_path_factory.mktemp("city")) as city:
        city.shares.write_text(SHARES)
        assert city.command(ADMIN, "topics", "--shares", str(city.shares)).exit_code == 0
        assert city.command(ADMIN, "acls", "--shares", str(city.shares), "--check").exit_code == 1
        added = city.command(ADMIN, "acls", "--shares", str(city.shares))
        assert added.exit_code == 0, added.stderr
        yield city


def oauth(kafka: SecuredKafka) -> dict[str, Any]:
    return {
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_token_url": kafka.endpoint.url,
        "kafka_token_ca_file": kafka.ca,
    }


def mutual(kafka: SecuredKafka, user: str) -> dict[str, Any]:
    chain, key = kafka.certificate(user)
    nothing = {"kafka_username": "", "kafka_password_file": None, "kafka_sasl_mechanism": ""}
    files = {"kafka_certificate_file": chain, "kafka_key_file": key, "kafka_ca_file": kafka.ca}
    address = kafka.bootstrap_servers.replace(str(kafka.port), str(kafka.mutual_port))
    return {"kafka_security_protocol": "ssl", "bootstrap_servers": address, **files, **nothing}


def test_the_pipeline_runs_with_what_each_role_may_do_and_no_more(city, kafka, pictures, tmp_path):
    """Ingest by client certificate, the anonymizer by access token, the rest by SCRAM."""
    for camera in CAMERAS:
        (tmp_path / camera).mkdir()
        for number, picture in enumerate(pictures[:8]):
            (tmp_path / camera / f"{number}.jpg").write_bytes(picture)
    tables = (f'[[camera]]\nid = "{c}"\nurl = "stills://{tmp_path / c}"\npace = "fast"\n' for c in CAMERAS)
    (tmp_path / "cameras.toml").write_text("\n".join(tables))
    policies.publish(city.role("policy-editor"), [demonstration_policy(camera) for camera in CAMERAS])
    key = city.key  # before the bridge looks
    city.start("anonymize", **city.credentials("anonymize", **oauth(kafka)))
    city.start("bridge", **city.credentials("bridge"))
    city.start("share", "--shares", str(city.shares), metrics_port=0, **city.credentials("share"))
    city.wait_for_bridge()
    started = time.monotonic()
    city.start("ingest", "--cameras", str(tmp_path / "cameras.toml"), metrics_port=0, **mutual(kafka, "sfumato-ingest"))
    city.wait_until_ended("ingest", TIMEOUT)
    with TopicReader(city.role("reconcile")) as reader:
        while not reader.settle(1):
            city.check("ingest")
            assert time.monotonic() < started + TIMEOUT, (reader.account.report(), city.tail("anonymize"))
        assert reader.account.report()["masked"] == len(CAMERAS) * 8
    request = urllib.request.Request(f"{city.bridge_url}/v1/cameras/south/snapshot.jpg")
    request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.read(3) == b"\xff\xd8\xff"
    assert "sfumato-anonymize" in kafka.endpoint.asked

    published = [(m.key(), m.value(), m.headers()) for m in read_topic(city.role("record"), FRAMES_ANONYMIZED)]
    for vendor in shares.read_file(city.shares):
        wanted = [message for message in published if vendor.gets(message[0].decode())]
        assert len(wanted) >= 8
        assert until_shared(city, vendor, len(wanted)) == wanted
    for verb in ("share", "bridge", "anonymize"):
        city.stop(verb)
    said = "".join(city.log(verb).read_text() for verb in ("ingest", "anonymize", "bridge", "share"))
    assert "AUTHORIZATION" not in said.upper(), said
    assert "the-password-of" not in said


def until_shared(city: City, vendor: shares.Vendor, count: int) -> list[tuple[Any, Any, Any]]:
    """What the vendor itself reads of its topic, once so much is there."""
    settings = city.vendor(vendor.name).model_copy(update={"group_id": f"{city.settings.topic(vendor.topic)}.group"})
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = [(m.key(), m.value(), m.headers()) for m in read_topic(settings, vendor.topic)]
        if len(found) >= count:
            return found
        city.check("ingest")
        assert time.monotonic() < deadline, city.tail("share")


def test_the_cluster_says_what_the_table_says(city, kafka):
    """Asked as each principal; what it may not even see has no answer."""
    vendors = shares.read_file(city.shares)
    for name, role in ROLES.items():
        writes = {*role.writes, *((vendor.topic for vendor in vendors) if role.shares else ())}
        wanted = {city.settings.topic(topic): {AclOperation.READ} for topic in role.reads}
        for topic in writes:
            wanted.setdefault(city.settings.topic(topic), set()).add(AclOperation.WRITE)
        assert allowed(city, city.role(name)) == wanted, name
    for vendor in vendors:
        assert allowed(city, city.vendor(vendor.name)) == {city.settings.topic(vendor.topic): {AclOperation.READ}}


def allowed(city: City, settings: Settings) -> dict[str, set[AclOperation]]:
    """By topic of the city, whether it may be read and written."""
    names = [city.settings.topic(topic) for topic in TOPICS]
    names += [city.settings.topic(vendor.topic) for vendor in shares.read_file(city.shares)]
    admin, found = AdminClient(client_config(settings)), {}
    for name, future in admin.describe_topics(TopicCollection(names), include_authorized_operations=True).items():
        try:
            operations = set(future.result().authorized_operations)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            continue
        found[name] = operations & {AclOperation.READ, AclOperation.WRITE}
        assert not operations & {AclOperation.DELETE, AclOperation.ALTER, AclOperation.ALTER_CONFIGS}
    return found


def test_raw_frames_are_refused_to_all_but_two(city):
    raw = city.settings.topic(FRAMES_RAW)
    readers = {role for role in ROLES if not refused(city.role(role), [raw])}
    assert readers == {"anonymize", "reveal"}


def test_a_vendor_is_refused_all_but_its_topic(city):
    names = {city.settings.topic(topic) for topic in (*TOPICS, *(v.topic for v in shares.read_file(city.shares)))}
    assert names - refused(city.vendor("acme"), names) == {city.settings.topic_prefix + "shared.acme"}


def refused(settings: Settings, topics: Iterable[str]) -> set[str]:
    """Those of which the broker refuses a fetch; asked for without asking first where they are."""

    async def fetch() -> set[str]:
        auth = credentials_to_aiokafka_auth(faust_credentials(settings))
        client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers, **auth)
        await client.bootstrap()
        try:
            wanted = [(topic, [(0, 0, 1024)]) for topic in topics]
            answer = await client.send(next(iter(client.cluster.brokers())).nodeId, FetchRequest(1, 0, 4096, 0, wanted))
            return {topic for topic, ((_, error, *_),) in answer.topics if error == TopicAuthorizationFailedError.errno}
        finally:
            await client.close()

    return asyncio.run(fetch())


def test_acls_are_compared_and_what_is_beyond_is_named(city):
    arguments = ("--shares", str(city.shares))
    again = city.command(ADMIN, "acls", *arguments)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.splitlines()[-1].startswith("0 added,")
    assert city.command(ADMIN, "acls", *arguments, "--check").exit_code == 0
    checked = city.command(ADMIN, "acls", *arguments, "--check", "--without", "bridge")
    raw = city.settings.topic(FRAMES_RAW)
    assert checked.exit_code == 1
    assert (
        f"nobody needs: User:sfumato-bridge may read topic {city.settings.topic(FRAMES_ANONYMIZED)}\n" in checked.stdout
    )
    renamed = city.command(ADMIN, "acls", *arguments, "--check", "--principal", "reveal=User:dpo")
    assert f"missing: User:dpo may read topic {raw}\n" in renamed.stdout
    assert f"nobody needs: User:sfumato-reveal may read topic {raw}\n" in renamed.stdout
    refused_to = city.command("bridge", "acls", *arguments)
    assert refused_to.exit_code == 1
    assert "sign in as the cluster's administrator" in refused_to.stderr
    unknown = city.command(ADMIN, "acls", "--without", "viewer")
    assert "unknown role viewer; known: ingest," in unknown.stderr


@pytest.mark.parametrize("how", ["SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "certificate", "encrypted key"])
def test_both_clients_connect_by(kafka, how):
    user = "sfumato-anonymize"
    changes: dict[str, Any] = {"kafka_sasl_mechanism": how}
    if how == "OAUTHBEARER":
        changes = {**oauth(kafka), "kafka_token_scope": "kafka"}
    elif "SCRAM" not in how:
        changes = mutual(kafka, user)
    if how == "encrypted key":
        changes |= {"kafka_key_file": kafka.encrypted_key(user, "open"), "kafka_key_password": "open"}
    settings = Settings(**kafka.given(user) | changes)
    assert AdminClient(client_config(settings)).list_topics(timeout=20).brokers

    async def aiokafka() -> None:
        auth = credentials_to_aiokafka_auth(faust_credentials(settings))
        client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers, **auth)
        await client.bootstrap()
        await client.close()

    asyncio.run(aiokafka())


def other_authority(folder: Path) -> Path:
    path = folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def test_what_keeps_a_client_out_is_named_in_a_line(city, kafka, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("not-the-password")
    given = kafka.given("sfumato-ingest")
    without_certificate = mutual(kafka, "sfumato-ingest") | {"kafka_certificate_file": None, "kafka_key_file": None}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kafka_password_file": wrong}, "SFUMATO_KAFKA_USERNAME, _PASSWORD"),
        ({"kafka_ca_file": other_authority(tmp_path)}, "SFUMATO_KAFKA_CA_FILE"),
        ({"bootstrap_servers": f"localhost:{kafka.port}"}, "SFUMATO_KAFKA_CA_FILE, SFUMATO_BOOTSTRAP_SERVERS"),
        ({"kafka_password_file": wrong, **oauth(kafka)}, "SFUMATO_KAFKA_TOKEN_URL"),
        (without_certificate, "SFUMATO_KAFKA_CERTIFICATE_FILE"),
    ]
    for changes, named in cases:
        said = diagnose(Settings(**given | changes))
        assert said is not None, named
        assert named in said
    assert "SFUMATO_KAFKA_SECURITY_PROTOCOL" in (diagnose(Settings(bootstrap_servers=kafka.bootstrap_servers)) or "")
    assert diagnose(Settings(**given)) is None
    texts = {name.upper(): str(value) for name, value in (given | {"kafka_password_file": wrong}).items()}
    ran = sfumato("topics", "--check", **texts)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert "refuses user 'sfumato-ingest' with this password" in line
    assert "not-the-password" not in line


def test_the_bridge_says_why_it_waits(kafka, caplog):
    loop = asyncio.new_event_loop()
    reader = Reader(Settings(**kafka.given("nobody")), Live(), loop)
    reader.start()
    deadline = time.monotonic() + TIMEOUT
    while "waiting for the broker: " not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reader.close()
    loop.close()
    assert "refuses user 'nobody' with this password: SFUMATO_KAFKA_USERNAME" in caplog.text


def test_a_user_whom_the_cluster_does_not_know_stops_the_worker(city):
    """The anonymizer ends with a line, rather than waiting for ever."""
    stranger = city.kafka.given("nobody")
    ran = sfumato("anonymize", **{name.upper(): str(value) for name, value in stranger.items()})
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("Error: Kafka at")
    assert password("nobody") not in ran.stderr

"""Apache Kafka with TLS, SASL and the authorizer on: the pipeline under its own principals, and who is refused what."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.fetch import FetchRequest
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from stack import demonstration_policy

from sfumato.agents import shares
from sfumato.agents.acls import ROLES, beyond, line, principals, wanted
from sfumato.agents.connection import client_config, diagnose, faust_credentials
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.live import Live
from sfumato.agents.reader import Reader
from sfumato.agents.settings import Settings
from sfumato.schemas.inspection import Inspection
from sfumato.schemas.topics import FRAMES_ANONYMIZED, FRAMES_RAW, JOB_EVENTS, TOPICS
from tests.city import FOR_CLIPS, TIMEOUT, City
from tests.ingesting import read_topic
from tests.secured_kafka import ADMIN, Decision, SecuredKafka, password
from tests.test_cli import sfumato

SHARES = '[[vendor]]\nname = "acme"\ncameras = ["north-*"]\n\n[[vendor]]\nname = "other"\ncameras = ["south"]\n'
CAMERAS = ("north-1", "south")
VENDORS = ("acme", "other")
COUNT = 4
"""Pictures of each camera."""


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


def test_every_role_does_its_work_with_what_it_may_and_uses_all_of_it(city, kafka, pictures, tmp_path):
    """Ingest by client certificate, the anonymizer by access token, the rest by SCRAM. By the broker's own record no
    role was refused anything, and nothing in the table was not needed."""
    before = len(kafka.decisions())
    cameras = set_up(city, tmp_path, pictures[:COUNT])
    assert city.key  # made before the bridge looks
    city.run("anonymize", **oauth(kafka))
    city.run("bridge", metrics_port=0)
    city.run("share", "--shares", str(city.shares))
    city.run("inspect", inspect_detectors="centerface", inspect_budget=1.0)
    city.run("reveal", detectors=FOR_CLIPS)
    city.wait_for_bridge()
    city.cancel_a_job(pictures[0])
    city.run("archive")
    city.until(lambda: "Failed fetch" in city.log("anonymize").read_text())  # its token's session has ended before
    city.run("ingest", "--cameras", str(cameras), **mutual(kafka, "sfumato-ingest"))
    city.wait_until_ended("ingest", TIMEOUT)
    counted = json.loads(city.does("reconcile", "reconcile", "--follow", str(TIMEOUT)))
    assert counted["masked"] == len(CAMERAS) * COUNT
    city.does("dossier", "dossier", "--out", f"{tmp_path}/dossier")  # while nothing is sealed, it counts the audit
    assert "the topic is missing" not in "".join(file.read_text() for file in (tmp_path / "dossier").glob("*.md"))
    city.run("ledger", ledger_segment_seconds=1.0)
    with city.api() as api:
        assert api.get("/v1/cameras/south/snapshot.jpg").content[:3] == b"\xff\xd8\xff"
        city.mask_a_picture(pictures[0])
        assert api.get("/v1/calls").json()["items"]
        west = demonstration_policy("west").model_dump(mode="json")
        assert api.put("/v1/policies/west", json=west, headers={"If-None-Match": "*"}).is_success
    city.reveal_a_person("south")
    city.shred_despite_requests("south")
    published = [(m.key(), m.value(), m.headers()) for m in read_topic(city.settings, FRAMES_ANONYMIZED)]
    for vendor in shares.read_file(city.shares):
        its = [message for message in published if vendor.gets(message[0].decode())]
        assert len(its) == COUNT
        assert until_shared(city, vendor, len(its)) == its
    city.suspend_a_camera("leaky", pictures[0])
    city.until(lambda: city.metric_of("ledger", "sfumato_ledger_events_total") >= len(published))
    city.does(
        "record", "record", "--camera", "south", "--from", "beginning", "--until-end", "--out", f"{tmp_path}/a.mp4"
    )
    city.does("export", "export", "--camera", "south", "--out", f"{tmp_path}/export")
    city.does("export", "export", "--camera", "_disclosures", "--out", f"{tmp_path}/disclosed")
    assert city.command(ADMIN, "verify", f"{tmp_path}/export").exit_code == 0
    for verb in [verb for verb in city.verbs if verb != "ingest"]:
        city.kill(verb)
    assert "the-password-of" not in "".join(log.read_text() for log in city.folder.glob("*.log"))
    assert "sfumato-anonymize" in kafka.endpoint.asked
    said = [each for each in kafka.decisions()[before:] if each.user.startswith("sfumato-")]
    assert {each for each in said if not each.allowed} == set()
    given = wanted(city.settings, principals({}))
    unused = [line(acl) for acl in given if not any(used(acl, each) for each in {*said})]
    either = f"User:sfumato-archive may write topic {city.settings.topic(JOB_EVENTS)}"  # or the bridge was faster
    assert {*unused} <= {either}, "\n".join(unused)


def set_up(city: City, folder: Path, pictures: list[bytes]) -> Path:
    """Weights, policies and ``cameras.toml``."""
    list(fetch_weights(city.settings.model_copy(update={"detectors": FOR_CLIPS})))
    for camera in CAMERAS:
        (folder / camera).mkdir()
        for number, picture in enumerate(pictures):
            (folder / camera / f"{number}.jpg").write_bytes(picture)
    strict = demonstration_policy("leaky").model_copy(update={"inspect": Inspection(per_minute=600, leak_budget=0)})
    found = [policy.model_dump(mode="json") for policy in [*map(demonstration_policy, CAMERAS), strict]]
    (folder / "policies.json").write_text(json.dumps({"policy": found}))
    city.does("policy-editor", "policy", "set", f"{folder}/policies.json")
    tables = (f'[[camera]]\nid = "{c}"\nurl = "stills://{folder / c}"\npace = "fast"\n' for c in CAMERAS)
    (folder / "cameras.toml").write_text("\n".join(tables))
    return folder / "cameras.toml"


def used(acl: AclBinding, each: Decision) -> bool:
    """Whether this was allowed by that line."""
    prefixed = acl.resource_pattern_type == ResourcePatternType.PREFIXED
    return (
        (f"User:{each.user}", each.operation) == (acl.principal, AclOperation(acl.operation).name)
        and each.kind.upper() == ResourceType(acl.restype).name
        and (each.name.startswith(acl.name) if prefixed else each.name == acl.name)
    )


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
        if opened := operations & {AclOperation.READ, AclOperation.WRITE}:
            found[name] = opened
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
    fetch = FetchRequest(1, 0, 4096, 0, [(topic, [(0, 0, 1024)]) for topic in topics])
    answer = asyncio.run(asked(settings, fetch))
    return {topic for topic, ((_, error, *_),) in answer.topics if error == TopicAuthorizationFailedError.errno}


def test_what_is_anothers_is_refused_to_each_role(city):
    """Writing to topics that it does not write, and acknowledging for the anonymizers, whose frames would be lost."""
    group = city.settings.group_id
    for name, role in ROLES.items():
        others = {city.settings.topic(topic) for topic in TOPICS if topic not in role.writes}
        assert unwritable(city.role(name), others) == others, name
        assert role.group == "" or not acknowledged(city.role(name), group, city.settings.topic(FRAMES_RAW)), name


def unwritable(settings: Settings, topics: Iterable[str]) -> set[str]:
    """Those to which the broker takes nothing."""
    found: set[str] = set()

    def told(error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            found.add(message.topic() or "")

    producer = Producer({**client_config(settings), "message.timeout.ms": 20_000})
    for topic in topics:
        producer.produce(topic, b"", b"", on_delivery=told)
    assert producer.flush(30) == 0
    return found


def acknowledged(settings: Settings, group: str, topic: str) -> bool:
    """Whether the broker takes an offset of the group; asked without asking first who coordinates it."""
    commit = OffsetCommitRequest(group, -1, "", -1, [(topic, [(0, 1, "")])])
    ((_, ((_, error),)),) = asyncio.run(asked(settings, commit)).topics
    assert error in (0, GroupAuthorizationFailedError.errno), error
    return error == 0


async def asked(settings: Settings, request: Any) -> Any:
    """What the broker answers, which is the only one."""
    auth = credentials_to_aiokafka_auth(faust_credentials(settings))
    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers, **auth)
    await client.bootstrap()
    try:
        return await client.send(next(iter(client.cluster.brokers())).nodeId, request)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("operation", "permission", "named"),
    [
        (AclOperation.CLUSTER_ACTION, AclPermissionType.ALLOW, True),
        (AclOperation.ALTER, AclPermissionType.ALLOW, True),
        (AclOperation.ALL, AclPermissionType.ALLOW, True),
        (AclOperation.CLUSTER_ACTION, AclPermissionType.DENY, False),
        (AclOperation.DESCRIBE, AclPermissionType.ALLOW, False),
    ],
)
def test_a_stranger_who_masters_the_cluster_is_named(operation, permission, named):
    settings = Settings()
    given = (ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, "User:mallory", "*")
    strangers = [AclBinding(*given, operation, permission)]
    assert beyond(settings, strangers, wanted(settings, principals({}))) == (strangers if named else [])


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


@pytest.mark.parametrize(
    "how", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER", "without TLS", "certificate", "encrypted key"]
)
def test_both_clients_connect_by(kafka, how):
    user = "sfumato-anonymize"
    changes: dict[str, Any] = {"kafka_sasl_mechanism": how}
    if how == "OAUTHBEARER":
        changes = {**oauth(kafka), "kafka_token_scope": "kafka"}
    elif how == "without TLS":
        address = kafka.bootstrap_servers.replace(str(kafka.port), str(kafka.clear_port))
        changes = {"bootstrap_servers": address, "kafka_security_protocol": "sasl_plaintext", "kafka_ca_file": None}
    elif how in ("certificate", "encrypted key"):
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

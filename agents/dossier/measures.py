"""Technical measures and time limits as they are set here: what is on, what is off, and where that was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sfumato.agents.dossier.facts import Measure
from sfumato.agents.dossier.topics import Standing
from sfumato.agents.pseudonyms import Pseudonyms
from sfumato.agents.settings import Settings
from sfumato.schemas.topics import FRAMES_ANONYMIZED, FRAMES_RAW, Topic


def taken(settings: Settings, topics: Mapping[Topic, Standing | None]) -> Iterator[Measure]:
    """Security of processing (GDPR Article 32), row by row."""
    yield Measure("Way to Kafka", _kafka(settings), "SFUMATO_KAFKA_…")
    yield Measure("Raw footage on Kafka", _raw(settings), "SFUMATO_RAW_SEALING, SFUMATO_KEYS_STORE")
    yield Measure("Uploads at rest", _uploads(settings), "SFUMATO_SEALING_KEY_FILE")
    yield Measure("Key that signs the ledger", _ledger_key(settings), "SFUMATO_LEDGER_KEY_FILE")
    yield Measure("Copies of each message", _copies(topics), "the broker")
    yield Measure("Way to the API", _https(settings), "SFUMATO_TLS…, SFUMATO_BEHIND_PROXY")
    yield Measure("Signing in", _signing_in(settings), "SFUMATO_OIDC_ISSUER; the database")
    yield Measure("Rate of requests", f"{settings.rate_limit} a minute where a key says no other", "SFUMATO_RATE_LIMIT")
    yield Measure("The site's floor of masking", _floor(settings), "SFUMATO_POLICY_FLOOR")
    yield Measure(
        "A batch whose detection hangs",
        f"fully masked after {settings.detector_timeout:g} s",
        "SFUMATO_DETECTOR_TIMEOUT",
    )
    yield Measure(
        "A worker that stands still", f"restarted after {settings.stall_timeout:g} s", "SFUMATO_STALL_TIMEOUT"
    )
    yield Measure("Calls to other hosts", _outbound(settings), "SFUMATO_OUTBOUND_…")


def limits(settings: Settings) -> Iterator[Measure]:
    """For how long what does not lie on Kafka is kept (Article 30(1)(f))."""
    yield Measure("Keys of raw footage", f"shredded {settings.keys_hours:g} h after capture", "SFUMATO_KEYS_HOURS")
    expiry = settings.upload_expiry / 3600
    yield Measure(
        "Uploads (raw pictures and films, sealed)", f"{expiry:g} h, or until their job ends", "SFUMATO_UPLOAD_EXPIRY"
    )
    yield Measure(
        "Results of jobs (masked)", f"{settings.job_hours:g} h, or less where the policy says so", "SFUMATO_JOB_HOURS"
    )
    yield Measure("Masked pictures of the API", f"{settings.image_kept:g} s, in memory", "SFUMATO_IMAGE_KEPT")
    yield Measure("Secrets of pseudonyms", f"until `sfumato pseudonym destroy`; {_periods(settings)}", "state folder")
    yield Measure("API keys and usage", "kept until somebody deletes them", "the database")


def _kafka(settings: Settings) -> str:
    protocol = settings.kafka_security_protocol
    encrypted = "encrypted (TLS)" if "ssl" in protocol else "not encrypted"
    if settings.kafka_sasl_mechanism:
        return f"{encrypted}; signs in by {settings.kafka_sasl_mechanism}"
    return f"{encrypted}; signs in by {'a certificate' if settings.kafka_certificate_file else 'nothing'}"


def _raw(settings: Settings) -> str:
    if settings.raw_sealing == "off":
        return "not sealed"
    return f"sealed with AES-256-GCM, a key per camera and hour; keys in the store {settings.keys_store}"


def _uploads(settings: Settings) -> str:
    path = settings.sealing_key_file or settings.state_dir / "sealing.key"
    mode = _mode(path)
    if mode is None:
        return "sealed with AES-256-GCM; no master key was made here yet"
    return f"sealed with AES-256-GCM; master key in a file of mode {mode}"


def _ledger_key(settings: Settings) -> str:
    mode = _mode(settings.ledger_key_file or settings.state_dir / "ledger.key")
    return f"in a file of mode {mode}" if mode else "not on this machine"


def _mode(path: Path) -> str | None:
    try:
        return f"{path.stat().st_mode & 0o777:04o}"
    except OSError:
        return None


def _copies(topics: Mapping[Topic, Standing | None]) -> str:
    shown = []
    for topic in (FRAMES_RAW, FRAMES_ANONYMIZED):
        standing = topics[topic]
        shown.append(f"{topic.name}: {standing.replicas if standing else 'missing'}")
    return ", ".join(shown)


def _https(settings: Settings) -> str:
    if settings.tls_certificate is not None:
        return "HTTPS"
    if settings.tls:
        return "HTTPS with a self-made certificate, for trying"
    if settings.behind_proxy:
        return "HTTP behind a proxy that is said to speak HTTPS"
    return "HTTP, not encrypted"


def _signing_in(settings: Settings) -> str:
    host = urlsplit(settings.oidc_issuer).hostname
    return f"API keys, and access tokens of {host}" if host else "API keys"


def _floor(settings: Settings) -> str:
    return "set" if settings.policy_floor is not None else "none: a policy may mask as little as it says"


def _outbound(settings: Settings) -> str:
    allowed = f"{len(settings.outbound_allow)} private addresses allowed" if settings.outbound_allow else "public alone"
    return f"{allowed}; plain HTTP {'allowed' if settings.outbound_http else 'refused'}"


def _periods(settings: Settings) -> str:
    return f"{len(Pseudonyms(settings).periods())} there now"

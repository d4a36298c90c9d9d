"""Every setting, from environment variables that start with ``SFUMATO_``; see ``docs/settings.md``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sfumato.models.detectors import DetectorOptions, Provider
from sfumato.schemas.audit import summary
from sfumato.schemas.fault import Fault
from sfumato.schemas.topics import Topic

PREFIX = "SFUMATO_"
Seconds = Annotated[float, Field(gt=0)]
ProviderUrl = Annotated[str, Field(pattern=r"^$|^https://|^http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/|$)")]
"""Keys that come in the clear could be anybody's, so plain HTTP is for this machine."""
Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    # Kafka
    bootstrap_servers: str = "127.0.0.1:9092"
    """Comma-separated ``host:port``."""
    topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = ""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Partitions of each frame topic: the most anonymizers that can share the work."""
    replication_factor: Annotated[int, Field(ge=1)] = 1
    queue_bytes: Annotated[int, Field(ge=1_000_000)] = 64_000_000
    """Frames waiting for the broker in one ingestor, in bytes; beyond it the newest are dropped and counted."""

    broker_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    """Resident memory at which the embedded broker ends; unset: 2 GiB or a quarter of the machine's, if less."""

    # Kafka's own security, in Kafka's words; agents/connection.py hands it to the clients
    kafka_security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    kafka_ca_file: Path | None = None
    """PEM file of the authorities that vouch for the brokers; unset: the system's."""
    kafka_certificate_file: Path | None = None
    """PEM file of this client's certificate chain, where brokers ask for one (mTLS)."""
    kafka_key_file: Path | None = None
    """PEM file of its private key."""
    kafka_key_password: SecretStr | None = None
    """Opens the private key, where it is encrypted."""
    kafka_sasl_mechanism: Literal["", "SCRAM-SHA-512", "SCRAM-SHA-256", "OAUTHBEARER", "PLAIN"] = ""
    kafka_username: str = ""
    """The principal; with OAUTHBEARER the client id."""
    kafka_password: SecretStr | None = None
    """Its password; with OAUTHBEARER the client secret."""
    kafka_password_file: Path | None = None
    """File that holds it, which nobody else may read."""
    kafka_token_url: ProviderUrl = ""
    """OAUTHBEARER: the token endpoint that gives access tokens for client credentials (RFC 6749, section 4.4)."""
    kafka_token_scope: str = ""
    """OAUTHBEARER: the scope that is asked for."""
    kafka_token_ca_file: Path | None = None
    """OAUTHBEARER: PEM file of the authorities that vouch for the token endpoint; unset: the system's."""

    # anonymize
    group_id: str = "sfumato-anonymize"
    detectors: Annotated[str, Field(pattern=r"^[a-z0-9_]+(,[a-z0-9_]+)*$")] = "centerface,ssdlite,clp,ppocr"
    """The detectors that a worker loads, comma-separated; a policy chooses among them. A graph is read when a policy
    first asks for it."""
    policy_floor: Path | None = None
    """TOML file of what no policy may go below; read once, by whatever reads policies."""
    detector_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads for detection; 0: the cores of the machine."""
    detector_provider: Provider = Provider.OPENVINO
    """What runs the detectors; ``onnxruntime`` and ``cuda`` need the extra ``onnx`` or ``cuda``."""
    detector_streams: Annotated[int, Field(ge=1, le=64)] = 1
    """Pictures of a batch that a detector looks at at once; more pays on a GPU."""
    detector_long_side: Annotated[int, Field(ge=32, le=8192)] = 1280
    """Pictures are shrunk to this long side, in pixels, before detection; never enlarged."""
    detector_device: str = "auto"
    """For the provider ``cuda``: ``cuda``, ``cuda:N``, or ``auto``: the first. For the ultralytics detector also
    ``cpu``; there ``auto`` is cuda where present, else cpu."""
    detector_model: str = ""
    """For the ultralytics detector: path of a .pt, .onnx or .engine file."""
    detector_timeout: Seconds = 30.0
    """A batch whose detection takes longer is fully masked and the worker restarts."""
    codec_threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads that decode, mask and encode the pictures of a batch; more pays where a GPU detects."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    batch_wait: Seconds = 0.02
    """Longest wait for a batch to fill, in seconds."""
    max_pixels: Annotated[int, Field(ge=1)] = 40_000_000
    """Larger pictures are dropped before they are decoded."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 85
    h264_encoder: str = "libx264"
    """FFmpeg's name of the encoder for policies with H.264 output: ``libx264``, ``h264_nvenc``, …"""
    decoders: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Video decoders open in one worker; the frames of one camera more are fully masked."""
    held_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    """Decoded pictures that wait for a policy's lookahead in one worker, in bytes; beyond it the oldest leave fully
    masked."""
    camera_idle: Seconds = 10.0
    """A camera silent for this long has its decoder closed and no longer holds back commits."""
    gop_hold: Seconds = 20.0
    """A group of pictures longer than this no longer holds back commits; after a restart its rest is not decodable."""
    stall_timeout: Seconds = 60.0
    """A worker that has work but commits nothing for this long exits and is restarted."""

    # inspect
    inspect_detectors: Annotated[str, Field(pattern=r"^[a-z0-9_]+(,[a-z0-9_]+)*$")] = "mtcnn,centerface"
    """The detectors that look a second time, comma-separated; one that also masked looks at a larger scale."""
    inspect_budget: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of its time that an inspecting worker may spend looking; frames beyond it are left out and counted."""

    # raw footage
    raw_sealing: Literal["on", "off"] = "on"
    """``on``: the ingestor seals what it writes to frames.raw, and anonymizers drop what is not sealed."""
    raw_retention_minutes: Annotated[int, Field(ge=1, le=60 * 24 * 400)] = 10
    """Minutes for which Kafka keeps frames.raw."""
    raw_retention_mismatch: Literal["refuse", "alarm"] = "refuse"
    """Where the topic keeps frames longer or shorter: do not start, or start with a critical log line and a metric."""
    anonymized_retention_hours: Annotated[int, Field(ge=1, le=24 * 400)] = 24
    """Hours for which Kafka keeps frames.anonymized, and vendors' copies."""
    anonymized_retention_mismatch: Literal["refuse", "alarm"] = "alarm"
    """A policy that states fewer hours: do not start and do not set it, or say so as critical and by a metric."""
    keys_store: str = "files"
    """Where the keys of raw footage lie: ``files``, ``database`` or ``environment``."""
    keys_dir: Path | None = None
    """Folder of the store ``files``; unset: ``keys`` in the state folder."""
    keys_secret: SecretStr = SecretStr("")
    """For the store ``environment``: 32 bytes in Base64 that all keys are derived from."""
    keys_hours: Annotated[float, Field(gt=0)] = 24.0
    """Hours after which the ingestor shreds the keys of what was captured; not in the store ``environment``."""
    # ledger
    ledger_origin: Annotated[str, Field(pattern=r"^[^\s+\x00-\x1f]{1,200}$")] = "sfumato.example"
    """Who signs: the name of the key, and in front of every log's name. Yours alone, best a host name of yours."""
    ledger_key_file: Path | None = None
    """PEM (PKCS #8) of the Ed25519 key that signs checkpoints, and below it those that did before; unset:
    ``ledger.key`` in the state folder, made when first needed."""
    ledger_segment_events: Annotated[int, Field(ge=1, le=2000)] = 1500
    """Audit events after which a segment is sealed."""
    ledger_segment_seconds: Seconds = 60.0
    """Seconds after its first audit event at which a segment is sealed."""
    ledger_grace: Seconds = 60.0
    """Seconds that later frames of a camera may be ahead of one before that counts as missing."""

    # API
    state_dir: Path = Path.home() / ".local" / "share" / "sfumato"
    """Folder of the database, the files and the keys that seal them, where no other place is set."""
    database_url: str = ""
    """``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``; empty: ``sfumato.db`` in the state folder."""
    files_url: str = ""
    """``s3://BUCKET/PREFIX``; empty: the folder ``files`` in the state folder."""
    files_endpoint: str = ""
    """URL of the S3 service where it is not Amazon's; credentials come from the ``AWS_…`` variables."""
    sealing_key_file: Path | None = None
    """The keys that seal uploads; unset: ``sealing.key`` in the state folder, made when first needed."""
    upload_max_bytes: Annotated[int, Field(ge=1)] = 100_000_000_000
    """The largest upload."""
    upload_caller_bytes: Annotated[int, Field(ge=1)] = 1_000_000_000_000
    """Of all uploads that one caller has at a time; what a job fetches counts, too."""
    upload_expiry: Seconds = 86_400.0
    """Seconds after which an upload is deleted."""
    max_film_seconds: Seconds = 86_400.0
    """Uploaded films that last longer are refused."""

    # subject requests
    subject_approvals: Annotated[int, Field(ge=1, le=20)] = 2
    """People who must approve a subject request, its requester not among them."""
    subject_hours: Annotated[float, Field(gt=0, le=24 * 60)] = 72.0
    """Hours after which a subject request ends, its clip included."""
    subject_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """The longest clip of a subject request, in seconds."""

    # calls from here to others: source URLs, webhooks, key sets
    outbound_allow: list[str] = []
    """Host names, addresses and networks that may be called although they are private."""
    outbound_http: bool = False
    """Whether ``http://`` is allowed beside ``https://``."""
    outbound_ca: Path | None = None
    """PEM file of certificate authorities that are trusted besides the usual ones."""

    # jobs
    archive_part_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """Films are masked in parts of about this length, so that several workers share one."""
    archive_lease: Annotated[float, Field(ge=1, le=3600)] = 15.0
    """A worker that is not heard of for this long, in seconds, has lost what it worked on to another."""
    archive_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a piece of work is begun before its file fails."""
    job_resend: Seconds = 15.0
    """Work for which no worker came within so many seconds is announced on Kafka again."""
    job_hours: Annotated[float, Field(gt=0)] = 24.0
    """Hours for which results can be fetched; a policy's ``retention_hours`` may make it fewer."""
    job_deadline_hours: Annotated[float, Field(gt=0)] = 72.0
    """Hours after which a job that has not ended fails, and its uploads are deleted."""
    delivery_attempts: Annotated[int, Field(ge=1, le=100)] = 8
    """How often a webhook or bucket is tried."""
    delivery_pause: Seconds = 5.0
    """Seconds before the second attempt; twice as long before each further one, an hour at most."""

    image_workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Pictures of the API that a bridge decodes, masks and encodes at once; detection takes them in turn."""
    image_queue: Annotated[int, Field(ge=0, le=10_000)] = 32
    """Pictures of the API that may wait for a worker; one more is answered 503."""
    image_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)] = 32_000_000
    """Largest body of a request that sends a picture."""
    image_kept: Seconds = 300.0
    """Masked pictures whose URL was answered are kept in memory for so long, in seconds."""
    image_kept_bytes: Annotated[int, Field(ge=1)] = 256_000_000
    """Of all masked pictures that are kept; beyond it the oldest go before their time."""
    rate_limit: Annotated[int, Field(ge=100, le=10_000)] = 600
    """Requests a minute of a caller whose key states no other rate, and of each access token's subject."""
    caller_connections: Annotated[int, Field(ge=1)] = 256
    """Requests, streams of events and WebSockets that one caller may have open at a bridge at a time."""
    rate_limit_url: Annotated[str, Field(pattern=r"^$|^rediss?(\+sentinel|\+cluster)?://")] = ""
    """``redis://…`` of the Redis or Valkey that several bridges share their rate limits through; empty: in memory."""
    oidc_issuer: ProviderUrl = ""
    """The identity provider whose access tokens are taken, exactly as in their ``iss``; empty: none are."""
    oidc_audience: str = ""
    """What their ``aud`` must name."""
    oidc_jwks_url: ProviderUrl = ""
    """Where its public keys are; empty: as its ``/.well-known/openid-configuration`` says."""

    # content credentials
    c2pa_certificate: Path | None = None
    """PEM of the chain that signs C2PA manifests, the signing certificate first; unset: a self-made one, untrusted."""
    c2pa_key: Path | None = None
    """PEM (PKCS #8) of its private key."""
    c2pa_algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """Of that key, by C2PA's names."""
    c2pa_timestamp_url: str = ""
    """Timestamp authority (RFC 3161) that is asked for each manifest; empty: none, and nothing is sent anywhere."""

    # bridge
    bridge_host: str = "127.0.0.1"
    bridge_port: Port = 8080
    bridge_allowed_hosts: list[str] = ["127.0.0.1", "localhost", "[::1]"]
    """Host names viewers may use; others are refused (DNS rebinding)."""
    tls: Literal["", "self-made"] = ""
    """``self-made``: HTTPS with a certificate made into the state folder, for trying."""
    tls_certificate: Path | None = None
    """PEM file of the certificate and those that vouch for it."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    behind_proxy: bool = False
    """A reverse proxy with TLS stands in front, and alone reaches the bridge: its ``X-Forwarded-…`` are believed."""
    cors_origins: list[str] = []
    """Origins whose pages may call the API with a key of their own, e.g. ``https://dam.example``."""
    body_timeout: Seconds = 20.0
    """Longest wait for the next part of a request's body, and for its headers, in seconds."""

    # all
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 0
    """Prometheus exporter; 0: none. Worker ``i`` of ``sfumato anonymize --workers`` uses this port + ``i``."""
    weights_dir: Path = Path.home() / ".cache" / "sfumato"

    @model_validator(mode="after")
    def _progress(self) -> Self:
        """What holds back commits must not look like a stall."""
        if max(self.gop_hold, self.camera_idle) * 2 > self.stall_timeout:
            raise ValueError("stall_timeout: wants to be twice gop_hold and camera_idle at least")
        return self

    @model_validator(mode="after")
    def _keys(self) -> Self:
        """What waits on frames.raw must not become unreadable before it is deleted."""
        if self.keys_hours * 60 < self.raw_retention_minutes:
            raise ValueError("keys_hours: wants to be as long as raw_retention_minutes at least")
        return self

    @model_validator(mode="after")
    def _access(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate, tls_key: set both, or neither")
        if self.tls_certificate is not None and self.tls:
            raise ValueError("tls: leave it out where tls_certificate is set")
        if bool(self.oidc_issuer) != bool(self.oidc_audience):
            raise ValueError("oidc_issuer, oidc_audience: set both, or neither")
        if self.oidc_jwks_url and not self.oidc_issuer:
            raise ValueError("oidc_issuer: missing, and oidc_jwks_url is set")
        return self

    @model_validator(mode="after")
    def _kafka(self) -> Self:
        protocol, mechanism = self.kafka_security_protocol, self.kafka_sasl_mechanism
        tls = ("ca_file", "certificate_file", "key_file", "key_password")
        token = ("token_url", "token_scope", "token_ca_file")
        sasl = ("sasl_mechanism", "username", "password", "password_file", *token)
        is_set = {name: bool(getattr(self, f"kafka_{name}")) for name in tls + sasl}
        for names, missing, remedy in (
            (tls, "ssl" not in protocol, "want kafka_security_protocol ssl or sasl_ssl"),
            (sasl, "sasl" not in protocol, "want kafka_security_protocol sasl_ssl or sasl_plaintext"),
            (token, mechanism != "OAUTHBEARER", "want kafka_sasl_mechanism OAUTHBEARER"),
        ):
            if missing and (found := ", ".join(f"kafka_{name}" for name in names if is_set[name])):
                raise ValueError(f"{found}: {remedy}")
        if is_set["certificate_file"] != is_set["key_file"]:
            raise ValueError("kafka_certificate_file, kafka_key_file: set both, or neither")
        if is_set["key_password"] and not is_set["key_file"]:
            raise ValueError("kafka_key_file: missing, and kafka_key_password is set")
        if "sasl" in protocol:
            wanted = ["sasl_mechanism", "username", *(["token_url"] if mechanism == "OAUTHBEARER" else [])]
            if lacking := ", ".join(f"kafka_{name}" for name in wanted if not is_set[name]):
                raise ValueError(f"{lacking}: missing, and kafka_security_protocol is {protocol}")
            if is_set["password"] == is_set["password_file"]:
                raise ValueError("kafka_password, kafka_password_file: set one")
            if mechanism in ("PLAIN", "OAUTHBEARER") and protocol != "sasl_ssl":
                raise ValueError(f"kafka_security_protocol: {mechanism} shows its secret to listeners; set sasl_ssl")
        return self

    @property
    def has_database(self) -> bool:
        """Whether one is set, or was made in the state folder by a process that keeps something in it."""
        return bool(self.database_url) or (self.state_dir / "sfumato.db").exists()

    @property
    def has_tls(self) -> bool:
        return bool(self.tls) or self.tls_certificate is not None

    def detector_names(self) -> list[str]:
        return self.detectors.split(",")

    def inspector_names(self) -> list[str]:
        return self.inspect_detectors.split(",")

    def inspecting(self) -> Settings:
        """As the inspecting workers use them: a consumer group of their own."""
        return self.model_copy(update={"group_id": f"{self.group_id}-inspect"})

    def keeping(self) -> Settings:
        """As the ledgers use them: a consumer group of their own."""
        return self.model_copy(update={"group_id": f"{self.group_id}-ledger"})

    def archiving(self) -> Settings:
        """As the workers of jobs use them: a consumer group of their own."""
        return self.model_copy(update={"group_id": f"{self.group_id}-archive"})

    def revealing(self) -> Settings:
        """As ``sfumato reveal`` uses them: a consumer group of its own."""
        return self.model_copy(update={"group_id": f"{self.group_id}-reveal"})

    def detector_options(self) -> DetectorOptions:
        return DetectorOptions(
            threads=self.detector_threads,
            streams=self.detector_streams,
            provider=self.detector_provider,
            long_side=self.detector_long_side,
            device=self.detector_device,
            model=self.detector_model,
            weights_dir=self.weights_dir,
        )

    def topic(self, topic: Topic) -> str:
        """The topic's name on this cluster."""
        return self.topic_prefix + topic.name


class SettingsError(Fault, ValueError):
    """The environment holds a setting that is not valid; the text names it."""


def load() -> Settings:
    """The settings of this process's environment; :class:`SettingsError` names what is unknown or not valid."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; docs/settings.md lists them all")
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(f"SFUMATO_ environment: {summary(error)}") from None

"""Apache Kafka (KRaft, one node) on loopback without Docker: the jars come from Maven Central into a cache.

``python ops/apache_kafka.py [--port PORT]`` prints the bootstrap address and serves until Ctrl-C. Needs Java 17
or newer and, for the first start, Maven. Its data are deleted when it stops: for trying out and for tests.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfumato.agents.broker import HOST, BrokerError, BrokerProcess, free_port

POM = Path(__file__).parent / "kafka" / "pom.xml"
VERSION = re.search(r"<kafka\.version>([^<]+)<", POM.read_text())[1]  # type: ignore[index]
OLDEST_JAVA = 17
INSTALL = "Debian: apt-get install openjdk-17-jdk-headless maven"


class ApacheKafka(BrokerProcess):
    """One broker and controller in one process. ``kill`` and ``start`` again: same port, same data.

    ``data`` is deleted by ``stop``; without it a temporary folder is used. ``overrides``: properties in place of
    :func:`properties`; ``cluster``: the id that nodes of one cluster share. ``format_options``: of Kafka's storage
    tool, as ``--add-scram=…``.
    """

    name = f"Apache Kafka {VERSION}"

    def __init__(
        self,
        port: int = 0,
        *,
        data: Path | None = None,
        overrides: Mapping[str, object] | None = None,
        cluster: str = "",
        format_options: Sequence[str] = (),
        java_options: Sequence[str] = (),
    ) -> None:
        super().__init__(port)
        self._format_options, self._java_options = format_options, java_options
        self._controller_port = 0
        self._data = data
        self._overrides = dict(overrides or {})
        self._cluster = cluster or cluster_id()

    def stop(self) -> None:
        super().stop()
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def _command(self) -> tuple[list[str], dict[str, str]]:
        java = _java()
        classpath = str(jars() / "*")
        self._controller_port = self._controller_port or free_port()
        if self._data is None:
            self._data = Path(tempfile.mkdtemp(prefix="sfumato-kafka-"))
        values = {**self._properties(self._controller_port), "log.dirs": self._data / "log", **self._overrides}
        config = self._data / "server.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        if not (self._data / "log" / "meta.properties").exists():
            _format(java, classpath, config, self._cluster, self._format_options)
        options = ["-Xms128m", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *self._java_options]
        return [java, *options, "-cp", classpath, "kafka.Kafka", str(config)], dict(os.environ)

    def _properties(self, controller_port: int) -> dict[str, object]:
        return properties(self.port, controller_port)

    def _litter(self) -> list[Path]:
        return [self._data] if self._data else []


def properties(port: int, controller_port: int, *, host: str = HOST, advertised: str = HOST) -> dict[str, object]:
    """One node that is broker and controller: internal topics small and without replicas, groups form at once."""
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{advertised}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
        "auto.create.topics.enable": "false",
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }


def jars() -> Path:
    """The folder with Kafka's jars; fetched by Maven where the cache lacks it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato"
    folder = cache / f"kafka-{VERSION}"
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(
            f"Apache Kafka's jars are not in {folder} and Maven, which fetches them, is missing. {INSTALL}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fetched = Path(scratch) / "jars"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={fetched}", "-DincludeScope=runtime"]
        print(f"fetching Apache Kafka {VERSION} from Maven Central", file=sys.stderr, flush=True)
        # --strict-checksums: a damaged download fails here instead of in the cache.
        command = [maven, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(POM), *goal]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise BrokerError(f"Maven could not fetch Apache Kafka {VERSION}:\n{result.stdout[-2000:]}{result.stderr}")
        try:
            fetched.rename(folder)
        except OSError:
            if not folder.is_dir():  # else: another process was faster
                raise
    return folder


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise BrokerError(f"Apache Kafka needs Java {OLDEST_JAVA} or newer, found none. {INSTALL}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise BrokerError(f"Apache Kafka needs Java {OLDEST_JAVA} or newer; {java} is: {said.strip()}. {INSTALL}")
    return java


def cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _format(java: str, classpath: str, config: Path, cluster: str, options: Sequence[str]) -> None:
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(config), *options]
    short_lived = ["-Xmx256m", "-XX:TieredStopAtLevel=1"]
    result = subprocess.run([java, *short_lived, "-cp", classpath, *tool], capture_output=True, text=True)
    if result.returncode:
        raise BrokerError(f"Apache Kafka could not format its storage:\n{result.stdout}{result.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 (the default): a free one")
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ApacheKafka(port) as kafka:
            print(kafka.bootstrap_servers, flush=True)
            kafka.wait()
    except KeyboardInterrupt:
        return
    except BrokerError as error:
        sys.exit(str(error))
    sys.exit(f"{ApacheKafka.name}: ended by itself")


if __name__ == "__main__":
    main()

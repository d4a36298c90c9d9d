"""The software bill of materials: CycloneDX 1.6 as JSON, of what sfumato needs to run. ``make sbom`` runs it.

    python ops/sbom.py [FILE]

Components are the packages of ``requirements/run.txt`` as they are installed here (those that other platforms need are
left out), with the licence that each states and the SHA-256 of the files that may be installed; and the weights of
``models/weights.toml``. Nothing is fetched. The same environment gives the same document, but for its time and serial
number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sfumato.models.weights import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "requirements" / "run.txt"
LICENCES = LicenseFactory()
OSI = re.compile(r"^License :: (?:OSI Approved :: )?(.+)$")


def main() -> int:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache" / "sbom.json"
    bom = bill()
    written = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    target.parent.mkdir(exist_ok=True)
    target.write_text(written + "\n")
    print(f"{target}: {len(bom.components)} components", file=sys.stderr)
    return 0


def bill() -> Bom:
    """sfumato, what it depends on, and which of these depends on which."""
    bom, pins = Bom(), pinned()
    bom.metadata.component = root = package("sfumato", {})
    packages = {name: package(name, digests) for name, digests in pins.items() if is_installed(name)}
    for component in packages.values():
        bom.components.add(component)
    for weight in WEIGHTS:
        bom.components.add(model(weight))
    for name, component in {"sfumato": root, **packages}.items():
        bom.register_dependency(component, [packages[each] for each in needs(name) if each in packages])
    return bom


def pinned() -> dict[str, list[str]]:
    """By name, the SHA-256 of each file that a requirement allows."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", RUN.read_text()):
        if (named := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", entry)) is not None:
            digests = re.findall(r"sha256:([0-9a-f]{64})", entry)
            found.setdefault(canonicalize_name(named[1]), []).extend(digests)
    return found


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def package(name: str, digests: Any) -> Component:
    found = distribution(name)
    purl = PackageURL("pypi", None, canonicalize_name(name), found.version)
    return Component(
        name=canonicalize_name(name),
        version=found.version,
        type=ComponentType.APPLICATION if name == "sfumato" else ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
        description=found.metadata.get("Summary"),
        licenses=[LICENCES.make_from_string(text) for text in [licence(found.metadata)] if text],
        properties=[Property(name="sfumato:allowed-sha256", value=digest) for digest in digests],
    )


def licence(metadata: Any) -> str | None:
    """As an SPDX expression where the package states one, else in its words; None: it says nothing."""
    stated = metadata.get("License-Expression") or metadata.get("License")
    if stated and len(stated.splitlines()) == 1 and stated != "UNKNOWN":
        return str(stated)
    classified = [match[1] for line in metadata.get_all("Classifier", []) if (match := OSI.match(line))]
    return "; ".join(classified) or None


def needs(name: str) -> Iterator[str]:
    """What the package requires here, without extras."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def model(name: str) -> Component:
    """A weight, by the file's SHA-256 and the package that carries it."""
    weight = WEIGHTS[name]
    return Component(
        name=f"weight-{name}",
        version=weight.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"weight:{name}@{weight.version}",
        description=f"{weight.file} of {weight.package} {weight.version}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=weight.sha256)],
        licenses=[LICENCES.make_from_string(weight.licence)],
        properties=[Property(name="sfumato:source", value=weight.source)],
    )


if __name__ == "__main__":
    sys.exit(main())

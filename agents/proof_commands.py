"""``sfumato export``, ``verify`` and ``prove``: hand out what was recorded, and check it (docs/verify.md).

``verify`` needs neither Kafka nor a network.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfumato.agents.evidence.inventory import ExportError, read_file
from sfumato.agents.evidence.proof import verify_proof
from sfumato.agents.evidence.verdict import Verdict, printable
from sfumato.agents.evidence.verify import MAX_KEYS_BYTES, read_keys
from sfumato.agents.evidence.verify import verify as verify_folder
from sfumato.agents.ledger.note import NoteError, VerifierKey
from sfumato.schemas.cloudevent import CAMERA_ID, FrameId
from sfumato.schemas.segment import LOG_NAME

if TYPE_CHECKING:
    from sfumato.agents.settings import Settings

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Moment(click.ParamType):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("a time reads 2026-11-24T08:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail("has no time zone; put Z behind it for UTC, or +01:00", param, ctx)
        if not 1970 < moment.year < 9999:
            self.fail("a time from 1971 to 9998", param, ctx)
        return moment.astimezone(UTC)


class _Frame(click.ParamType):
    name = "frame"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FrameId:
        camera, *numbers = str(value).split("/")
        if not CAMERA_ID.fullmatch(camera) or len(numbers) != 2 or not all(_is_number(text) for text in numbers):
            self.fail("a frame reads CAMERA/EPOCH/SEQUENCE, as in its audit event's id", param, ctx)
        return FrameId(camera, int(numbers[0]), int(numbers[1]))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 19


KEY = click.option(
    "--key", "given", multiple=True, metavar="KEY|FILE", help="Who signs: a verifier key, or a file of them."
)


@click.command()
@click.option("--camera", required=True, help="The camera's id, or _disclosures, _unreadable-N.")
@click.option("--from", "since", type=_Moment(), help="Leave out what was sealed before.  [default: the beginning]")
@click.option("--until", type=_Moment(), help="Leave out what was sealed later than what holds this moment.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--without-frames", is_flag=True, help="Only what was recorded, no pictures.")
@click.option(
    "--since", "kept", multiple=True, type=FILE, help="A checkpoint kept from before: prove that it still holds."
)
@KEY
def export(
    camera: str,
    since: datetime | None,
    until: datetime | None,
    out: Path,
    without_frames: bool,
    kept: tuple[Path, ...],
    given: tuple[str, ...],
) -> None:
    """Write a camera's anonymized frames, audit events and signed checkpoints into a folder for `sfumato verify`.

    Prints a JSON summary. Exit status 1: published frames are gone from the topic, or policies are not known.
    """
    from sfumato.agents.evidence.export import Wanted
    from sfumato.agents.evidence.export import export as write
    from sfumato.agents.settings import load

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing half written is left
    settings = load()
    wanted = Wanted(_camera(camera), since, until, not without_frames, kept)
    account = write(settings, wanted, _keys(given) or _own_keys(settings), out)
    click.echo(json.dumps({"folder": str(out), "camera": camera, **account.report()}))
    sys.exit(0 if account.complete else 1)


@click.command()
@click.argument("frame", type=_Frame(), metavar="CAMERA/EPOCH/SEQUENCE")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@KEY
def prove(frame: FrameId, out: Path, given: tuple[str, ...]) -> None:
    """Write the proof that one frame's audit event is in its camera's log, without any other frame's event."""
    from sfumato.agents.evidence.prove import prove as compose
    from sfumato.agents.settings import load

    settings = load()
    proof = compose(settings, frame, _keys(given) or _own_keys(settings))
    try:
        with out.open("x", encoding="utf-8", newline="") as file:
            file.write(proof.text())
    except OSError as error:
        raise ExportError(f"{out}: {error.strerror}") from None
    click.echo(json.dumps({"file": str(out), "frame": str(frame), "index": proof.index}))


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FOLDER|PROOF")
@KEY
@click.option("--since", "kept", multiple=True, type=FILE, help="A checkpoint kept from before, which must still hold.")
@click.option("--model", "models", multiple=True, type=FILE, help="Weights that are known, besides sfumato's own.")
@click.option("--frame", type=FILE, help="With a proof: the frame's file.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON document.")
def verify(
    path: Path,
    given: tuple[str, ...],
    kept: tuple[Path, ...],
    models: tuple[Path, ...],
    frame: Path | None,
    as_json: bool,
) -> None:
    """Check an exported FOLDER, or a PROOF of one frame, offline (docs/verify.md). Exit status 1: something fails."""
    keys = _keys(given)
    if path.is_dir():
        if frame is not None:
            raise click.UsageError("--frame is for a proof; a folder has its frames")
        verdict = verify_folder(path, keys, kept, models)
    elif not keys:
        raise click.UsageError("a proof needs --key; get the key from the operator by another way than the proof")
    elif kept or models:
        raise click.UsageError("--since and --model are for a folder")
    else:
        verdict = verify_proof(path, keys, frame)
    _show(verdict, as_json)
    sys.exit(0 if verdict.passed else 1)


def _show(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(verdict.document(), indent=2))
        return
    for line in verdict.table():
        click.echo(line)


def _camera(name: str) -> str:
    if not LOG_NAME.fullmatch(name):
        raise click.UsageError(f"--camera: an id matches {CAMERA_ID.pattern}")
    return name


def _keys(given: tuple[str, ...]) -> tuple[VerifierKey, ...]:
    """What ``--key`` gives: verifier keys, or files of them."""
    found: list[VerifierKey] = []
    for text in given:
        try:
            if "+" not in text or Path(text).exists():
                text = read_file(Path(text), text, MAX_KEYS_BYTES).decode(errors="replace")
            found += read_keys(text)
        except (ExportError, NoteError) as error:
            raise ExportError(f"--key {printable(text[:80])}: {error}") from None
    return tuple(found)


def _own_keys(settings: Settings) -> tuple[VerifierKey, ...]:
    """Those of the ledger's own key file, where this machine has it."""
    from sfumato.agents.ledger import keys

    file = settings.ledger_key_file or settings.state_dir / "ledger.key"
    if not file.exists():
        raise ExportError(f"{file} is not here; give --key what `sfumato ledger-key` prints where the ledger runs")
    return keys.load(settings).verifiers

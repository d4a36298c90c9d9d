"""The command line: ``sfumato <verb>``. Each verb is one process; settings come from the environment."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from sfumato.agents.settings import SettingsError, load


class _Commands(click.Group):
    """A failure the user can mend is one line on stderr and exit status 1, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from sfumato.agents.provision import TopicError

        try:
            return super().invoke(ctx)
        except (SettingsError, TopicError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands)
@click.version_option(package_name="sfumato")
def main() -> None:
    """Anonymize a city's camera fleet in flight. Settings: environment variables SFUMATO_… (docs/settings.md)."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


@main.command()
@click.option("--check", "check_only", is_flag=True, help="Only compare existing topics with their contracts.")
def topics(check_only: bool) -> None:
    """Create the Kafka topics where missing, then check them all."""
    from sfumato.agents import provision

    settings = load()
    if not check_only:
        for name in provision.create(settings):
            click.echo(f"created {name}")
    provision.check(settings)


if __name__ == "__main__":
    main()

"""The command line of every service: `run`, `migrate`, `await-schema` and its documents.

Each command imports only what it needs: a start costs seconds of import otherwise.
"""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

import orjson
import uvloop

from shared.failpoints import BadFailpointError, Failpoint, load_failpoint
from shared.runtime.logging import configure_logging
from shared.runtime.settings import (
    EXIT_BAD_SETTINGS,
    ServiceSettings,
    database_settings,
    load_settings,
    placeholder_settings,
    settings_table,
)

Settings = TypeVar("Settings", bound=ServiceSettings)


class ServiceCommand(Generic[Settings]):
    """What `python -m <service>` can do, for one service."""

    def __init__(
        self,
        *,
        package: str,
        settings_class: type[Settings],
        composition: str,
        consumes: Sequence[str],
        produces: Sequence[str],
        has_api: bool = False,
    ) -> None:
        self._package = package
        self._settings_class = settings_class
        self._composition = composition
        self._consumes = consumes
        self._produces = produces
        self._has_api = has_api

    def run(self) -> NoReturn:
        """Carry out the command line and exit."""
        parser = argparse.ArgumentParser(prog=f"python -m {self._package}")
        commands = parser.add_subparsers(dest="command", required=True)
        commands.add_parser("run", help="serve until SIGTERM")
        migration = commands.add_parser("migrate", help="bring the schema to a revision")
        migration.add_argument("revision", nargs="?", default="head")
        waiting = commands.add_parser("await-schema", help="wait until a migration has been here")
        waiting.add_argument("--timeout-seconds", type=float, default=600.0)
        commands.add_parser("asyncapi", help="print the AsyncAPI document")
        commands.add_parser("settings", help="print the settings as a table")
        if self._has_api:
            commands.add_parser("openapi", help="print the OpenAPI document")
        arguments = parser.parse_args()
        match arguments.command:
            case "run":
                self._serve_or_refuse()
            case "migrate":
                self._migrate(revision=arguments.revision)
            case "await-schema":
                self._await_schema(timeout_seconds=arguments.timeout_seconds)
            case "asyncapi":
                _print(self.asyncapi())
            case "openapi":
                _print(self.openapi())
            case "settings":
                sys.stdout.write(settings_table(self._settings_class) + "\n")
        sys.exit(0)

    def asyncapi(self) -> dict[str, Any]:
        from shared.contracts.documents import asyncapi_document

        return asyncapi_document(
            service=self._package, consumes=self._consumes, produces=self._produces
        )

    def openapi(self) -> dict[str, Any]:
        # The document depends on the code alone.
        app = self._build(placeholder_settings(self._settings_class))
        document: dict[str, Any] = app.api.openapi()
        return document

    def _build(self, settings: Settings, *, failpoint: Failpoint | None = None) -> Any:
        """Return what the service's `build_app` puts together.

        Imported here: the composition root pulls in everything, and `migrate` needs none of it.
        """
        app = importlib.import_module(self._composition).build_app(settings, failpoint=failpoint)
        if failpoint is not None:
            failpoint.assert_installed()
        return app

    def _migrate(self, *, revision: str) -> None:
        from shared.db.migrations import migrate

        settings = load_settings(database_settings(self._settings_class))
        migrate(
            url=settings.database_url.get_secret_value(),
            package=self._package,
            revision=revision,
            tls_ca_file=settings.database_tls_ca_file,
        )

    def _await_schema(self, *, timeout_seconds: float) -> None:
        from shared.db.migrations import SchemaBehindError, await_schema

        settings = load_settings(database_settings(self._settings_class))
        configure_logging(service=self._package.replace("_", "-"), level="INFO")
        try:
            await_schema(
                url=settings.database_url.get_secret_value(),
                package=self._package,
                timeout_seconds=timeout_seconds,
                tls_ca_file=settings.database_tls_ca_file,
            )
        except SchemaBehindError as error:
            sys.exit(str(error))

    def _serve(self) -> None:
        settings = load_settings(self._settings_class)
        failpoint = load_failpoint(os.environ, environment=settings.environment)
        from shared.runtime.service import serve

        configure_logging(service=self._package.replace("_", "-"), level=settings.log_level)

        async def main() -> None:
            await serve(self._build(settings, failpoint=failpoint).service, settings=settings)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    def _serve_or_refuse(self) -> None:
        try:
            self._serve()
        except BadFailpointError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(EXIT_BAD_SETTINGS) from None


def _print(document: dict[str, Any]) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    sys.stdout.write(orjson.dumps(document, option=options).decode() + "\n")

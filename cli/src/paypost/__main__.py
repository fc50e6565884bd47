"""`paypost`: the local stack, the demo, and the operator's and tester's tools."""

from __future__ import annotations

import typer

from paypost.commands.autopay import autopay_app
from paypost.commands.cis import cis_app
from paypost.commands.dead import dead_app
from paypost.commands.demo import demo
from paypost.commands.mail import mail_app
from paypost.commands.stack import down, status, up
from paypost.commands.suspense import suspense_app
from paypost.commands.terminal import known_errors
from paypost.commands.trace import trace
from paypost.commands.trigger import trigger_app
from paypost.commands.verify import verify_command


def build_app() -> typer.Typer:
    """Put the command line together."""
    app = typer.Typer(
        name="paypost",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Paypost: a payment is on the ledger, and the customer told, within seconds.",
        epilog="Exit codes: 0 it holds, 1 it does not, 2 wrong usage, 3 no stack is up.",
    )
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(demo)
    app.add_typer(trigger_app, name="trigger")
    app.command()(trace)
    app.command("verify")(verify_command)
    app.add_typer(autopay_app, name="autopay")
    app.add_typer(suspense_app, name="suspense")
    app.add_typer(dead_app, name="dead")
    app.add_typer(mail_app, name="mail")
    app.add_typer(cis_app, name="cis")
    return app


def main() -> None:
    """Run the command line."""
    with known_errors():
        build_app()()


if __name__ == "__main__":
    main()

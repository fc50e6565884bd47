"""`python -m notifier run | migrate | asyncapi | settings`; nothing else."""

from notifier.app import build_app
from notifier.settings import Settings
from shared.runtime.command import ServiceCommand

ServiceCommand(
    package="notifier",
    settings_class=Settings,
    service=lambda settings: build_app(settings).service,
    consumes=("payments.v1", "portal.v1", "postings.v1"),
    produces=("notifications.v1",),
).run()

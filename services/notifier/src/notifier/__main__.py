"""`python -m notifier run | migrate | asyncapi | settings`; nothing else."""

from notifier.settings import Settings
from shared.runtime.command import ServiceCommand

ServiceCommand(
    package="notifier",
    settings_class=Settings,
    composition="notifier.app",
    consumes=("autopay.v1", "payments.v1", "portal.v1", "postings.v1"),
    produces=("notifications.v1",),
).run()

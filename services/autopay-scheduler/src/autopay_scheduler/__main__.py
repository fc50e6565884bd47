"""`python -m autopay_scheduler run | migrate | asyncapi | openapi | settings`; nothing else."""

from autopay_scheduler.settings import Settings
from shared.runtime.command import ServiceCommand

ServiceCommand(
    package="autopay_scheduler",
    settings_class=Settings,
    composition="autopay_scheduler.app",
    consumes=("portal.v1", "bills.v1", "postings.v1", "payments.v1", "notifications.v1"),
    produces=("autopay.v1",),
    has_api=True,
).run()

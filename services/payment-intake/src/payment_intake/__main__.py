"""`python -m payment_intake run | migrate | asyncapi | openapi | settings`; nothing else."""

from payment_intake.settings import Settings
from shared.runtime.command import ServiceCommand

ServiceCommand(
    package="payment_intake",
    settings_class=Settings,
    composition="payment_intake.app",
    consumes=("portal.v1", "autopay.v1", "postings.v1", "notifications.v1"),
    produces=("payments.v1", "portal.v1"),
    has_api=True,
).run()

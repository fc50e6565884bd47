"""`python -m cis_poster run | migrate | asyncapi | openapi | settings`; nothing else."""

from cis_poster.settings import Settings
from shared.runtime.command import ServiceCommand

ServiceCommand(
    package="cis_poster",
    settings_class=Settings,
    composition="cis_poster.app",
    consumes=("payments.v1",),
    produces=("postings.v1",),
    has_api=True,
).run()

"""`python -m cis_poster run | migrate | asyncapi | openapi | settings`; nothing else."""

from cis_poster.app import build_app
from cis_poster.settings import Settings
from shared.runtime.command import ServiceCommand

ServiceCommand(
    package="cis_poster",
    settings_class=Settings,
    service=lambda settings: build_app(settings).service,
    consumes=("payments.v1",),
    produces=("postings.v1",),
    api=lambda settings: build_app(settings).api,
).run()

"""What every Paypost service is built from; imports no service."""

from shared.imports import absent, postponed

# Before any module of a service: whoever imports a library first decides what comes along.
with absent("rich"):
    import structlog as structlog
postponed("sqlalchemy.ext.asyncio")

"""What every Paypost service is built from; imports no service."""

from shared.absent import absent

# Before any module of a service: whoever imports structlog first decides what it takes along.
with absent("rich"):
    import structlog as structlog

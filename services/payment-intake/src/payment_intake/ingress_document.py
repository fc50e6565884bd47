"""The webhook doors in OpenAPI's words, beside the generated part of the document."""

from typing import Any

_PROBLEMS = {
    "401": "The signature is missing, malformed, expired or wrong",
    "408": "The body took too long to arrive",
    "413": "The body is larger than 256 KiB",
    "415": "The content type is not taken here",
    "422": "Signed, and not understood; names the field; kept as evidence",
    "503": "Not stored, or not known to be; send it again after Retry-After",
}


def webhook_paths() -> dict[str, Any]:
    """Return the paths of the doors as OpenAPI 3.1 path items."""
    return {
        "/webhooks/stripe": _door(
            summary="Take a Stripe event",
            description="Signed with `Stripe-Signature` on the raw body; tolerance 300 s.",
            media_types=("application/json",),
            headers=("Stripe-Signature",),
        ),
        "/webhooks/standard/{source}": _door(
            summary="Take a Standard Webhooks message from a source",
            description="Body `{type, timestamp, data}`; `data` is a fact of portal.v1.",
            media_types=("application/json",),
            headers=("webhook-id", "webhook-timestamp", "webhook-signature"),
            path=("source",),
        ),
        "/portal/events": _door(
            summary="Take one or up to 100 of the portal's events",
            description="CloudEvents 1.0 in JSON, single or batch, signed by Standard Webhooks.",
            media_types=(
                "application/cloudevents+json",
                "application/cloudevents-batch+json",
                "application/json",
            ),
            headers=("webhook-id", "webhook-timestamp", "webhook-signature"),
        ),
    }


def _door(
    *,
    summary: str,
    description: str,
    media_types: tuple[str, ...],
    headers: tuple[str, ...],
    path: tuple[str, ...] = (),
) -> dict[str, Any]:
    parameters = [
        *(_parameter(name, "header") for name in headers),
        *(_parameter(name, "path") for name in path),
    ]
    return {
        "post": {
            "tags": ["webhooks"],
            "summary": summary,
            "description": f"{description} 200 is given only after the event is stored for good.",
            "parameters": parameters,
            "requestBody": {
                "required": True,
                "content": {name: {"schema": {"type": "object"}} for name in media_types},
            },
            "responses": {
                "200": {
                    "description": "Stored: accepted, duplicate, ignored, untrusted or conflict",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                **{
                    status: {
                        "description": meaning,
                        "content": {
                            "application/problem+json": {
                                "schema": {"$ref": "#/components/schemas/Problem"}
                            }
                        },
                    }
                    for status, meaning in _PROBLEMS.items()
                },
            },
        }
    }


def _parameter(name: str, place: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": True, "schema": {"type": "string"}}

"""Takes processor webhooks and portal events, verifies, stores and announces them."""

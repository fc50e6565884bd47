"""The processor counterpart: real Stripe events, signed and delivered as Stripe does it.

Use `scenarios` for what a payment sends, `delivery` to send it, `signatures` to sign anything else.
"""

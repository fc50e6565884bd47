"""What services say to each other: facts, the streams that carry them, their form on the wire.

A fact inside a service is that service's own business; what stands here is a promise to others.
A changed golden file under tests/contract is a reviewed change of such a promise.
"""

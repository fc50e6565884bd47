"""The one mechanism of every service: take, act, settle.

What is taken is durable in the service's own database; acting holds no transaction; an outcome
and the facts that state it are settled in one.
"""

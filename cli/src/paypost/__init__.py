"""Paypost on one machine: the command line, the local stack and its counterparts."""

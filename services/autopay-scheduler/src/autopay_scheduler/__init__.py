"""Decides which enrolled accounts are due, announces it, and asks for the charge."""

from shared.imports import postponed

# A city has the holidays of one country; the package imports those of all.
postponed("holidays.countries")

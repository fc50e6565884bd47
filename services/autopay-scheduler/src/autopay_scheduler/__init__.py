"""Decides which enrolled accounts are due, announces it, and asks for the charge."""

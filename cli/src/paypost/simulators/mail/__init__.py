"""The mail sink: a real SMTP server that keeps what it got, and can be told to fail."""

"""What every Paypost service is built from; imports no service."""

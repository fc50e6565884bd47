"""What turns a service into a process: settings, logs, health, metrics, start and drain."""

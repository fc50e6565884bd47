"""Celery with RabbitMQ and with Redis; see README.md."""

from bench.yardsticks.celery.yardstick import CeleryRabbitmqYardstick, CeleryRedisYardstick

__all__ = ["CeleryRabbitmqYardstick", "CeleryRedisYardstick"]

"""What a team writes from the frameworks' documentations; see README.md."""

from bench.yardsticks.tutorial.yardstick import TutorialYardstick

__all__ = ["TutorialYardstick"]

"""The local stack: real Kafka and PostgreSQL, the services and their counterparts on one machine.

What it promises: no Docker, Java or server needs to be installed; all ports are free ones and
written down; nothing is kept in the checkout; and no process outlives the one that started it,
not even after ``kill -9``.

| module | what it knows |
|---|---|
| `watchdog` | how a dead parent takes its children with it |
| `supervisor` | one child process, and many that are restarted and awaited |
| `locks`, `ports` | what two stacks on one machine must not share |
| `debian` | programs out of Debian packages, unpacked and not installed |
| `state` | where a stack lives, its secrets, and its description in `stack.json` |
| `kafka`, `postgres` | the two servers, each startable by itself |
| `migrations` | the services' schemas, brought up in one process |
| `local` | the composition: the only module that sees everything |
"""

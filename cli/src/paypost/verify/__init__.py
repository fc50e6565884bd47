"""The proof: what was accepted, posted, told and mailed, held against each other to the cent.

| module | what it knows |
|---|---|
| `rows` | one line of each book that is compared |
| `compare` | what must be true of them; pure |
| `world` | where the books of a running stack are, read as streams in key order |
| `pending` | whether anything is still on its way |
| `report` | the verdict, and what it is made of |
"""

"""The proof: what was accepted, posted, told and mailed, held against each other to the cent.

| module | what it knows |
|---|---|
| `rows` | one line of each book that is compared |
| `align` | streams in key order, walked side by side |
| `compare` | what must be true of payments; pure |
| `autopay` | what must be true of autopay: each due enrolment charged once, or its reason; pure |
| `world` | where the books of a running stack are, read as streams in key order |
| `autopay_world` | the same of autopay's books, the processor's own among them |
| `pending` | whether anything is still on its way |
| `report` | the verdict, and what it is made of |
"""

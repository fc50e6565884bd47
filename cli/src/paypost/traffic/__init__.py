"""Makes things happen on a running stack and measures what becomes of them.

| module | what it knows |
|---|---|
| `stripe` | payments as the processor sends them, many at once |
| `portal` | what the city's portal and its kiosks say, over Kafka or HTTP |
| `autopay` | what customers say of autopay on the portal |
| `bills` | what the CIS states of bills, as its feed does |
| `customers` | accounts at the CIS and how their customers are reached |
| `journeys` | how long payments took from accepted to posted to confirmed |
| `processes` | what each process cost: CPU seconds and resident memory |
"""

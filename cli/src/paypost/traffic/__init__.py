"""Makes things happen on a running stack and measures what becomes of them.

| module | what it knows |
|---|---|
| `stripe` | payments as the processor sends them, many at once |
| `portal` | what the city's portal and its kiosks say, over Kafka or HTTP |
| `customers` | accounts at the CIS and how their customers are reached |
| `journeys` | how long payments took from accepted to posted to confirmed |
| `processes` | what each process cost: CPU seconds and resident memory |
"""

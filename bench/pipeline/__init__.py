"""The benchmark of the whole pipeline: `python -m bench.pipeline --help`, and bench/README.md.

| module | what it knows |
|---|---|
| `load` | the payments of a run, and their real Stripe events |
| `generator` | sending them: as fast as they are answered, or at their own times |
| `books` | what the CIS and the mail sink hold of them, and whether that is each exactly once |
| `statistics` | percentiles, medians, ratios; pure |
| `readings` | what processes, the database and the disk say |
| `trial` | what a trial came to, and what makes it no result |
| `bed` | one trial's bed: fresh servers, a yardstick, the load, the proof |
| `frame` | how long the parts of a trial last; what a run is |
| `maxima`, `acknowledging`, `arrivals`, `starting` | what the runs do |
| `runs` | the runs of the table |
| `vegeta` | a generator that nobody here wrote, as a cross-check |
| `outages` | what a minute without Kafka or the CIS did; pure |
| `goals`, `verdicts` | what each run is held against, and whether it reaches it; pure |
| `session` | which trials in which order |
| `results`, `report`, `plots` | docs/benchmark |
| `sizing` | what peaks take that no single machine carries; pure |
| `terminal` | what people see meanwhile |
| `size`, `soak` | targets of their own: millions of payments held, an hour of load |
| `machine` | where all this was measured |
"""

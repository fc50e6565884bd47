"""The benchmark of the whole pipeline: `python -m bench.pipeline --help`, and bench/README.md.

| module | what it knows |
|---|---|
| `load` | the payments of a run, and their real Stripe events |
| `generator` | sending them: as fast as they are answered, or at their own times |
| `books` | what the CIS and the mail sink hold of them, and whether that is each exactly once |
| `statistics` | percentiles, medians, ratios; pure |
| `readings` | what processes, the database and the disk say |
| `bed` | one trial: fresh servers, a yardstick, the load, the proof |
| `runs` | the runs of the table, made of trials |
| `goals` | what each run is held against, and the verdict; pure |
| `outages` | what a minute without Kafka or the CIS did; pure |
| `report` | the table in the terminal, the pages and the plots |
| `machine` | where all this was measured |
"""

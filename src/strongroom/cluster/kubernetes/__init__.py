"""Driver and executors as pods of a Kubernetes cluster, made by Spark's own scheduler for Kubernetes (step 3).

Pure: `names`, `settings`, `template`, `render`, `operators`, `diagnosis`, `state`. Effects: `access` (whose cluster, by
which credentials), `client` (its API), `spark_submit` (Spark's submission client as a child), `submission` (one run's
objects, all or none), `follow` (what its pods tell), `runs` (runs that were submitted earlier).

All of it belongs to the untrusted host's side: what it does wrong costs availability, nothing else.
"""

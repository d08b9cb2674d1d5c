"""Looks for what is misconfigured before a training finds it, from this machine and from every node of a Ray cluster.

In: the cluster's address, the places that a training will use. Out: one line for each check, what was seen and what to
do. `python -m cluster.doctor --help` lists the options.

__main__   arguments, the checks of this machine, the job, the report
findings   the result of a check; results of many machines as one line; no secrets in any of them
machine    what one machine has: versions, disk, shared memory, GPUs
places     data, checkpoints and MLflow, tried from one machine
upload     what of the working directory travels with a job
verdicts   what the machines have -> results: do they agree, is it enough
nodes      the job: runs `machine` and `places` on every node, compares clocks
exchange   an all-reduce over all workers
"""

"""What a GPU gives, in one JSON file: `python -m tests.benchmarks.gpu --out gpu.json`, or `make bench-gpu`.

For a bare machine: torch, torchvision, numpy and Pillow are enough. Nothing is installed or fetched. Sections, in this
order; one that fails says why in the file, and the others go on:

    machine      what it is, and its peak in matrix products: fp32, TF32 and bf16, in TFLOP/s
    equality     losses of 10 steps of every network, CPU against GPU, in fp64, fp32 and bf16
    two_ranks    the same losses by two processes that share the GPU, over gloo, in fp64
    steps        images/s, GiB and share of the bf16 peak of training steps, beside plain AMP loops of torchvision
    reader       the share of a training's time spent waiting for data, read from shards on this machine's disk
    evaluation   images/s of an evaluation from shards, beside its forward passes alone
    town         the embedded default, trained as `make train` does, to its val/mIoU

`--small` does all of it on small inputs in a minute or two, also on a CPU: the test that it works.
"""

"""One network per file; the file's name is the network's name in `model.name`.

A file has a class `Options`, derived from `distseg.config.ModelConfig`: the network's options and `build`, which makes
it. A file that is added is found by its name. Files that begin with an underscore hold what several networks share.
"""

"""The extra terms of the loss: each file is one, found by its name, and offers `loss(LossBatch) -> Tensor`."""

"""distseg: distributed training of semantic segmentation networks on Ray, measured per weather condition."""

__version__ = "0.1.0"

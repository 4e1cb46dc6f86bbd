"""Which pretrained models exist, and where they are."""

"""The weights of me5-small-bert-zh, in the folder model; flagai finds them by name."""

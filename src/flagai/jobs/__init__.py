"""Jobs: a task over files of any size, in parts that are written whole, and continued after an interruption."""

"""How bytes travel from files to parameters."""

"""Who holds what: plans that say how parameters are cut over model-parallel ranks."""

"""From files and hubs to a checkpoint with canonical names."""

"""ostro runs Gemma 3 on the machine in front of you."""

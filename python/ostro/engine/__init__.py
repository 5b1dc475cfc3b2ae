"""From a prompt to events: scheduling, sampling, text."""

"""From a request to final token ids."""

"""ostro and its peers on the same files, threads and prompts: `python -m benches.compare --help`."""

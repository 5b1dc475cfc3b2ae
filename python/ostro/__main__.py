"""`python -m ostro` is the command line."""

from ostro.cli.main import main

if __name__ == "__main__":
    main()

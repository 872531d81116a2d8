"""`python -m tempomask`: the command line."""

from tempomask.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

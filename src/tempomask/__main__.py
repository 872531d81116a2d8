"""`python -m tempomask`: the command line."""

from tempomask.apps.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

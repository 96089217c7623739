"""`python -m medseg` is `medseg`."""

from medseg.apps.cli import main

if __name__ == "__main__":
    main()

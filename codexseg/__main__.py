"""``python -m codexseg`` is ``codexseg``."""

from codexseg.cli.app import main

if __name__ == "__main__":
    main()

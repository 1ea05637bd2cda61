"""``python -m codexseg`` is ``codexseg``."""

from codexseg.cli import main

if __name__ == "__main__":
    main()

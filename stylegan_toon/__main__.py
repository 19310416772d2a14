"""``python -m stylegan_toon`` is the command ``stylegan-toon``."""

from .cli import main

if __name__ == "__main__":
    main()

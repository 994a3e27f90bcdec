"""``python -m toolkit.cli`` is ``qtool``."""

from toolkit.cli.start import main

main()

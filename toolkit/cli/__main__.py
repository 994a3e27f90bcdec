"""``python -m toolkit.cli`` is ``qtool``."""

from toolkit.cli.main import main

main()

"""``python -m featcache``."""

from featcache.cli.main import main

main()

"""``python -m mmsparse`` where the console command is not on the path, as under a launcher."""

import sys

from mmsparse.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""``mmsparse app`` as a script."""

import sys

from mmsparse.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("app"))

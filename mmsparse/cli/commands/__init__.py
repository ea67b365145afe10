"""A module for each sub-command of ``mmsparse``: its description, ``add_arguments(parser)`` and ``run(args)``."""

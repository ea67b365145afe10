"""The porch: from a command line to a model, a runner or a loader, with every mistake told before the work begins."""

"""From a command line to objects: configurations, their guard, and messages about mistakes in them."""

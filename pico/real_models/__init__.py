"""Real models from packages: converts a published file into a checkpoint folder that the settings can name. `python -m pico.real_models --help`."""

"""Other libraries' models as denoisers on grids. Each file is one library, and imports nothing of it."""

"""Is the fit to be trusted? Simulation-based calibration of the whole path, and sizes left out and predicted."""

"""Figures of a fit, one file a figure; `write.write_plots` makes them all."""

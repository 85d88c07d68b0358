"""Sharp capacity scaling of spectral optimizers in associative memory (Kim et al. 2026)."""

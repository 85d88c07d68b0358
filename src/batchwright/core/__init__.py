"""What every room stands on: objectives, vectors, statistics, checks, errors and run records."""

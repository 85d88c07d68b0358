"""The critical batch size of several optimizers on a task of the user's own."""

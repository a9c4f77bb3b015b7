"""What a model can do, measured: whether it ends its turns."""

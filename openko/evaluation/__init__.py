"""What a model can do, measured: the harness's tasks, what it forgot, whether it ends its turns; and what others published."""

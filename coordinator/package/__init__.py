"""What a farm's user takes home: a wheel with the compiled model and all it needs to run."""

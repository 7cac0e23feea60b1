"""Who may do what: the farm's own certificate authority, and the guard of its ports."""

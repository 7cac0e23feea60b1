"""How a kind of device is described; one file per kind."""
